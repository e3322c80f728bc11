"""The kohya dialect by names and shapes alone: which tensors make which layer. No torch.

Key: `PREFIX_FLAT-PATH.LEAF`, with exactly one dot before the leaf. Leaves: `lora_down.weight`
`[r, in]` (convolution `[r, in, kh, kw]`), `lora_up.weight` `[out, r]` (`[out, r, 1, 1]`), `alpha`
(scalar). Everything that can be refused without reading a tensor is refused here, above all
factors whose product would be enormous: under a megabyte of factors can stand for 80 GB of update.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Final

from lora_diffusion.errors import printable
from lora_diffusion.formats.header import Header, refuse
from lora_diffusion.formats.layer_names import by_flat_name, flatten
from lora_diffusion.keys import TEXT_ENCODER, UNET, LayerKey

Shape = tuple[int, ...]

PREFIXES: Final[Mapping[str, str]] = MappingProxyType(
    {UNET: "lora_unet_", TEXT_ENCODER: "lora_te_"}
)
DOWN, UP, ALPHA = "lora_down.weight", "lora_up.weight", "alpha"
_LEAVES = (DOWN, UP, ALPHA)

MAX_LAYER_ELEMENTS = 1 << 27  # four times the largest layer of SDXL; 512 MiB in fp32
MAX_ADAPTER_BYTES = 16 << 30
MAX_SCALE = 1_000.0  # alpha / rank
ALPHA_BYTES = 8


@dataclass(frozen=True)
class LayerLayout:
    """One layer as the file spells it.

    Attributes:
        key: which layer of the base it belongs to.
        stem: the part of the tensor names before the dot.
        has_alpha: whether the file states alpha (else it counts as the rank).
        rank: r.
        weight_shape: shape of the base weight that the factors imply: `[out, in]` or
            `[out, in, kh, kw]`.
        base_shape: shape of the base weight where the base is known. Differs from `weight_shape`
            at most by trailing 1 x 1, as linear layers and 1 x 1 convolutions are the same thing.
    """

    key: LayerKey
    stem: str
    has_alpha: bool
    rank: int
    weight_shape: Shape
    base_shape: Shape | None = None

    @property
    def down(self) -> str:
        return f"{self.stem}.{DOWN}"

    @property
    def up(self) -> str:
        return f"{self.stem}.{UP}"

    @property
    def alpha(self) -> str:
        return f"{self.stem}.{ALPHA}"


@cache
def stem_table() -> Mapping[str, LayerKey]:
    """Stem -> layer, of every layer of SD 1.x and 2.x; shared and fixed.

    Source of the prefixes: kohya-ss/sd-scripts, networks/lora.py.
    """
    return MappingProxyType(
        {
            prefix + name: key
            for part, prefix in PREFIXES.items()
            for name, key in by_flat_name(part).items()
        }
    )


def stem_of(key: LayerKey) -> str | None:
    """How kohya-style files for SD 1.x and 2.x spell `key`; None if they cannot."""
    prefix = PREFIXES.get(key.part)
    if prefix is None:
        return None
    stem = prefix + flatten(key.path)
    return stem if stem_table().get(stem) == key else None


def lay_out(
    source: str | Path,
    shapes: Mapping[str, Shape],
    table: Mapping[str, LayerKey],
    base_shapes: Mapping[LayerKey, Shape] | None = None,
) -> tuple[LayerLayout, ...]:
    """Group tensors into layers; each tensor is accounted for or the file is refused.

    Args:
        source: file name for messages.
        shapes: tensor name -> shape.
        table: stem -> layer.
        base_shapes: weight shape of each layer of the base, to refuse what does not fit it.

    Raises:
        AdapterFileError: a tensor belongs to no known layer or leaf, a layer is incomplete, its
            factors don't match each other or the base, or their product is absurdly large.
    """
    stems: dict[str, set[str]] = {}
    for name in shapes:
        stem, dot, leaf = name.partition(".")
        if not dot or stem not in table:
            refuse(
                source,
                f"the tensor '{printable(name)}' belongs to no layer of a Stable Diffusion 1.x or "
                "2.x model",
                "It is made for another kind of model, or by an unknown tool.",
            )
        if leaf not in _LEAVES:
            refuse(
                source,
                f"the tensor '{printable(name)}' is no part of a LoRA "
                f"('{printable(leaf)}' isn't supported yet)",
                "Only lora_down, lora_up and alpha are read so far.",
            )
        stems.setdefault(stem, set()).add(leaf)
    if not stems:
        refuse(source, "it holds no tensors", "Give a LoRA file.")
    return tuple(
        _layer(source, shapes, table[stem], stem, leaves, base_shapes)
        for stem, leaves in stems.items()
    )


def check_header(header: Header) -> None:
    """Refuse what no LoRA needs: integer factors, or more bytes than the largest one has.

    Raises:
        AdapterFileError
    """
    if header.file_bytes > MAX_ADAPTER_BYTES:
        refuse(header.path, f"it has {header.file_bytes} bytes, more than any LoRA")
    for name, entry in header.tensors.items():
        if not entry.dtype.startswith(("F", "BF")) and not name.endswith("." + ALPHA):
            refuse(
                header.path,
                f"tensor '{name}' holds {entry.dtype}, not floating-point numbers",
                "Quantised adapters aren't supported.",
            )


def checked_alpha(source: str | Path, stem: str, alpha: float, rank: int) -> float:
    """`alpha` if it can be meant.

    Raises:
        AdapterFileError: it is zero, negative, not finite, or over `MAX_SCALE` times the rank.
    """
    if not math.isfinite(alpha) or not 0 < alpha <= MAX_SCALE * rank:
        refuse(
            source,
            f"the alpha of '{stem}' is {alpha:g} at rank {rank}",
            "It must be above 0 and no absurd multiple of the rank.",
        )
    return alpha


def missing_alpha_notes(layers: tuple[LayerLayout, ...]) -> tuple[str, ...]:
    """A note for the reader if some layers do not state their alpha."""
    missing = sum(not layer.has_alpha for layer in layers)
    if not missing:
        return ()
    return (f"{missing} of {len(layers)} layers state no alpha; it counts as their rank there.",)


def infer_arch(layers: tuple[LayerLayout, ...], stated: str | None) -> tuple[str, str | None]:
    """The architecture the shapes show, else the `stated` one, else SD 1.5.

    SD 1.x and 2.x share names. What tells them apart is the width of the text features that
    cross-attention reads (768 or 1024), and the width of the text encoder itself.

    Returns:
        `sd15` or `sd21` (or what was stated), and a note where it had to be assumed.
    """
    by_width = {768: "sd15", 1024: "sd21"}
    for layer in layers:
        path = layer.key.path
        reads_text = path.endswith(("attn2.to_k", "attn2.to_v"))
        if reads_text or path.endswith(("self_attn.q_proj", "self_attn.k_proj", "mlp.fc1")):
            arch = by_width.get(layer.weight_shape[1])
            if arch:
                return arch, None
    if stated:
        return stated, None
    return "sd15", "Neither shapes nor metadata say which Stable Diffusion it is for; sd15 assumed."


def _layer(
    source: str | Path,
    shapes: Mapping[str, Shape],
    key: LayerKey,
    stem: str,
    leaves: set[str],
    base_shapes: Mapping[LayerKey, Shape] | None,
) -> LayerLayout:
    for leaf in (DOWN, UP):
        if leaf not in leaves:
            refuse(source, f"the layer '{stem}' has no {leaf}", "The file is incomplete.")
    down, up = shapes[f"{stem}.{DOWN}"], shapes[f"{stem}.{UP}"]
    rank = down[0] if down else 0
    if len(down) not in (2, 4) or len(up) != len(down) or up[2:] != (1,) * (len(up) - 2):
        refuse(
            source, f"the factors of '{stem}' have shapes {list(down)} and {list(up)}, not LoRA's"
        )
    if up[1] != rank:
        refuse(source, f"the factors of '{stem}' disagree about the rank: {rank} and {up[1]}")
    if ALPHA in leaves and math.prod(shapes[f"{stem}.{ALPHA}"]) != 1:
        refuse(source, f"the alpha of '{stem}' is not one number")
    weight_shape = (up[0], *down[1:])
    base_shape = None
    if base_shapes is not None:
        base_shape = _fitting(source, key, weight_shape, base_shapes)
    largest = max(math.prod(s) for s in (weight_shape, down, up))
    if largest > MAX_LAYER_ELEMENTS:
        refuse(
            source,
            f"the layer '{stem}' would need {largest:.2g} numbers, more than any layer of a "
            "Stable Diffusion model",
            "It is broken or made to exhaust memory.",
        )
    return LayerLayout(key, stem, ALPHA in leaves, rank, weight_shape, base_shape)


def _fitting(
    source: str | Path, key: LayerKey, shape: Shape, base_shapes: Mapping[LayerKey, Shape]
) -> Shape:
    base_shape = base_shapes.get(key)
    if base_shape is None:
        refuse(source, f"the base has no layer '{key}'", "The LoRA is made for another base.")
    base_shape = tuple(base_shape)
    if _without_unit_kernel(shape) != _without_unit_kernel(base_shape):
        refuse(
            source,
            f"'{key}' is made for a weight of shape {list(shape)}, and the base has "
            f"{list(base_shape)} there",
            "The LoRA is made for another base.",
        )
    return base_shape


def _without_unit_kernel(shape: Shape) -> Shape:
    return shape[:2] if shape[2:] == (1, 1) else shape
