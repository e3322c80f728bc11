"""Which files make up a model folder in diffusers layout. No torch; only JSON is opened."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lora_diffusion.errors import InputError, printable
from lora_diffusion.families.detect import MODEL_INDEX, read_json
from lora_diffusion.keys import TEXT_ENCODER_2

AGAIN = "Download or copy the model again."
SCHEDULER_CONFIG = "scheduler/scheduler_config.json"
# Part -> the stem of its weight files.
STEMS: Mapping[str, str] = {
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
}
SDXL_STEMS: Mapping[str, str] = {**STEMS, TEXT_ENCODER_2: "model"}
# Full precision first; a variant is taken where there is nothing else.
VARIANTS = (None, "fp16", "bf16")
PICKLE_ENDINGS = (".ckpt", ".pt", ".pth", ".bin")
TOKENIZER_FAST, TOKENIZER_VOCAB, TOKENIZER_MERGES = "tokenizer.json", "vocab.json", "merges.txt"


@dataclass(frozen=True)
class Weights:
    """The weight files of one part: one, or the shards of one.

    Attributes:
        variant: `fp16`, `bf16` or None, as in the file names.
    """

    files: tuple[Path, ...]
    variant: str | None


def stems(arch: str) -> Mapping[str, str]:
    """The parts of a model of that architecture, each with the stem of its weight files."""
    return SDXL_STEMS if arch == "sdxl" else STEMS


def tokenizers(arch: str) -> tuple[str, ...]:
    """The folders that hold the tokenizers of a model of that architecture."""
    return ("tokenizer", "tokenizer_2") if arch == "sdxl" else ("tokenizer",)


def check_complete(
    path: Path, arch: str, where: str, *, with_tokenizer: bool
) -> dict[str, Weights]:
    """Part -> its weight files, of the model of architecture `arch` in the folder `path`.

    Raises:
        InputError: names everything that is missing, in one message, or the pickled weights.
    """
    missing = [] if (path / SCHEDULER_CONFIG).is_file() else [SCHEDULER_CONFIG]
    if with_tokenizer:
        missing += [
            f"{name}/vocab.json and merges.txt"
            for name in tokenizers(arch)
            if not has_tokenizer(path / name)
        ]
    found: dict[str, Weights] = {}
    for part, stem in stems(arch).items():
        if not (path / part / "config.json").is_file():
            missing.append(f"{part}/config.json")
        if weights_of := find_weights(path / part, stem):
            found[part] = weights_of
            absent = [file.name for file in weights_of.files if not file.is_file()]
            missing += [f"{part}/{name}" for name in absent]
        else:
            _refuse_pickles(path / part, where)
            missing.append(f"{part}/{stem}.safetensors")
    if missing:
        shown = ", ".join(printable(name, 80) for name in missing)
        raise InputError(f"{where}: the model folder is incomplete; it lacks {shown}. {AGAIN}")
    return found


def find_weights(part: Path, stem: str) -> Weights | None:
    """The weight files in the folder `part`, full precision before variants; None without any.

    Shards are listed as their index names them, whether they are there or not.
    """
    for variant in VARIANTS:
        middle = f".{variant}" if variant else ""
        whole = part / f"{stem}{middle}.safetensors"
        if whole.is_file():
            return Weights((whole,), variant)
        index = part / f"{stem}.safetensors.index{middle}.json"
        if index.is_file():
            return Weights(_shards(index), variant)
    return None


def _shards(index: Path) -> tuple[Path, ...]:
    table = read_json(index).get("weight_map")
    names = set(table.values()) if isinstance(table, dict) else set()
    if not names or not all(isinstance(n, str) and Path(n).name == n for n in names):
        raise InputError(f"{printable(index.name)}: names no weight files. {AGAIN}")
    return tuple(index.parent / name for name in sorted(names))


def _refuse_pickles(part: Path, where: str) -> None:
    found = sorted(f.name for f in part.glob("*") if f.suffix.lower() in PICKLE_ENDINGS)
    if found:
        raise InputError(
            f"{where}: the weights {printable(part.name)}/{printable(found[0])} are a Python "
            "pickle, which can run code on loading, and are refused. Get the .safetensors version "
            "of the model, or convert it on a machine that you trust."
        )


def has_tokenizer(folder: Path) -> bool:
    """Whether a CLIP tokenizer's files are in `folder`."""
    pair = all((folder / name).is_file() for name in (TOKENIZER_VOCAB, TOKENIZER_MERGES))
    return pair or (folder / TOKENIZER_FAST).is_file()


def refuse_if_no_model(path: Path, where: str) -> None:
    """Raise `InputError` if `path` is no diffusers folder, with what it seems to be instead."""
    if (path / MODEL_INDEX).is_file():
        return
    cause = f"{where}: has no {MODEL_INDEX}, so it is not a diffusers model folder."
    checkpoints = sorted(f.name for f in path.glob("*") if f.suffix in (".safetensors", ".ckpt"))
    if (path.parent / MODEL_INDEX).is_file():
        fix = "It is one part of a model; give the folder above it."
    elif (path / "config.json").is_file() and checkpoints:
        fix = "It is one part of a model; give the folder of the whole model."
    elif checkpoints:
        shown = ", ".join(printable(name, 60) for name in checkpoints[:3])
        fix = f"It holds {shown}; give the path of that file if it is a base model."
    elif any(f.suffix.lower() in PICKLE_ENDINGS for f in path.glob("*")):
        fix = "It holds pickled weights, which are refused; get the .safetensors version."
    else:
        fix = "Give the folder that holds unet, vae and text_encoder."
    raise InputError(f"{cause} {fix}")
