"""Stable Diffusion 1.x: one CLIP text encoder, a UNet of 4-channel latents.

The parts of it that SD2 shares (all but the tables) are here too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lora_diffusion.errors import InputError
from lora_diffusion.families import prompts
from lora_diffusion.families.base import (
    Conditioning,
    DiffusionBase,
    LatentDistribution,
    Prediction,
)
from lora_diffusion.keys import TEXT_ENCODER, UNET

IN_CHANNELS = 4
USUAL_SAMPLE_SIZE = 64  # latents along one side, where a configuration does not say


class StableDiffusion(DiffusionBase):
    """A loaded SD1.x-class base; see `load_base`."""

    def __init__(
        self,
        *,
        arch: str,
        name: str,
        unet: Any,
        vae: Any,
        text_encoder: nn.Module,
        tokenizer: Any,
        scheduler_config: dict[str, Any],
        prediction: Prediction,
        clip_skip: int = 1,
    ) -> None:
        if unet.config.in_channels != IN_CHANNELS:
            raise InputError(
                f"{name}: its UNet takes {unet.config.in_channels} channels, so it is an "
                "inpainting or editing model. Train on the plain model that it was made from."
            )
        layers = len(_clip_layers(text_encoder))
        if clip_skip > layers:
            raise InputError(
                f"model.clip_skip = {clip_skip}: the text encoder of {name} has {layers} layers."
            )
        self.arch = arch
        self.name = name
        self.parts = {UNET: unet, TEXT_ENCODER: text_encoder}
        self.vae = vae
        self.tokenizer = tokenizer
        self.scheduler_config = scheduler_config
        self.prediction = prediction
        self.clip_skip = clip_skip
        self.latent_factor = 2 ** (len(vae.config.block_out_channels) - 1)
        self.native_size_px = _sample_size(unet) * self.latent_factor
        for model in (*self.parts.values(), vae):
            model.eval().requires_grad_(False)

    @property
    def latent_channels(self) -> int:
        return IN_CHANNELS

    @torch.no_grad()
    def encode_pictures(self, pixels: Tensor) -> LatentDistribution:
        vae: Any = self.vae
        # The VAE's own weights decide the precision: fp16 overflows in some of them.
        moments = vae.encode(pixels.to(self.device, vae.dtype)).latent_dist
        return LatentDistribution(moments.mean.float(), moments.logvar.float())

    def scale_latents(self, latents: Tensor) -> Tensor:
        vae: Any = self.vae
        scaled: Tensor = (latents - (vae.config.shift_factor or 0.0)) * vae.config.scaling_factor
        return scaled

    @torch.no_grad()
    def decode_latents(self, latents: Tensor) -> Tensor:
        vae: Any = self.vae
        unscaled = latents.float() / vae.config.scaling_factor + (vae.config.shift_factor or 0.0)
        pictures: Tensor = vae.decode(unscaled.to(vae.dtype)).sample
        return pictures.float()

    def encode_prompts(self, prompts_: Sequence[str], *, chunks: int | None = None) -> Conditioning:
        ids = prompts.token_chunks(self.tokenizer, prompts_, chunks)
        return Conditioning(prompts.encode(self._text_encoder(), ids, self.clip_skip))

    def prompt_chunks(self, prompt: str) -> int:
        return prompts.chunk_count(self.tokenizer, prompt)

    def count_tokens(self, prompt: str) -> int:
        return len(prompts.token_ids(self.tokenizer, prompt))

    def predict(self, noisy: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        output: Tensor = self.unet(
            noisy.to(self.dtype),
            timesteps,
            encoder_hidden_states=conditioning.context.to(self.dtype),
        ).sample
        return output

    def free_text_encoders(self) -> None:
        self.parts.pop(TEXT_ENCODER, None)

    def free_vae_encoder(self) -> None:
        vae: Any = self.vae
        vae.encoder = None
        vae.quant_conv = None

    def _text_encoder(self) -> nn.Module:
        if TEXT_ENCODER not in self.parts:
            raise RuntimeError("the text encoder was freed; encode prompts before that")
        return self.parts[TEXT_ENCODER]


def _clip_layers(encoder: nn.Module) -> Any:
    inner: Any = getattr(encoder, "text_model", encoder)
    return inner.encoder.layers


def _sample_size(unet: Any) -> int:
    size = unet.config.sample_size
    return size if isinstance(size, int) and size > 0 else USUAL_SAMPLE_SIZE
