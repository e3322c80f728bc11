"""What all bases with a UNet on 4-channel latents share: the VAE, sizes, and what is refused."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lora_diffusion.errors import InputError
from lora_diffusion.families.base import DiffusionBase, LatentDistribution, Prediction
from lora_diffusion.families.outline import VAE
from lora_diffusion.keys import UNET

IN_CHANNELS = 4


class LatentUNet(DiffusionBase):
    """Everything of a Stable Diffusion but its prompts and its prediction."""

    usual_sample_size: int  # latents along one side, where a configuration does not say

    def __init__(
        self,
        *,
        arch: str,
        name: str,
        unet: Any,
        vae: Any,
        text_encoders: Mapping[str, nn.Module],
        scheduler_config: dict[str, Any],
        prediction: Prediction,
        clip_skip: int,
    ) -> None:
        if unet.config.in_channels != IN_CHANNELS:
            raise InputError(
                f"{name}: its UNet takes {unet.config.in_channels} channels, so it is an "
                "inpainting or editing model. Train on the plain model that it was made from."
            )
        for encoder in text_encoders.values():
            layers = len(_clip_layers(encoder))
            if clip_skip > layers:
                raise InputError(
                    f"model.clip_skip = {clip_skip}: the text encoder of {name} has {layers} "
                    "layers."
                )
        self.arch = arch
        self.name = name
        self.parts = {UNET: unet, **text_encoders}
        self._vae = vae
        self._put_off: dict[str, Callable[[], nn.Module]] = {}
        self.vae_dtype = vae.dtype
        self._has_vae_encoder = True
        self.scheduler_config = scheduler_config
        self.prediction = prediction
        self.clip_skip = clip_skip
        self.latent_factor = 2 ** (len(vae.config.block_out_channels) - 1)
        self.native_size_px = self._sample_size(unet) * self.latent_factor
        self.size_step_px = self.latent_factor * 2 ** (len(unet.config.block_out_channels) - 1)
        for model in (*self.parts.values(), vae):
            model.eval().requires_grad_(False)

    @property
    def vae(self) -> nn.Module:
        if VAE in self._put_off:
            self._vae = self._load(VAE)
            if not self._has_vae_encoder:
                self.free_vae_encoder()
        vae: nn.Module = self._vae
        return vae

    def put_off(self, parts: Mapping[str, Callable[[], nn.Module]]) -> None:
        """Load these parts when they are first used; until then empty models stand in for them."""
        self._put_off = dict(parts)

    @property
    def loaded(self) -> frozenset[str]:
        return frozenset({VAE, *self.parts}) - self._put_off.keys()

    @property
    @abstractmethod
    def tokenizers(self) -> Mapping[str, Any]:
        """Text-encoder part -> its tokenizer."""

    @property
    def latent_channels(self) -> int:
        return IN_CHANNELS

    @torch.no_grad()
    def encode_pictures(self, pixels: Tensor) -> LatentDistribution:
        vae: Any = self.vae
        # The VAE's own weights decide the precision: fp16 overflows in some of them.
        moments = vae.encode(pixels.to(vae.device, vae.dtype)).latent_dist
        return LatentDistribution(moments.mean.float(), moments.logvar.float())

    def scale_latents(self, latents: Tensor) -> Tensor:
        vae: Any = self._vae  # its configuration is there in any case
        scaled: Tensor = (latents - (vae.config.shift_factor or 0.0)) * vae.config.scaling_factor
        return scaled

    @torch.no_grad()
    def decode_latents(self, latents: Tensor) -> Tensor:
        vae: Any = self.vae
        unscaled = latents.float() / vae.config.scaling_factor + (vae.config.shift_factor or 0.0)
        pictures: Tensor = vae.decode(unscaled.to(vae.dtype)).sample
        return pictures.float()

    def free_text_encoders(self) -> None:
        for part in [part for part in self.parts if part != UNET]:
            del self.parts[part]
            self._put_off.pop(part, None)

    def free_vae_encoder(self) -> None:
        self._has_vae_encoder = False
        vae: Any = self._vae
        vae.encoder = None
        vae.quant_conv = None

    def _text_encoder(self, part: str) -> nn.Module:
        if part not in self.parts:
            raise RuntimeError("the text encoders were freed; encode prompts before that")
        if part in self._put_off:
            self.parts[part] = self._load(part)
        return self.parts[part]

    def _load(self, part: str) -> nn.Module:
        """Load a part that was put off."""
        return self._put_off.pop(part)().eval().requires_grad_(False)

    def _sample_size(self, unet: Any) -> int:
        size = unet.config.sample_size
        return size if isinstance(size, int) and size > 0 else self.usual_sample_size


def _clip_layers(encoder: nn.Module) -> Any:
    inner: Any = getattr(encoder, "text_model", encoder)
    return inner.encoder.layers
