"""Stable Diffusion 1.x and 2.x: one CLIP text encoder, a UNet of 4-channel latents.

They differ in tables alone. 1.x reads OpenAI's CLIP-L, 2.x OpenCLIP-H without its last layer
(23 of 24), which the checkpoint's loader has already left out; both take the final norm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from lora_diffusion.families import prompts
from lora_diffusion.families.base import Conditioning, Prediction
from lora_diffusion.families.latent_unet import LatentUNet
from lora_diffusion.keys import TEXT_ENCODER


class StableDiffusion(LatentUNet):
    """A loaded base of SD1.x's or SD2.x's class; see `load_base`.

    Its context is `[b, chunks * 77, width]` (768 in SD1.x, 1024 in SD2.x); it has no pooled
    embedding and is not told sizes. clip_skip n takes the n-th layer from the end.
    """

    usual_sample_size = 64

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
        super().__init__(
            arch=arch,
            name=name,
            unet=unet,
            vae=vae,
            text_encoders={TEXT_ENCODER: text_encoder},
            scheduler_config=scheduler_config,
            prediction=prediction,
            clip_skip=clip_skip,
        )
        self.tokenizer = tokenizer

    @property
    def tokenizers(self) -> Mapping[str, Any]:
        return {TEXT_ENCODER: self.tokenizer}

    def encode_prompts(self, prompts_: Sequence[str], *, chunks: int | None = None) -> Conditioning:
        ids = prompts.token_chunks(self.tokenizer, prompts_, chunks)
        return Conditioning(prompts.encode(self._text_encoder(TEXT_ENCODER), ids, self.clip_skip))

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
