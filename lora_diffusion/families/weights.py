"""From safetensors files into models, with every parameter accounted for."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lora_diffusion.errors import InputError, printable
from lora_diffusion.families.layout import AGAIN
from lora_diffusion.keys import TEXT_ENCODER_2, LayerKey, live_path

if TYPE_CHECKING:
    from lora_diffusion.formats.header import Header

_FLOATS = frozenset({"F16", "BF16", "F32", "F64"})
_SHOWN = 3
_CLIP_LEVEL = "text_model."
_CLIP_PARTS = ("embeddings.", "encoder.", "final_layer_norm.")
PROJECTION = "text_projection.weight"  # of `CLIPTextModelWithProjection`


def read_tensors(header: Header, names: Mapping[str, str], dtype: torch.dtype) -> dict[str, Tensor]:
    """Tensors out of the file of `header`, renamed and cast one by one.

    Args:
        names: name in the file -> name in the result.
        dtype: of the result.

    Raises:
        InputError: the file cannot be read, or holds integers or 8-bit floats under such a name.
    """
    from safetensors import safe_open

    where = printable(header.path.name)
    for name in names:
        stored = header.tensors[name].dtype
        if stored not in _FLOATS:
            raise InputError(
                f"{where}: '{printable(name, 80)}' is stored as {stored}, so the model is "
                "quantised. Get its fp16, bf16 or fp32 version."
            )
    with loading(where), safe_open(header.path, "pt") as file:
        return {new: file.get_tensor(old).to(dtype) for old, new in names.items()}


def fill(model: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Put `tensors` in the place of the parameters of `model`; they must be exactly its own.

    Args:
        where: the file or folder and the part, for messages.

    Raises:
        InputError: a parameter has no tensor, a tensor of another shape, or a tensor has no
            parameter. The message names the first few.
    """
    wanted = model.state_dict()
    missing = [name for name in wanted if name not in tensors]
    if missing:
        raise InputError(f"{where}: lacks {_some(missing)}. {AGAIN}")
    unknown = [name for name in tensors if name not in wanted]
    if unknown:
        raise InputError(
            f"{where}: has weights that a model of this architecture does not: {_some(unknown)}. "
            "It is of another architecture, or an extended model; give the plain one."
        )
    for name, tensor in tensors.items():
        if tensor.shape != wanted[name].shape:
            raise InputError(
                f"{where}: '{printable(name, 80)}' has the shape {tuple(tensor.shape)} where "
                f"{tuple(wanted[name].shape)} belongs. {AGAIN}"
            )
    model.load_state_dict(dict(tensors), strict=True, assign=True)


def check_finite(model: nn.Module, where: str) -> None:
    """Raise `InputError` if a parameter holds NaN or infinity (or went there by a cast)."""
    for name, parameter in model.named_parameters():
        if parameter.is_meta:
            continue
        low, high = torch.aminmax(parameter.detach())
        if bool(torch.isfinite(low) & torch.isfinite(high)):
            continue
        fix = "It is a broken merge or download; get another copy."
        if parameter.dtype == torch.float16:
            fix = (
                "Its weights may be too large for fp16: try bf16 or fp32. If not, get another copy."
            )
        raise InputError(f"{where}: '{printable(name, 80)}' holds NaN or infinity. {fix}")


def check_loaded(info: Mapping[str, Any], where: str) -> None:
    """Raise `InputError` if diffusers' loading report names layers that were left unfilled."""
    missing = sorted(info["missing_keys"])
    if missing:
        raise InputError(f"{where}: lacks {_some(missing)}. {AGAIN}")
    if info["mismatched_keys"]:
        names = [str(entry[0]) for entry in info["mismatched_keys"]]
        raise InputError(
            f"{where}: the weights do not fit the configuration at {_some(names)}. {AGAIN}"
        )


def settle(model: nn.Module, device: torch.device) -> nn.Module:
    """`model` on `device`, in memory of its own.

    Tensors fresh out of a safetensors file are windows on the mapped file: overwriting the file
    would kill the process, and their odd addresses change the last bits of what CPU kernels
    compute, so that the same weights in two files would give different results.
    """
    if device.type != "cpu":
        return model.to(device)
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
    return model


@contextmanager
def loading(where: str) -> Iterator[None]:
    """Turn what the loading libraries raise on bad files into `InputError`.

    Running out of memory passes through: the file is not to blame.
    """
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    try:
        yield
    except (InputError, torch.OutOfMemoryError):
        raise
    except (
        OSError,
        RuntimeError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        ArithmeticError,
        AssertionError,
        EOFError,
        zlib.error,
        SafetensorError,
        StrictDataclassError,
    ) as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), "")
        reason = printable(reason or type(error).__name__).rstrip(".")
        raise InputError(f"{where}: cannot be loaded ({reason}). {AGAIN}") from error


def make_text_encoder(
    config: Mapping[str, Any], names: Iterable[str], prefix: str, where: str, part: str
) -> tuple[nn.Module, dict[str, str]]:
    """An empty CLIP text encoder, and which tensor goes where in it.

    Args:
        config: as in `text_encoder/config.json`.
        names: tensor names, with or without the `text_model` level after the prefix.
        prefix: what they start with; others are left out. So is what the encoder does not use:
            position ids, which are a running number and in some files a broken one, and CLIP's
            projections.
        part: `text_encoder_2` has and uses the text projection.

    Returns:
        The model, its parameters on the meta device; name in the file -> name in the model.
    """
    model = empty_text_encoder(config, where, part)
    places = {}
    for name in names:
        bare = name.removeprefix(prefix).removeprefix(_CLIP_LEVEL)
        if not name.startswith(prefix):
            continue
        if bare.startswith(_CLIP_PARTS) and not bare.endswith("position_ids"):
            places[name] = live_path(LayerKey(part, _CLIP_LEVEL + bare), model)
        elif bare == PROJECTION and part == TEXT_ENCODER_2:
            places[name] = PROJECTION
    return model, places


def empty_text_encoder(config: Mapping[str, Any], where: str, part: str) -> nn.Module:
    """The CLIP text encoder that `part` is, its parameters on the meta device."""
    from accelerate import init_empty_weights
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection
    from transformers.initialization import no_init_weights

    kind = CLIPTextModelWithProjection if part == TEXT_ENCODER_2 else CLIPTextModel
    with loading(where), init_empty_weights(), no_init_weights():
        model: nn.Module = kind(CLIPTextConfig.from_dict(dict(config)))
    return model


def clip_level(model: nn.Module) -> str:
    """What stands before the names of CLIP's layers in `model`: `text_model.` or nothing."""
    path: str = live_path(LayerKey(TEXT_ENCODER_2, _CLIP_LEVEL), model)
    return path


def _some(names: list[str]) -> str:
    shown = ", ".join(printable(name, 80) for name in names[:_SHOWN])
    more = len(names) - _SHOWN
    return f"{shown} and {more} more" if more > 0 else shown


def gigabytes(files: Iterable[Path]) -> str:
    """Their size for people."""
    size = sum(file.stat().st_size for file in files)
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.0f} MB"
