"""Opening an adapter in any dialect, as far as that goes without reading a tensor. No torch.

An adapter is one file, or a PEFT folder with a file for each model. Either way its tensors get one
set of names: in a folder, the part goes before the name of the file's tensor (`unet/base_model…`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lora_diffusion.errors import printable
from lora_diffusion.formats.arch import infer_arch
from lora_diffusion.formats.dialect import Dialect, identify
from lora_diffusion.formats.diffusers_names import peft_part, spell_diffusers, spell_peft
from lora_diffusion.formats.header import Header, read_header, refuse
from lora_diffusion.formats.kohya_names import spell_kohya, spell_lycoris
from lora_diffusion.formats.layout import (
    LayerLayout,
    check_header,
    lay_out,
    missing_alpha_notes,
)
from lora_diffusion.formats.legacy_names import spell_legacy
from lora_diffusion.formats.metadata import parsed, stated_arch
from lora_diffusion.formats.spelling import CORES, Named, Spelling
from lora_diffusion.keys import PARTS, LayerKey
from lora_diffusion.shapes import Shape

PEFT_CONFIG = "adapter_config.json"
PEFT_WEIGHTS = "adapter_model.safetensors"
DIFFUSERS_WEIGHTS = "pytorch_lora_weights.safetensors"
MAX_CONFIG_BYTES = 4 << 20


@dataclass(frozen=True)
class Piece:
    """One safetensors file of an adapter.

    Attributes:
        header: its checked header.
        part: which model it is for, where a file has one (PEFT); else "".
        config: PEFT's configuration beside it.
    """

    header: Header
    part: str = ""
    config: Mapping[str, object] = field(default_factory=dict)

    def label(self, name: str) -> str:
        """What the adapter as a whole calls this file's tensor `name`."""
        return f"{self.part}/{name}" if self.part else name


@dataclass(frozen=True)
class Opened:
    """An adapter whose headers were read and found sound.

    Attributes:
        path: file or folder.
        dialect: what the tensor names say it is.
        pieces: its files; one, but for a PEFT folder of several models.
    """

    path: Path
    dialect: Dialect
    pieces: tuple[Piece, ...]

    @property
    def metadata(self) -> dict[str, str]:
        """Header strings of all files; the first has the say."""
        merged: dict[str, str] = {}
        for piece in reversed(self.pieces):
            merged |= piece.header.metadata
        return merged

    def shapes(self) -> dict[str, Shape]:
        return {
            piece.label(name): shape
            for piece in self.pieces
            for name, shape in piece.header.shapes().items()
        }

    def located(self) -> Iterator[tuple[str, Header, str]]:
        """Each tensor: its name in the adapter, the file it is in, and its name there."""
        for piece in self.pieces:
            for name in piece.header.tensors:
                yield piece.label(name), piece.header, name


@dataclass(frozen=True)
class Laid:
    """What an adapter's names and shapes mean.

    Attributes:
        layers: every layer.
        arch: `sd15`, `sd21`, `sdxl`.
        embeddings: names of tensors that belong to textual-inversion embeddings.
        notes: one sentence for each thing assumed or left out.
    """

    layers: tuple[LayerLayout, ...]
    arch: str
    embeddings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def open_adapter(path: str | Path) -> Opened:
    """Find the files of an adapter and check their headers.

    Args:
        path: a `.safetensors` file, a folder of PEFT (or of one folder for each model), or one
            that diffusers' `save_lora_weights` wrote.

    Raises:
        AdapterFileError: missing, broken, hostile, or a PEFT file without its configuration.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        if (path / PEFT_CONFIG).exists():
            return _opened(path, (_peft_piece(path, path / PEFT_WEIGHTS),))
        folders = [path / part for part in PARTS if (path / part / PEFT_CONFIG).exists()]
        if folders:
            return _opened(path, tuple(_peft_piece(f, f / PEFT_WEIGHTS) for f in folders))
        if not (path / DIFFUSERS_WEIGHTS).exists():
            refuse(
                path,
                "it is a folder without an adapter",
                f"Give a .safetensors file, or a folder with {PEFT_CONFIG} or {DIFFUSERS_WEIGHTS}.",
            )
        path = path / DIFFUSERS_WEIGHTS
    header = read_header(path)
    if identify(header.tensors.keys()).format == "peft":
        return _opened(path, (_peft_piece(path.parent, path),))
    return _opened(path, (Piece(header),))


def refuse_others(opened: Opened) -> tuple[str, str] | None:
    """Refuse what is no adapter at all.

    Returns:
        Why its numbers can't be read, and what to do, of an adapter in a dialect that isn't read.

    Raises:
        AdapterFileError: it is none, or as `layout.check_header`.
    """
    unread = opened.dialect.not_read_because()
    if unread and not opened.dialect.is_adapter:
        refuse(opened.path, *unread)
    for piece in opened.pieces:
        check_header(piece.header)
    return unread


def lay_out_opened(opened: Opened, base_shapes: Mapping[LayerKey, Shape] | None = None) -> Laid:
    """What the adapter's names and shapes mean, each tensor accounted for.

    Raises:
        AdapterFileError: in a dialect or of a kind that isn't read, or as `layout.lay_out` and
            `arch.infer_arch` say.
    """
    reason = opened.dialect.not_read_because()
    if reason:
        refuse(opened.path, *reason)
    for piece in opened.pieces:
        check_header(piece.header)
    spelling = _spell(opened)
    return lay_out_spelled(
        opened.path, opened.shapes(), spelling, opened.metadata, base_shapes=base_shapes
    )


def lay_out_spelled(
    source: str | Path,
    shapes: Mapping[str, Shape],
    spelling: Spelling,
    metadata: Mapping[str, str],
    *,
    base_shapes: Mapping[LayerKey, Shape] | None = None,
) -> Laid:
    """`lay_out_opened` for names whose meaning is known already."""
    layers = lay_out(source, shapes, spelling, base_shapes)
    arch, assumed = infer_arch(
        source,
        {layer.key: layer.weight_shape for layer in layers},
        spelling.evidence,
        stated_arch(metadata),
    )
    notes = [*spelling.notes]
    cores = sum(not CORES.isdisjoint(layer.tensors) for layer in layers)
    if cores:
        notes.append(
            f"{cores} layers are in Tucker's form; they are read as the plain form of the same "
            "rank, exactly."
        )
    if spelling.unstated_alpha_is_odd:
        notes += missing_alpha_notes(layers)
    notes += assumed
    if spelling.embeddings:
        count = len(spelling.embeddings)
        notes.append(
            f"The file also holds {count} {'tensor' if count == 1 else 'tensors'} of "
            f"textual-inversion embeddings, '{spelling.embeddings[0]}' first; they are no part of "
            "the LoRA."
        )
    return Laid(layers, arch, spelling.embeddings, tuple(notes))


def spell(
    format: str,
    source: str | Path,
    shapes: Mapping[str, Shape],
    metadata: Mapping[str, str],
) -> Spelling:
    """What tensor names mean in `format`, which is `kohya`, `lycoris`, `diffusers` or `legacy`.

    Raises:
        AdapterFileError: names that the dialect has no meaning for.
    """
    if format == "kohya":
        return spell_kohya(source, shapes)
    if format == "lycoris":
        return spell_lycoris(source, shapes)
    if format == "diffusers":
        return spell_diffusers(source, shapes, metadata)
    assert format == "legacy", format
    return spell_legacy(source, shapes, metadata)


def _spell(opened: Opened) -> Spelling:
    if opened.dialect.format != "peft":
        return spell(opened.dialect.format, opened.path, opened.shapes(), opened.metadata)
    tensors: dict[str, Named] = {}
    alphas: dict[LayerKey, float] = {}
    for piece in opened.pieces:
        found = spell_peft(opened.path, piece.part, piece.header.shapes(), piece.config)
        tensors |= {piece.label(name): place for name, place in found.tensors.items()}
        alphas |= found.alphas
    return Spelling(tensors, alphas, peft_magnitudes=True)


def _opened(path: Path, pieces: tuple[Piece, ...]) -> Opened:
    names = [name for piece in pieces for name in piece.header.tensors]
    return Opened(path, identify(names), pieces)


def _peft_piece(folder: Path, weights: Path) -> Piece:
    header = read_header(weights)
    config_path = folder / PEFT_CONFIG
    try:
        if config_path.stat().st_size > MAX_CONFIG_BYTES:
            refuse(config_path, "it is larger than any configuration")
        config = parsed(config_path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        refuse(
            weights,
            f"it is a PEFT adapter, and there is no {PEFT_CONFIG} beside it, which tells alpha",
            "Give the whole folder that PEFT saved.",
        )
    except (OSError, UnicodeDecodeError) as error:
        refuse(config_path, f"it cannot be read ({printable(error)})")
    if not isinstance(config, dict):
        refuse(config_path, "it is not a JSON object", "Save the adapter again.")
    part = folder.name if folder.name in PARTS else peft_part(weights, header.tensors)
    return Piece(header, part, config)
