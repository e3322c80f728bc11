"""What a family of base models is to the rest of the house.

`DiffusionBase` is one loaded base: its models, and the few things in which families differ
(encoding pictures and prompts, predicting, noising). The training loop and the sampler speak to
this interface alone. `StableDiffusion` (1.x, 2.x) and `StableDiffusionXL` implement it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lora_diffusion.keys import UNET, LayerKey

Prediction = Literal["epsilon", "v_prediction"]


@dataclass(frozen=True)
class PictureSize:
    """Where a training picture or a drawing comes from, for families that are told (SDXL).

    Source: Podell et al., "SDXL" (arXiv:2307.01952), section 2.2. Sides are (height, width), px.

    Attributes:
        original_px: size before scaling and cropping.
        target_px: size of what the model sees.
        crop_px: (top, left) of the crop, in the scaled picture.
    """

    original_px: tuple[int, int]
    target_px: tuple[int, int]
    crop_px: tuple[int, int] = (0, 0)

    @staticmethod
    def whole(height_px: int, width_px: int) -> PictureSize:
        """A picture of that size, neither scaled nor cropped."""
        return PictureSize((height_px, width_px), (height_px, width_px))

    def ids(self) -> tuple[int, ...]:
        """Original size, crop, target size: the six numbers in SDXL's order."""
        return (*self.original_px, *self.crop_px, *self.target_px)


@dataclass(frozen=True, eq=False)
class Conditioning:
    """What prompts become.

    Attributes:
        context: token states for cross-attention, `[b, tokens, width]`.
        pooled: pooled text embedding, `[b, width]`, for families that use one.
        size_ids: size and crop numbers, `[b, 6]`, fp32, for families that use them. They are px
            and stay fp32: half precision can't tell neighbouring sizes apart.
    """

    context: Tensor
    pooled: Tensor | None = None
    size_ids: Tensor | None = None

    def to(self, device: torch.device, dtype: torch.dtype | None = None) -> Conditioning:
        return Conditioning(
            self.context.to(device, dtype),
            None if self.pooled is None else self.pooled.to(device, dtype),
            None if self.size_ids is None else self.size_ids.to(device),
        )

    def detach(self) -> Conditioning:
        return Conditioning(*(None if t is None else t.detach() for t in self._all()))  # type: ignore[arg-type]

    def __getitem__(self, rows: slice) -> Conditioning:
        return Conditioning(*(None if t is None else t[rows] for t in self._all()))  # type: ignore[arg-type]

    def _all(self) -> tuple[Tensor | None, ...]:
        return self.context, self.pooled, self.size_ids

    @staticmethod
    def cat(rows: Sequence[Conditioning]) -> Conditioning:
        """Stack along the batch; contexts must have equal token counts."""
        columns = zip(*(row._all() for row in rows), strict=True)
        return Conditioning(
            *(None if column[0] is None else torch.cat(column) for column in columns)  # type: ignore[arg-type]
        )


@dataclass(frozen=True, eq=False)
class LatentDistribution:
    """What the VAE says of pictures: `mean` and `logvar`, `[b, c, h/f, w/f]`, unscaled."""

    mean: Tensor
    logvar: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        """mean + std * noise; `noise` is standard normal of the same shape."""
        return self.mean + torch.exp(0.5 * self.logvar) * noise


class DiffusionBase(ABC):
    """A loaded base model. All models are in evaluation mode and frozen when handed out."""

    arch: str  # sd15, sd21, sdxl
    name: str  # short name for people and metadata
    prediction: Prediction
    parts: dict[str, nn.Module]  # what adapters go on: unet, text_encoder, …
    vae_dtype: torch.dtype  # the number format in which the VAE works
    location: Path  # the folder or file that it was loaded from
    scheduler_config: dict[str, Any]
    latent_factor: int  # pixels per latent, along one side
    native_size_px: int  # the side it was trained to draw
    size_step_px: int  # sides of pictures that the UNet halves evenly are multiples of it

    @property
    @abstractmethod
    def vae(self) -> nn.Module:
        """The VAE; loaded now if that was put off."""

    @property
    @abstractmethod
    def loaded(self) -> frozenset[str]:
        """Parts whose weights are in memory: all but those that loading put off."""

    @property
    def unet(self) -> nn.Module:
        return self.parts[UNET]

    @property
    def device(self) -> torch.device:
        return next(self.unet.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.unet.parameters()).dtype

    @property
    @abstractmethod
    def latent_channels(self) -> int:
        """Channels of a latent."""

    @abstractmethod
    def encode_pictures(self, pixels: Tensor) -> LatentDistribution:
        """Pictures `[b, 3, h, w]` in [-1, 1] -> what the VAE says of them (fp32, no gradient)."""

    @abstractmethod
    def scale_latents(self, latents: Tensor) -> Tensor:
        """VAE latents -> the space in which the UNet works."""

    @abstractmethod
    def decode_latents(self, latents: Tensor) -> Tensor:
        """UNet-space latents -> pictures `[b, 3, h, w]` in [-1, 1] (fp32, no gradient)."""

    @abstractmethod
    def encode_prompts(self, prompts: Sequence[str], *, chunks: int | None = None) -> Conditioning:
        """Prompts -> conditioning; gradients flow when a text-encoder adapter trains.

        Prompts over 75 tokens take several chunks of 75; all rows are padded to the longest, or
        to `chunks`.
        """

    def with_sizes(self, conditioning: Conditioning, sizes: Sequence[PictureSize]) -> Conditioning:
        """`conditioning` that also knows the size of each of its rows' pictures.

        Families that are not told sizes return it as it is.
        """
        return conditioning

    @abstractmethod
    def prompt_chunks(self, prompt: str) -> int:
        """How many 75-token chunks `prompt` needs, at least 1."""

    @abstractmethod
    def count_tokens(self, prompt: str) -> int:
        """Tokens of `prompt` without the start and end marks."""

    @abstractmethod
    def predict(self, noisy: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        """The UNet's output for latents `[b, c, h, w]` at `timesteps` `[b]`."""

    @abstractmethod
    def free_text_encoders(self) -> None:
        """Drop the text encoders from memory; prompts can't be encoded after that."""

    @abstractmethod
    def free_vae_encoder(self) -> None:
        """Drop what only encoding needs; decoding still works."""

    def shapes(self) -> dict[LayerKey, tuple[int, ...]]:
        """Weight shape of every layer that an adapter fits."""
        from lora_diffusion.injection import adaptable_shapes

        return adaptable_shapes(self.parts)
