"""An adapter file as consumers see it: tensor names, shapes and the numbers of alpha. No torch.

Names are split into a stem and a known leaf, nothing more: which layer a stem means is each
consumer's own business.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lora_diffusion.errors import printable
from lora_diffusion.formats.arch import ARCHS
from lora_diffusion.formats.header import refuse
from lora_diffusion.formats.metadata import parsed, stated_arch
from lora_diffusion.formats.peft_config import layer_alphas
from lora_diffusion.formats.raw import read_number, scan_finite
from lora_diffusion.formats.reading import open_adapter, refuse_others
from lora_diffusion.keys import PARTS

Shape = tuple[int, ...]

KOHYA, PEFT, PLAIN, TEXT, PROCESSOR = "kohya", "peft", "plain", "text", "processor"
# Suffix -> how the pair of factors is spelled ("" where that says nothing), and which tensor it is.
_LEAVES: Mapping[str, tuple[str, str]] = {
    ".lora_down.weight": (KOHYA, "down"),
    ".lora_up.weight": (KOHYA, "up"),
    ".lora_mid.weight": (KOHYA, "mid"),
    ".lora_A.weight": (PEFT, "down"),
    ".lora_B.weight": (PEFT, "up"),
    ".lora.down.weight": (PLAIN, "down"),
    ".lora.up.weight": (PLAIN, "up"),
    ".lora_linear_layer.down.weight": (TEXT, "down"),
    ".lora_linear_layer.up.weight": (TEXT, "up"),
    "_lora.down.weight": (PROCESSOR, "down"),
    "_lora.up.weight": (PROCESSOR, "up"),
    ".lora_magnitude_vector": ("", "magnitude"),
    ".lora_magnitude_vector.weight": ("", "magnitude"),
    ".alpha": ("", "alpha"),
    ".dora_scale": ("", "dora_scale"),
    **{f".hada_{leaf}": ("", f"hada_{leaf}")
       for leaf in ("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2")},
    **{f".lokr_{leaf}": ("", f"lokr_{leaf}")
       for leaf in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2")},
    **{f".{leaf}.weight": ("", leaf) for leaf in ("a1", "a2", "b1", "b2")},
    **{f".{leaf}": ("", leaf) for leaf in ("diff", "diff_b", "w_norm", "b_norm")},
}  # fmt: skip
_BY_LENGTH = sorted(_LEAVES, key=len, reverse=True)
# Kind -> a leaf that only it has; first match wins.
_KINDS = (
    ("tucker", "mid"), ("lora", "down"), ("lora", "up"), ("loha", "hada_w1_a"),
    ("lokr", "lokr_w1"), ("lokr", "lokr_w1_a"), ("glora", "a1"), ("full", "diff"),
    ("full", "diff_b"), ("norm", "w_norm"),
)  # fmt: skip
KIND_WORDS = {
    "lora": "LoRA", "tucker": "Tucker's lora_mid", "loha": "LoHa", "lokr": "LoKr",
    "glora": "GLoRA", "full": "full differences", "norm": "trained norms",
    "": "an unknown kind of layer",
}  # fmt: skip
_READS_TEXT = re.compile(r"attn2[._](?:processor\.)?to_[kv]")
_READS_CLIP = re.compile(r"self_attn[._]\w+")
_BY_WIDTH = {768: "sd15", 1024: "sd21", 2048: "sdxl"}
_SDXL_NAME = re.compile(
    r"lora_te2_|text_encoder_2[./]|lora_unet_(input|middle|output)_block|.*add_embedding"
)


@dataclass(frozen=True)
class Module:
    """The tensors that share a stem.

    Attributes:
        stem: the name without the leaf.
        spelling: how its factors are spelled; "" for other kinds.
        names: leaf -> tensor name.
        shapes: leaf -> shape.
        alpha: as its tensor says; None without one.
        stated_alpha: as a configuration in the metadata says; None without one.
    """

    stem: str
    spelling: str
    names: Mapping[str, str]
    shapes: Mapping[str, Shape]
    alpha: float | None = None
    stated_alpha: float | None = None

    @property
    def kind(self) -> str:
        """`lora`, `tucker`, `loha`, `lokr`, `glora`, `full`, `norm`, or "" for none of them."""
        return next((kind for kind, leaf in _KINDS if leaf in self.names), "")

    @property
    def is_whole(self) -> bool:
        """Whether no factor of a LoRA is missing."""
        return self.kind not in ("lora", "tucker") or {"down", "up"} <= self.names.keys()

    @property
    def rank(self) -> int | None:
        """r, which alpha is divided by; None for kinds without (a LoKr of two whole factors)."""
        for leaf in ("down", "hada_w1_b", "lokr_w1_b", "lokr_w2_b"):
            if self.shapes.get(leaf):
                return self.shapes[leaf][0]
        return None

    @property
    def meant_alpha(self) -> float | None:
        """alpha, by which the file means alpha / rank * up @ down; None where it has no rank."""
        if self.rank is None:
            return None
        told = self.stated_alpha if self.alpha is None else self.alpha
        return float(self.rank) if told is None else told

    @property
    def magnitude_axis(self) -> str | None:
        """Whose channels `dora_scale` has one number for: `in`, `out`; None without one."""
        shape = self.shapes.get("dora_scale")
        return None if shape is None else ("in" if shape[:1] == (1,) else "out")

    @property
    def elements(self) -> int | None:
        """How many numbers the update has; None for kinds that are not worked out here."""
        s = self.shapes
        if self.kind in ("lora", "tucker") and self.is_whole:
            kernel = s["mid"][2:] if "mid" in s else ()
            return s["up"][0] * math.prod(s["down"][1:]) * math.prod(kernel)
        if self.kind == "loha" and {"hada_w1_a", "hada_w1_b"} <= s.keys():
            if "hada_t1" in s:
                return s["hada_w1_a"][1] * s["hada_w1_b"][1] * math.prod(s["hada_t1"][2:])
            return s["hada_w1_a"][0] * s["hada_w1_b"][1]
        if self.kind == "lokr":
            first, second = self._lokr_factor("lokr_w1"), self._lokr_factor("lokr_w2")
            return None if first is None or second is None else first * second
        return math.prod(s["diff"]) if "diff" in s else None

    @property
    def inputs(self) -> int:
        """Inputs of the layer; 0 where the kind does not tell them simply."""
        widths = {leaf: shape[1] for leaf, shape in self.shapes.items() if len(shape) > 1}
        second = widths.get("lokr_w2", widths.get("lokr_w2_b", 0))
        first = widths.get("lokr_w1", widths.get("lokr_w1_b", 0))
        return widths.get("down", widths.get("hada_w1_b", first * second))

    def _lokr_factor(self, leaf: str) -> int | None:
        s = self.shapes
        if leaf in s:
            return math.prod(s[leaf])
        if not {f"{leaf}_a", f"{leaf}_b"} <= s.keys():
            return None
        if leaf == "lokr_w2" and "lokr_t2" in s:
            return s[f"{leaf}_a"][1] * s[f"{leaf}_b"][1] * math.prod(s["lokr_t2"][2:])
        return s[f"{leaf}_a"][0] * s[f"{leaf}_b"][1]


@dataclass(frozen=True)
class FileView:
    """One adapter file.

    Attributes:
        path: file or folder.
        format: the dialect that the names belong to.
        shapes: tensor name -> shape, in the order of the file.
        modules: tensors with a known leaf, grouped.
        strays: other tensors.
        arch: the architecture that names and widths tell, else the metadata; None without either.
        metadata: the header's strings.
    """

    path: Path
    format: str
    shapes: Mapping[str, Shape]
    modules: tuple[Module, ...]
    strays: tuple[str, ...]
    arch: str | None
    metadata: Mapping[str, str] = field(default_factory=dict)


def view_file(path: str | Path) -> FileView:
    """Read names, shapes and alphas of `path`, in any dialect and of any kind.

    Raises:
        AdapterFileError: missing, broken, hostile, not an adapter, or with NaN or infinity in it.
    """
    opened = open_adapter(path)
    refuse_others(opened)
    numbers: dict[str, float] = {}
    try:
        for piece in opened.pieces:
            scan_finite(piece.header)
            with piece.header.path.open("rb") as file:
                for name, entry in piece.header.tensors.items():
                    if name.endswith(".alpha") and entry.elements == 1:
                        numbers[piece.label(name)] = read_number(file, piece.header, name)
    except OSError as error:
        refuse(opened.path, f"it cannot be read ({printable(error)})")
    return view(opened.path, opened.dialect.format, opened.shapes(), numbers, opened.metadata)


def view(
    path: Path,
    format: str,
    shapes: Mapping[str, Shape],
    numbers: Mapping[str, float],
    metadata: Mapping[str, str],
) -> FileView:
    """`view_file` for what is read already; `numbers` are alphas by tensor name."""
    grouped: dict[str, dict[str, str]] = {}
    spellings: dict[str, str] = {}
    strays = []
    for name in shapes:
        suffix = next((s for s in _BY_LENGTH if name.endswith(s)), None)
        if suffix is None:
            strays.append(name)
            continue
        spelling, leaf = _LEAVES[suffix]
        stem = name.removesuffix(suffix)
        grouped.setdefault(stem, {})[leaf] = name
        if spelling:
            spellings[stem] = spelling
    ranks = {s: shapes[n["down"]][0] for s, n in grouped.items() if shapes.get(n.get("down", ""))}
    stated = _configured(path, metadata, ranks)
    modules = tuple(
        Module(
            stem,
            spellings.get(stem, ""),
            names,
            {leaf: shapes[name] for leaf, name in names.items()},
            numbers.get(names.get("alpha", "")),
            stated.get(stem),
        )
        for stem, names in grouped.items()
    )
    arch = _arch(modules, shapes) or stated_arch(metadata)
    return FileView(path, format, shapes, modules, tuple(strays), arch, metadata)


def _configured(
    path: Path, metadata: Mapping[str, str], ranks: Mapping[str, int]
) -> dict[str, float]:
    """alpha by stem, where diffusers wrote PEFT's configuration into the metadata."""
    fields = parsed(metadata.get("lora_adapter_metadata", ""))
    found: dict[str, float] = {}
    if not isinstance(fields, dict):
        return found
    for part in PARTS:
        config = {
            k.removeprefix(f"{part}."): v for k, v in fields.items() if k.startswith(f"{part}.")
        }
        own = {s.removeprefix(f"{part}."): r for s, r in ranks.items() if s.startswith(f"{part}.")}
        if config and own:
            alphas = layer_alphas(path, config, own)
            found |= {f"{part}.{stem}": alpha for stem, alpha in alphas.items()}
    return found


def _arch(modules: Iterable[Module], names: Iterable[str]) -> str | None:
    """What the names and the widths of the text features tell."""
    if any(_SDXL_NAME.match(name) for name in names):
        return "sdxl"
    for reads in (_READS_TEXT, _READS_CLIP):
        for module in modules:
            width = module.inputs
            if width in _BY_WIDTH and reads.search(module.stem):
                return _BY_WIDTH[width]
    return None


assert set(_BY_WIDTH.values()) == set(ARCHS)
