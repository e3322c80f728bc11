"""Loading and running the captioners of the transformers library. Never with a model's own code."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from lora_diffusion.errors import InputError, printable
from lora_diffusion.families import hub
from trainers.data.captioners.plugin import Context
from trainers.machine import devices
from trainers.progress import silence_libraries
from trainers.spec import ModelSpec

_FILES = ("*.json", "*.txt", "*.jinja", "*.model", "model*.safetensors")
_MAX_MISSING = 0.1
# What a damaged or foreign model folder makes the library raise.
_UNREADABLE = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    ImportError,
    RuntimeError,
    SafetensorError,
)


@dataclass(frozen=True, eq=False)
class Loaded:
    """A model and its processor, ready to write.

    Attributes:
        name: as the user gave it.
        model: in evaluation mode, on its device.
        processor: pictures and text -> tensors; tokens -> text.
        placement: the device and the number format.
    """

    name: str
    model: Any
    processor: Any
    placement: devices.Placement

    def inputs(self, images: list[Any], texts: list[str] | None, **how: bool) -> Any:
        """Pictures `[b, 3, h, w]` in the model's number format, and padded token ids `[b, n]`."""
        batch = self.processor(
            images=images, text=texts, padding=texts is not None, return_tensors="pt", **how
        )
        return batch.to(self.placement.device, self.placement.dtype)

    def generate(self, inputs: Mapping[str, Any], **how: object) -> torch.Tensor:
        """Token ids `[b, n]`.

        Raises:
            InputError: the device's memory is too small.
        """
        try:
            with torch.inference_mode():
                tokens: torch.Tensor = self.model.generate(**inputs, **how)
        except torch.OutOfMemoryError:
            count = len(inputs["pixel_values"])
            raise InputError(
                f"{printable(self.name)}: {self.placement.device} has too little memory for "
                f"{count} pictures at a time. "
                + ("Use --batch 1." if count > 1 else "Use a smaller model, or --device cpu.")
            ) from None
        return tokens

    def texts(self, tokens: torch.Tensor) -> list[str]:
        """Token ids `[b, n]` -> b texts without special tokens."""
        decoded: list[str] = self.processor.batch_decode(tokens, skip_special_tokens=True)
        return decoded


def load(
    name: str, *, kind: str, model_class: Any, processor_class: Any, context: Context
) -> Loaded:
    """The model `name`, a folder or a hub id.

    Args:
        kind: the `model_type` that its configuration must state.

    Raises:
        InputError: there is none; it is another kind; its weights are a pickle, or incomplete; it
            can't be read.
    """
    placement = devices.choose(ModelSpec(device=context.device, precision=context.precision))
    folder = _folder(name, context)
    _check_kind(folder, name, kind)
    silence_libraries()
    context.say(f"Loading {printable(name)} on {placement.device} in {placement.precision}")
    with _reading(name):
        processor = processor_class.from_pretrained(
            folder, backend="pil", local_files_only=True, trust_remote_code=False
        )
        model, report = model_class.from_pretrained(
            folder,
            dtype=placement.dtype,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
    _check_weights(name, len(model.state_dict()), report, context)
    try:
        model.to(placement.device)
    except torch.OutOfMemoryError:
        raise InputError(
            f"{printable(name)}: does not fit into the memory of {placement.device}. Use a smaller "
            "model, or --device cpu."
        ) from None
    return Loaded(name, model.eval(), processor, placement)


def _folder(name: str, context: Context) -> Path:
    path = Path(name).expanduser()
    if path.is_dir():
        folder = path
    elif hub.looks_like_id(name) and not path.exists():
        folder = hub.snapshot(name, _FILES, complete=_has_weights, on_progress=context.say)
    else:
        raise InputError(
            f"--model {printable(name)}: is neither a folder here nor a hub id (owner/name). Give "
            "the folder that has the model's config.json."
        )
    if not (folder / "config.json").is_file():
        raise InputError(
            f"{printable(name)}: has no config.json, so it is not a model of transformers. Give "
            "the folder that has it."
        )
    if not _has_weights(folder):
        raise InputError(
            f"{printable(name)}: its weights are not all there as model*.safetensors, and pickles "
            "are refused, as they can run code. Choose a model with .safetensors files."
        )
    return folder


def _has_weights(folder: Path) -> bool:
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return (folder / "model.safetensors").is_file()
    try:
        shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
    return all((folder / Path(str(shard)).name).is_file() for shard in shards)


def _check_kind(folder: Path, name: str, kind: str) -> None:
    with _reading(name):
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        found = config.get("model_type")
    if found == kind and "auto_map" not in config:
        return
    own_code = (
        " It wants to run code of its own, which is refused; choose a conversion for transformers."
        if "auto_map" in config
        else ""
    )
    raise InputError(
        f"{printable(name)}: its kind is '{printable(found, 40)}', and a '{kind}' model is needed."
        f"{own_code or ' Choose another --model or another --with.'}"
    )


def _check_weights(name: str, total: int, report: Mapping[str, Any], context: Context) -> None:
    missing = sorted(report["missing_keys"])
    wrong = sorted(str(key) for key in report["mismatched_keys"])
    if wrong or len(missing) > _MAX_MISSING * total:
        first = printable([*wrong, *missing][0], 80)
        raise InputError(
            f"{printable(name)}: {len(wrong) + len(missing)} of {total} weights are missing or of "
            f"another size ({first}). Fetch the model again."
        )
    if missing:
        context.say(
            f"note: {len(missing)} of {total} weights are not in the file: {printable(missing[0])}"
        )


@contextmanager
def _reading(name: str) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except _UNREADABLE as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), "")
        raise InputError(
            f"{printable(name)}: can't be read ({type(error).__name__}: {printable(reason, 160)}). "
            "Fetch the model again, or choose another."
        ) from error
