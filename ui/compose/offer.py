"""What the tab is made of: bases, adapters, the blocks that have a weight, and how to draw."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lora_diffusion.errors import InputError
from lora_diffusion.families.outline import Outline, outline
from lora_diffusion.keys import TEXT_ENCODER_2
from trainers.layering import build_spec, read_preset
from trainers.spec import JobSpec, PreviewSpec
from ui import models, words
from ui.compose.cards import Adapter, Cards
from ui.context import Context

Json = dict[str, Any]
_MODELS = (("unet", "UNet"), ("text", "Text encoder"))
_TWO_TEXTS = (
    ("unet", "UNet"), ("text_encoder", "Text encoder 1"), ("text_encoder_2", "Text encoder 2")
)  # fmt: skip
_USUAL_SIZE_PX = 512
_DEMO_PRESET = "demo-character"


def offer(context: Context, cards: Cards, wanted: str) -> Json:
    """Everything the page shows for the base `wanted`, or for the one most adapters are for."""
    adapters = cards.all()
    bases = _bases(context, adapters)
    known = [value for _, value in bases]
    base = wanted if wanted in known else known[0]
    told = _outline(base)
    return {
        "base": base,
        "bases": bases,
        "reading": cards.library.progress,
        "problem": cards.library.problem,
        "cards": [cards.card(adapter, base) for adapter in adapters],
        "parts": _parts(told),
        "blocks": _blocks(told),
        "defaults": _defaults(base, told, adapters),
    }


def _bases(context: Context, adapters: list[Adapter]) -> list[tuple[str, str]]:
    """(label, location): those that runs trained on, newest first, then the rest."""
    used = [adapter.spec.model.base for adapter in adapters if adapter.spec]
    offered = {value: label for label, value in models.offered(context.models)}
    ordered = list(dict.fromkeys([*used, *offered]))
    return [(offered.get(value) or words.place(value), value) for value in ordered]


def _outline(base: str) -> Outline | None:
    try:
        return outline(base)
    except (InputError, OSError):
        return None  # cards and the first drawing say why


def _parts(told: Outline | None) -> list[tuple[str, str]]:
    two = told is not None and TEXT_ENCODER_2 in told.configs
    return list(_TWO_TEXTS if two else _MODELS)


def _blocks(told: Outline | None) -> list[tuple[str, str]]:
    """(name, label) of the UNet's levels from the picture's side in, through the middle, out."""
    config: Mapping[str, Any] = told.configs["unet"] if told else {}
    down = len(config.get("down_block_types") or range(4))
    up = len(config.get("up_block_types") or range(4))
    return [
        *((f"down.{n}", f"In {n + 1}") for n in range(down)),
        ("mid", "Middle"),
        *((f"up.{n}", f"Out {n + 1}") for n in range(up)),
    ]


def _defaults(base: str, told: Outline | None, adapters: list[Adapter]) -> Json:
    """Steps, guidance and size: as the newest run on this base drew its previews."""
    spec: JobSpec | None = next(
        (a.spec for a in adapters if a.spec and a.spec.model.base == base), None
    )
    if spec is None and base == models.DEMO_BASE:
        spec = build_spec([read_preset(_DEMO_PRESET)])
    preview = spec.preview if spec else PreviewSpec()
    size = preview.size_px or (spec.data.resolution_px if spec else None)
    return {
        "steps": preview.sampling_steps,
        "cfg": preview.cfg,
        "size": size or (told.native_size_px if told else _USUAL_SIZE_PX),
    }
