"""Taggers of the WD14 family (SmilingWolf's): Danbooru tags, through onnxruntime."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field

from lora_diffusion.errors import InputError, printable
from trainers.data.captioners.plugin import Captioner, Context, Plugin, Shot
from trainers.spec import Section

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

MODEL_FILE = "model.onnx"
TAGS_FILE = "selected_tags.csv"
_GENERAL, _CHARACTER, _RATING = 0, 4, 9
_MAX_TAGS = 200_000
_WHITE = (255, 255, 255)


class Wd14Settings(Section):
    """Which tags are kept, and how they are written."""

    model: str = Field(
        "SmilingWolf/wd-eva02-large-tagger-v3",
        description=f"Folder with {MODEL_FILE} and {TAGS_FILE}, or a hub id.",
    )
    general_threshold: float = Field(
        0.35, ge=0, le=1, description="How sure the tagger must be of a general tag."
    )
    character_threshold: float = Field(
        0.85, ge=0, le=1, description="How sure the tagger must be of a character's name."
    )
    characters: bool = Field(True, description="Write characters' names, before the other tags.")
    rating: bool = Field(False, description="Write the likeliest rating, last.")
    exclude: tuple[str, ...] = Field(
        (), description="Tags never written, for example 'solo, simple background'."
    )
    max_tags: int | None = Field(None, ge=1, description="Only the likeliest; unset writes all.")
    underscores: bool = Field(False, description="Write long_hair, not long hair.")
    escape: bool = Field(
        False, description=r"Write \( for (, as prompts do where parentheses mean emphasis."
    )


@dataclass(frozen=True)
class Tag:
    """A row of the tag list: the name with underscores, and 0 general, 4 character, 9 rating."""

    name: str
    category: int


@dataclass(frozen=True, eq=False)
class _Wd14Captioner:
    settings: Wd14Settings
    session: InferenceSession
    tags: tuple[Tag, ...]

    @property
    def model(self) -> str:
        return self.settings.model

    def caption(self, shots: Sequence[Shot]) -> list[str]:
        entry = self.session.get_inputs()[0]
        fixed_batch, side_px = entry.shape[0], entry.shape[1]
        rows = np.stack([to_input(shot.image, side_px) for shot in shots])  # [b, side, side, 3]
        size = fixed_batch if isinstance(fixed_batch, int) else len(rows)
        captions: list[str] = []
        for first in range(0, len(rows), size):
            part = rows[first : first + size]
            filler = np.zeros((size - len(part), *part.shape[1:]), part.dtype)
            scores = self.session.run(None, {entry.name: np.concatenate([part, filler])})[0]
            captions += [choose(row, self.tags, self.settings) for row in scores[: len(part)]]
        return captions


def to_input(image: Image.Image, side_px: int) -> NDArray[np.float32]:
    """RGB picture -> `[side, side, 3]` BGR in 0..255, padded with white to a square."""
    longer = max(image.size)
    square = Image.new("RGB", (longer, longer), _WHITE)
    square.paste(image, ((longer - image.width) // 2, (longer - image.height) // 2))
    resized = square.resize((side_px, side_px), Image.Resampling.BICUBIC)
    return np.ascontiguousarray(np.asarray(resized, dtype=np.float32)[:, :, ::-1])


def choose(scores: NDArray[np.float32], tags: Sequence[Tag], settings: Wd14Settings) -> str:
    """The caption that scores `[tags]` in 0..1 make: characters, general tags, rating."""
    unwanted = {_plain(name) for name in settings.exclude}

    def over(category: int, threshold: float) -> list[str]:
        found = [
            (float(score), tag.name)
            for score, tag in zip(scores, tags, strict=True)
            if tag.category == category and score > threshold and _plain(tag.name) not in unwanted
        ]
        return [name for _, name in sorted(found, key=lambda pair: -pair[0])]

    chosen = over(_CHARACTER, settings.character_threshold) if settings.characters else []
    chosen += over(_GENERAL, settings.general_threshold)
    chosen = chosen[: settings.max_tags]
    if settings.rating:
        chosen += over(_RATING, 0.0)[:1]
    return ", ".join(_written(name, settings) for name in chosen)


def _written(name: str, settings: Wd14Settings) -> str:
    text = name if settings.underscores or _is_face(name) else name.replace("_", " ")
    return re.sub(r"([()\\])", r"\\\1", text) if settings.escape else text


def _is_face(name: str) -> bool:
    """Whether the tag is drawn rather than spelt, such as `^_^` and `o_o`: no two letters meet."""
    return re.search(r"[^\W_]{2}", name) is None


def _plain(name: str) -> str:
    return "_".join(name.casefold().replace("_", " ").split())


def _open(settings: Wd14Settings, context: Context) -> Captioner:
    try:
        import onnxruntime
    except ImportError:
        raise InputError(
            "--with wd14 needs onnxruntime. Install it with pip install 'lora-diffusion[wd14]'."
        ) from None
    model, listing = _files(settings.model, context)
    tags = read_tags(listing)
    context.say(f"Loading {printable(settings.model)}")
    try:
        session = onnxruntime.InferenceSession(
            str(model), providers=_providers(context.device, onnxruntime.get_available_providers())
        )
    except _onnx_errors(onnxruntime) as error:
        raise InputError(
            f"{printable(model)}: can't be loaded ({printable(error, 120)}). Fetch it again."
        ) from None
    _check_shapes(session, tags, model)
    return _Wd14Captioner(settings, session, tags)


def _files(name: str, context: Context) -> tuple[Path, Path]:
    from lora_diffusion.families import hub

    folder = Path(name).expanduser()
    if folder.is_dir():
        model, listing = folder / MODEL_FILE, folder / TAGS_FILE
    elif hub.looks_like_id(name) and not folder.exists():
        found = hub.snapshot(
            name,
            (MODEL_FILE, TAGS_FILE),
            complete=lambda at: (at / MODEL_FILE).is_file() and (at / TAGS_FILE).is_file(),
            on_progress=context.say,
        )
        model, listing = found / MODEL_FILE, found / TAGS_FILE
    else:
        raise InputError(
            f"--model {printable(name)}: is neither a folder here nor a hub id (owner/name). Give "
            f"the folder that has {MODEL_FILE} and {TAGS_FILE}."
        )
    for path in (model, listing):
        if not path.is_file():
            raise InputError(
                f"{printable(name)}: has no {path.name}. A WD14 tagger is a folder with "
                f"{MODEL_FILE} and {TAGS_FILE}."
            )
    return model, listing


def read_tags(path: Path) -> tuple[Tag, ...]:
    """The tag list, in the order of the model's scores.

    Raises:
        InputError: not a CSV with the columns name and category.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            tags = tuple(_rows(csv.DictReader(file)))
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise InputError(
            f"{printable(path)}: is not a tag list with the columns name and category "
            f"({printable(error, 80)}). Fetch it again."
        ) from None
    return tags


def _rows(reader: Iterable[dict[str, Any]]) -> Iterable[Tag]:
    for number, row in enumerate(reader):
        if number >= _MAX_TAGS:
            raise ValueError(f"more than {_MAX_TAGS} rows")
        yield Tag(printable(row["name"]), int(row["category"]))


def _providers(device: str, available: Sequence[str]) -> list[str]:
    """What onnxruntime may run on, best first.

    Raises:
        InputError: a GPU is asked for, and this onnxruntime has none.
    """
    gpus = [
        name for name in available if name in ("CUDAExecutionProvider", "ROCMExecutionProvider")
    ]
    if device.startswith("cuda") and not gpus:
        raise InputError(
            f"--device {device}: this onnxruntime can't use a GPU. Install onnxruntime-gpu in its "
            "place, or use --device cpu."
        )
    return [*(gpus if device.startswith(("auto", "cuda")) else []), "CPUExecutionProvider"]


def _check_shapes(session: InferenceSession, tags: Sequence[Tag], model: Path) -> None:
    inputs, outputs = session.get_inputs(), session.get_outputs()
    shape = inputs[0].shape if len(inputs) == 1 else []
    square = len(shape) == 4 and isinstance(shape[1], int) and shape[1] == shape[2]
    if not square or shape[3] != 3 or inputs[0].type != "tensor(float)":
        raise InputError(
            f"{printable(model)}: takes {printable(shape)}, not pictures [batch, side, side, 3] as "
            "WD14 taggers do. Choose another model."
        )
    count = outputs[0].shape[-1]
    if isinstance(count, int) and count != len(tags):
        raise InputError(
            f"{printable(model)}: gives {count} scores, and {TAGS_FILE} has {len(tags)} tags. "
            "Fetch both from the same model."
        )


def _onnx_errors(library: Any) -> tuple[type[Exception], ...]:
    """Everything onnxruntime raises; its errors have no base of their own."""
    kinds = vars(library.capi.onnxruntime_pybind11_state).values()
    return tuple(k for k in kinds if isinstance(k, type) and issubclass(k, Exception))


PLUGIN = Plugin("Danbooru tags by a WD14 tagger.", Wd14Settings, _open, batch=8)
