"""What lets an adapter's update through where it acts in a part of the picture only.

`regions` says what a region is and does; this has the layers' side of it: a gate for each adapted
layer of an adapter in a region, and cross-attention that reads several prompts.
"""

from __future__ import annotations

import re
from functools import partial
from typing import Any

from torch import Tensor, nn

from lora_diffusion.composition.regions import Region, Stage
from lora_diffusion.keys import UNET, LayerKey
from lora_diffusion.layers import Gate

_CONTEXT = re.compile(r".*\.attn2\.to_[kv]")
_OF_TIME = re.compile(r".*\.time_emb_proj")
_OF_WHOLE = re.compile(r"(time|add)_embedding\..*")


def gate_for(key: LayerKey, region: Region, stage: Stage, unet: nn.Module | None) -> Gate:
    """What lets the update of the layer `key` through, for an adapter in `region`."""
    name = region.name
    if region.window and key.part == UNET:
        return partial(_in_window, stage, name)
    if key.part != UNET or _CONTEXT.fullmatch(key.path):
        return partial(_where_read, stage, name)
    if _OF_WHOLE.fullmatch(key.path):
        return _never
    if _OF_TIME.fullmatch(key.path):
        assert unet is not None
        resnet: Any = unet.get_submodule(key.path.rpartition(".")[0])
        return _never if resnet.time_embedding_norm != "default" else TimeGate(stage, name, resnet)
    return partial(_masked, stage, name)


def _where_read(stage: Stage, region: str, update: Tensor) -> Tensor | None:
    return update if stage.reading == region else None


def _never(update: Tensor) -> Tensor | None:
    return None


def _in_window(stage: Stage, region: str, update: Tensor) -> Tensor | None:
    return update if stage.window == region else None


def _masked(stage: Stage, region: str, update: Tensor) -> Tensor | None:
    return None if stage.window is not None else update * stage.over(region, update)


class TimeGate:
    """Adds a timestep projection's update `[b, c]` where the resnet has a map to add it to.

    The resnet adds the projection to its first convolution's output and normalises the sum, so the
    masked update is added just before that norm.
    """

    def __init__(self, stage: Stage, region: str, resnet: Any) -> None:
        self._stage, self._region = stage, region
        self._update: Tensor | None = None
        self._hook = resnet.norm2.register_forward_pre_hook(self._add)

    def __call__(self, update: Tensor) -> Tensor | None:
        self._update = None if self._stage.window is not None else update
        return None

    def _add(self, _norm: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor] | None:
        if self._update is None:
            return None
        (features,) = inputs  # [b, c, h, w]
        update = self._update[:, :, None, None] * self._stage.over(self._region, features)
        self._update = None
        return (features + update.to(features.dtype),)

    def close(self) -> None:
        self._hook.remove()


class RegionalAttention:
    """A cross-attention processor of diffusers that reads each region's prompt and mixes.

    All that follows attention inside the processor is affine, so that mixing behind it, by shares
    that add up to 1, is mixing attention itself.
    """

    def __init__(self, inner: Any, stage: Stage) -> None:
        self.inner = inner
        self._stage = stage

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        """Attention's output `[b, h * w, c]` for `hidden_states` of that shape."""
        assert encoder_hidden_states is not None
        if self._stage.window is not None:  # a picture of its own, with one prompt
            return self._read(attn, hidden_states, encoder_hidden_states, attention_mask)
        mixed: Tensor | None = None
        for region, share in self._stage.shares(hidden_states).items():
            context = encoder_hidden_states
            if region is None:
                if not share.any():
                    continue
            else:
                context = self._stage.context(region, context)
            self._stage.reading = region
            output = self._read(attn, hidden_states, context, attention_mask)
            mixed = output * share if mixed is None else mixed + output * share
        self._stage.reading = None
        assert mixed is not None
        return mixed

    def _read(
        self, attn: Any, hidden_states: Tensor, context: Tensor, attention_mask: Tensor | None
    ) -> Tensor:
        output: Tensor = self.inner(
            attn, hidden_states, encoder_hidden_states=context, attention_mask=attention_mask
        )
        return output


def set_attention(unet: Any, stage: Stage | None) -> None:
    """Let the UNet's cross-attention read regions; None puts its own processors back."""
    for path, module in unet.named_modules():
        if not path.endswith(".attn2"):
            continue
        inner = module.processor
        inner = inner.inner if isinstance(inner, RegionalAttention) else inner
        module.set_processor(inner if stage is None else RegionalAttention(inner, stage))
