"""What a UNet predicts, told from its answer to noise, where its file does not say."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from lora_diffusion.families.base import Prediction

_SIDE = 16  # latents
_LAST_TIMESTEP = 999
_USUAL_PX = 1024
# Cosine between the input and an epsilon network's output is near 1, a v network's near 0.
_THRESHOLD = 0.5


@torch.no_grad()
def prediction_of(unet: nn.Module) -> Prediction:
    """`epsilon` or `v_prediction`, by one pass over 16 x 16 latents at the last timestep.

    There the input x is nearly all noise e: x = sqrt(abar) x_0 + sqrt(1 - abar) e with abar =
    0.0047. A network that predicts e gives its input back; one that predicts
    v = sqrt(abar) e - sqrt(1 - abar) x_0 gives minus a picture, which has nothing to do with x.
    """
    network: Any = unet
    weight = next(unet.parameters())
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(1, network.config.in_channels, _SIDE, _SIDE, generator=generator)
    context = torch.zeros(1, 77, network.config.cross_attention_dim)
    output = network(
        noise.to(weight),
        _LAST_TIMESTEP,
        encoder_hidden_states=context.to(weight),
        added_cond_kwargs=_told(network.config, weight),
    ).sample
    cosine = torch.cosine_similarity(output.float().cpu().flatten(), noise.flatten(), dim=0)
    return "epsilon" if float(cosine) > _THRESHOLD else "v_prediction"


def _told(config: Any, weight: torch.Tensor) -> dict[str, torch.Tensor]:
    """What SDXL's UNet is told besides: an empty prompt's pooled embedding, and a usual size."""
    if config.addition_embed_type != "text_time":
        return {}
    sizes = torch.tensor([[_USUAL_PX, _USUAL_PX, 0, 0, _USUAL_PX, _USUAL_PX]], device=weight.device)
    numbers = sizes.shape[1] * config.addition_time_embed_dim
    pooled = torch.zeros(1, config.projection_class_embeddings_input_dim - numbers)
    return {"text_embeds": pooled.to(weight), "time_ids": sizes}
