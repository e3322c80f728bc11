"""Stable Diffusion XL and what was made from it (Pony, Illustrious, NoobAI).

Source: Podell et al., "SDXL: Improving Latent Diffusion Models for High-Resolution Image
Synthesis" (arXiv:2307.01952), section 2: two text encoders, and a UNet that is told the picture's
size and crop.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lora_diffusion.families import prompts
from lora_diffusion.families.base import Conditioning, PictureSize, Prediction
from lora_diffusion.families.latent_unet import LatentUNet
from lora_diffusion.keys import TEXT_ENCODER, TEXT_ENCODER_2

# SDXL was made on the layer before the last, so that is as near to the end as it is ever read.
PENULTIMATE = 2


class StableDiffusionXL(LatentUNet):
    """A loaded SDXL base; see `load_base`.

    Prompts: context `[b, chunks * 77, 768 + 1280]` is the states of CLIP-L and of OpenCLIP-bigG
    side by side, each of the layer before the last and without its final norm. `pooled`
    `[b, 1280]` is bigG's projected end-of-text state; of a prompt of several chunks, the first's.

    Clip skip: n takes the n-th layer from the end, in both encoders. 1 and 2 are the same, the
    layer before the last, which is what A1111 does at either setting and what the authors of
    Pony and Illustrious mean by "clip skip 2". diffusers counts the layers skipped beyond that
    one: its 1 is our 3.

    Empty prompts: all zeros, context and pooled, where `zero_empty` is true. SDXL was trained
    with conditions dropped to zero, and diffusers (`force_zeros_for_empty_prompt`, true in SDXL's
    own `model_index.json`) and A1111 draw so when no negative prompt is given. It holds for
    dropped captions in training as well. False encodes the empty text.
    """

    usual_sample_size = 128

    def __init__(
        self,
        *,
        arch: str,
        name: str,
        unet: Any,
        vae: Any,
        text_encoder: nn.Module,
        text_encoder_2: nn.Module,
        tokenizer: Any,
        tokenizer_2: Any,
        scheduler_config: dict[str, Any],
        prediction: Prediction,
        clip_skip: int = 1,
        zero_empty: bool = True,
    ) -> None:
        super().__init__(
            arch=arch,
            name=name,
            unet=unet,
            vae=vae,
            text_encoders={TEXT_ENCODER: text_encoder, TEXT_ENCODER_2: text_encoder_2},
            scheduler_config=scheduler_config,
            prediction=prediction,
            clip_skip=clip_skip,
        )
        self.tokenizer = tokenizer
        self.tokenizer_2 = tokenizer_2
        self.zero_empty = zero_empty

    @property
    def tokenizers(self) -> Mapping[str, Any]:
        return {TEXT_ENCODER: self.tokenizer, TEXT_ENCODER_2: self.tokenizer_2}

    def encode_prompts(self, prompts_: Sequence[str], *, chunks: int | None = None) -> Conditioning:
        layer = max(PENULTIMATE, self.clip_skip)
        needed = max(self.prompt_chunks(prompt) for prompt in prompts_)
        states = []
        pooled = torch.empty(0)
        for part, tokenizer in self.tokenizers.items():
            ids = prompts.token_chunks(tokenizer, prompts_, max(needed, chunks or 1))
            encoded, pooled = prompts.encode_layer(self._text_encoder(part), ids, layer)
            states.append(encoded)
        context = torch.cat(states, dim=-1)
        if self.zero_empty:
            keep = torch.tensor([float(prompt != "") for prompt in prompts_]).to(context)
            context, pooled = context * keep[:, None, None], pooled * keep[:, None]
        return Conditioning(context, pooled)

    def with_sizes(self, conditioning: Conditioning, sizes: Sequence[PictureSize]) -> Conditioning:
        ids = torch.tensor([size.ids() for size in sizes], dtype=torch.float32)
        return Conditioning(
            conditioning.context, conditioning.pooled, ids.to(conditioning.context.device)
        )

    def prompt_chunks(self, prompt: str) -> int:
        return max(prompts.chunk_count(words, prompt) for words in self.tokenizers.values())

    def count_tokens(self, prompt: str) -> int:
        return max(len(prompts.token_ids(words, prompt)) for words in self.tokenizers.values())

    def predict(self, noisy: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        """The UNet's output; without `size_ids`, as for whole pictures of the latents' size."""
        if conditioning.size_ids is None:
            height, width = (side * self.latent_factor for side in noisy.shape[-2:])
            conditioning = self.with_sizes(
                conditioning, [PictureSize.whole(height, width)] * len(noisy)
            )
        assert conditioning.pooled is not None
        output: Tensor = self.unet(
            noisy.to(self.dtype),
            timesteps,
            encoder_hidden_states=conditioning.context.to(self.dtype),
            added_cond_kwargs={
                "text_embeds": conditioning.pooled.to(self.dtype),
                "time_ids": conditioning.size_ids,
            },
        ).sample
        return output
