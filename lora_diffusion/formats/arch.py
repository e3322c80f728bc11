"""Which Stable Diffusion an adapter is for, from names, shapes and metadata. No torch.

SD 1.x, 2.x and XL share most layer names. What tells them apart is the width of the text features
that cross-attention reads (768, 1024, 2048), the widths of the text encoders, their number, and the
names that only SDXL files use. Metadata break a tie; they never outvote the tensors.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from lora_diffusion.formats.header import refuse
from lora_diffusion.keys import TEXT_ENCODER, TEXT_ENCODER_2, UNET, LayerKey

ARCHS = ("sd15", "sd21", "sdxl")
ARCH_NAMES: Mapping[str, str] = MappingProxyType(
    {"sd15": "SD 1.x", "sd21": "SD 2.x", "sdxl": "SDXL"}
)

SDXL_ONLY = frozenset({"sdxl"})
NOT_SDXL = frozenset({"sd15", "sd21"})
_BY_TEXT_WIDTH = {768: frozenset({"sd15"}), 1024: frozenset({"sd21"}), 2048: SDXL_ONLY}
_BY_CLIP_WIDTH = {768: frozenset({"sd15", "sdxl"}), 1024: frozenset({"sd21"})}
_READS_TEXT = ("attn2.to_k", "attn2.to_v")
_READS_CLIP = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.fc1")


@dataclass(frozen=True)
class Evidence:
    """One thing that speaks for some architectures and excludes the others.

    Attributes:
        archs: those it allows.
        what: a phrase that names it: `the prefix 'lora_te2_'`.
        is_habit: whether it is a tool's habit only, so that firm evidence overrules it.
    """

    archs: frozenset[str]
    what: str
    is_habit: bool = False


def infer_arch(
    source: str | Path,
    weight_shapes: Mapping[LayerKey, tuple[int, ...]],
    from_names: Iterable[Evidence],
    stated: str | None,
) -> tuple[str, tuple[str, ...]]:
    """The architecture, and notes where it had to be assumed, or names or metadata say otherwise.

    Args:
        source: file name for messages.
        weight_shapes: base weight shape that each layer's factors imply.
        from_names: what the dialect's spelling tells.
        stated: what the metadata say.

    Raises:
        AdapterFileError: names and shapes contradict each other.
    """
    possible = frozenset(ARCHS)
    seen: list[Evidence] = []
    notes: list[str] = []
    found = (*from_names, *_from_layers(weight_shapes))
    for evidence in sorted(found, key=lambda e: e.is_habit):
        if not possible & evidence.archs:
            if evidence.is_habit:
                notes.append(
                    f"It has {evidence.what}, as {_listed(evidence.archs)} has, but is for "
                    f"{_listed(possible)}."
                )
                continue
            other = next((e for e in seen if not e.archs & evidence.archs), seen[-1])
            refuse(
                source,
                f"it contradicts itself: {other.what} means {_listed(other.archs)}, and "
                f"{evidence.what} means {_listed(evidence.archs)}",
                "It was put together wrongly; export it again with the tool that made it.",
            )
        possible &= evidence.archs
        seen.append(evidence)
    if stated in possible:
        return stated, tuple(notes)
    arch = next(arch for arch in ARCHS if arch in possible)
    if stated is not None:
        notes.append(f"The metadata says {stated}, the tensors say {arch}.")
    elif len(possible) == len(ARCHS):
        notes.append(f"Neither tensors nor metadata say which base it is for; {arch} assumed.")
    elif len(possible) > 1:
        notes.append(f"It fits {_listed(possible)}; {ARCH_NAMES[arch]} assumed.")
    return arch, tuple(notes)


def _from_layers(weight_shapes: Mapping[LayerKey, tuple[int, ...]]) -> list[Evidence]:
    """What layers and their widths tell: one piece for each kind."""
    found: dict[str, Evidence] = {}
    for key, shape in weight_shapes.items():
        width = shape[1]
        if key.part == TEXT_ENCODER_2:
            found.setdefault("te2", Evidence(SDXL_ONLY, "a second text encoder"))
        elif key.part == TEXT_ENCODER and key.path.endswith(_READS_CLIP):
            archs = _BY_CLIP_WIDTH.get(width)
            if archs:
                found.setdefault(f"te{width}", Evidence(archs, f"a text encoder {width} wide"))
        elif key.part == UNET:
            if key.path.endswith(_READS_TEXT) and width in _BY_TEXT_WIDTH:
                found.setdefault(
                    f"x{width}",
                    Evidence(_BY_TEXT_WIDTH[width], f"a cross-attention {width} wide"),
                )
            if key.path.startswith("add_embedding."):
                found.setdefault("add", Evidence(SDXL_ONLY, "an added embedding of picture sizes"))
    return list(found.values())


def _listed(archs: frozenset[str]) -> str:
    return " or ".join(ARCH_NAMES[arch] for arch in ARCHS if arch in archs)
