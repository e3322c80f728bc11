"""From `Factors` to tensors: what each dialect can say, and how.

| dialect | alpha | DoRA's magnitude | LoHa, LoKr, whole weights |
| --- | --- | --- | --- |
| kohya, lycoris | a tensor for each layer | `dora_scale`, along either axis | LyCORIS' names |
| diffusers | none: folded into the factors, so that B A is the delta | along `out` only | no |
| peft | in the configuration | along `out` only | no |
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from lora_diffusion.adapter import AdapterFile
from lora_diffusion.algebra import wide
from lora_diffusion.errors import InputError
from lora_diffusion.factors import (
    DoRAFactors,
    Factors,
    FullFactors,
    LoHaFactors,
    LoKrFactors,
    LoRAFactors,
)
from lora_diffusion.formats.arch import ARCH_NAMES
from lora_diffusion.formats.dialect import KIND_NAMES
from lora_diffusion.formats.diffusers_names import CLIP_LEVEL, PEFT_PREFIX
from lora_diffusion.formats.kohya_names import kohya_stem, lycoris_stem
from lora_diffusion.formats.layer_names import is_layer, kernel_of
from lora_diffusion.keys import PARTS, TEXT_ENCODER, UNET, LayerKey
from lora_diffusion.shapes import without_unit_kernel


@dataclass(frozen=True, eq=False)
class Encoded:
    """What is to be written.

    Attributes:
        pieces: tensors by name; of PEFT, which has one file a model, by part; else under "".
        configs: PEFT's configuration by part.
        notes: one sentence for each thing that the file says otherwise than the adapter.
    """

    pieces: Mapping[str, dict[str, Tensor]]
    configs: Mapping[str, dict[str, object]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def encode(adapter: AdapterFile, dtype: torch.dtype, format: str) -> Encoded:
    """The tensors of a file in `format`, in `dtype` (fp32, bf16, fp16), on the CPU.

    Args:
        format: `kohya`, `lycoris`, `diffusers` or `peft`.

    Raises:
        InputError: the dialect has no name for a layer or cannot say what it is, or a number is
            not finite, or does not fit into `dtype`.
        KeyError: no such format.
    """
    return _ENCODERS[format](adapter, dtype)


def _encode_kohya(adapter: AdapterFile, dtype: torch.dtype) -> Encoded:
    return Encoded({"": dict(_flat(adapter, dtype, "kohya", kohya_stem))})


def _encode_lycoris(adapter: AdapterFile, dtype: torch.dtype) -> Encoded:
    return Encoded({"": dict(_flat(adapter, dtype, "lycoris", lycoris_stem))})


def _flat(
    adapter: AdapterFile,
    dtype: torch.dtype,
    format: str,
    stem_of: Callable[[LayerKey, str], str | None],
) -> Iterator[tuple[str, Tensor]]:
    for key, factors in adapter.layers.items():
        stem = stem_of(key, adapter.arch)
        if stem is None:
            raise _nameless(adapter, key, format)
        for leaf, tensor in _leaves(key, factors, format):
            yield f"{stem}.{leaf}", _narrowed(key, tensor, dtype)
        if factors.kind != "full":
            yield f"{stem}.alpha", _narrowed_alpha(key, factors.alpha, dtype)


def _leaves(key: LayerKey, factors: Factors, format: str) -> Iterator[tuple[str, Tensor]]:
    """kohya's and LyCORIS' names of a layer's tensors, and the tensors shaped as they have them."""
    match factors:
        case LoRAFactors():
            yield "lora_down.weight", factors.down
            yield "lora_up.weight", factors.up
        case LoHaFactors():
            _check_kernel(key, factors, format)
            for name, tensor in factors.tensors().items():
                yield f"hada_{name}", tensor.flatten(1)
        case LoKrFactors():
            _check_kernel(key, factors, format)
            for name, tensor in factors.tensors().items():
                yield f"lokr_{name}", tensor.flatten(1) if name == "w2_b" else tensor
        case FullFactors():
            yield "diff", factors.diff
        case _:
            raise InputError(f"The {format} format cannot say what layer '{key}' is.")
    if isinstance(factors, DoRAFactors):
        if math.prod(factors.weight_shape[:2]) == 1:
            raise InputError(
                f"The DoRA layer '{key}' has a weight of one number, and the {format} format "
                "has no way to tell its magnitude's axis."
            )
        yield "dora_scale", factors.magnitude


def _check_kernel(key: LayerKey, factors: Factors, format: str) -> None:
    """LoHa's and LoKr's factors are written flat: readers take the kernel from the layer."""
    kernel = without_unit_kernel(factors.weight_shape)[2:]
    if kernel != kernel_of(key):
        raise InputError(
            f"The layer '{key}' has a {factors.kind} update of shape {list(factors.weight_shape)}, "
            f"but no model has that kernel there, and the {format} format takes it from the model."
        )


def _narrowed_alpha(key: LayerKey, alpha: float, dtype: torch.dtype) -> Tensor:
    narrow = _narrowed(key, torch.tensor(alpha, dtype=torch.float64), dtype)
    if not narrow > 0:
        raise InputError(
            f"The alpha of layer '{key}' is {alpha:g}, which {dtype} cannot hold as a "
            "number above 0. Set alpha above 0, or save in fp32."
        )
    return narrow


def _encode_diffusers(adapter: AdapterFile, dtype: torch.dtype) -> Encoded:
    tensors: dict[str, Tensor] = {}
    folded = 0
    for key, factors in _low_rank_layers(adapter, "diffusers"):
        if not is_layer(key):
            raise _nameless(adapter, key, "diffusers")
        plain = fold_alpha(key, factors)
        folded += plain is not factors
        tensors |= _peft_tensors(key, str(key), plain, dtype, "diffusers")
    _check_all_or_no_dora(adapter, "diffusers")
    notes: tuple[str, ...] = ()
    if folded:
        notes = (
            f"alpha is folded into the factors of {folded} layers, as diffusers' format has none; "
            "the delta is the same.",
        )
    return Encoded({"": tensors}, notes=notes)


def _encode_peft(adapter: AdapterFile, dtype: torch.dtype) -> Encoded:
    _check_all_or_no_dora(adapter, "peft")
    pieces: dict[str, dict[str, Tensor]] = {}
    configs: dict[str, dict[str, object]] = {}
    for part in PARTS:
        layers = {key: f for key, f in _low_rank_layers(adapter, "peft") if key.part == part}
        if not layers:
            continue
        tensors: dict[str, Tensor] = {}
        paths: dict[str, LoRAFactors] = {}
        for key, factors in layers.items():
            if not is_layer(key):
                raise _nameless(adapter, key, "peft")
            if not (math.isfinite(factors.alpha) and factors.alpha > 0):
                raise InputError(f"The alpha of layer '{key}' is {factors.alpha:g}, not above 0.")
            path = peft_path(key)
            paths[path] = factors
            tensors |= _peft_tensors(key, PEFT_PREFIX + path, factors, dtype, "peft")
        pieces[part], configs[part] = tensors, _peft_config(paths)
    strangers = [key for key in adapter.layers if key.part not in PARTS]
    if strangers:
        raise _nameless(adapter, strangers[0], "peft")
    return Encoded(pieces, configs)


_ENCODERS: Mapping[str, Callable[[AdapterFile, torch.dtype], Encoded]] = {
    "kohya": _encode_kohya,
    "lycoris": _encode_lycoris,
    "diffusers": _encode_diffusers,
    "peft": _encode_peft,
}


def peft_path(key: LayerKey) -> str:
    """What a model of today's libraries calls the layer, which PEFT's files must spell.

    transformers 5 took the level `text_model` out of `CLIPTextModel` (SDXL's second encoder, a
    `CLIPTextModelWithProjection`, kept it).
    """
    return key.path.removeprefix(CLIP_LEVEL) if key.part == TEXT_ENCODER else key.path


def fold_alpha(key: LayerKey, factors: LoRAFactors) -> LoRAFactors:
    """Factors with alpha = rank and the same delta; `factors` itself if they have it already.

    The scale is shared out so that both factors come out about equally large, as small ones lose
    digits in fp16; the share of `down` is a power of two, so that only `up` is rounded.

    Raises:
        InputError: alpha is not a number above 0.
    """
    if factors.alpha == factors.rank:
        return factors
    scale = factors.alpha / factors.rank
    if not (math.isfinite(scale) and scale > 0):
        raise InputError(f"The alpha of layer '{key}' is {factors.alpha:g}, not above 0.")
    down, up = wide(factors.down), wide(factors.up)
    sizes = [float(t.square().mean().sqrt()) for t in (down, up)]
    ratio = sizes[1] / sizes[0] if min(sizes) > 0 and math.isfinite(max(sizes)) else 1.0
    share = 2.0 ** round(math.log2(scale * ratio) / 2)
    return replace(factors, down=down * share, up=up * (scale / share), alpha=float(factors.rank))


def _peft_tensors(
    key: LayerKey, stem: str, factors: LoRAFactors, dtype: torch.dtype, format: str
) -> dict[str, Tensor]:
    tensors = {
        f"{stem}.lora_A.weight": _narrowed(key, factors.down, dtype),
        f"{stem}.lora_B.weight": _narrowed(key, factors.up, dtype),
    }
    if isinstance(factors, DoRAFactors):
        if factors.axis != "out":
            raise InputError(
                f"The DoRA magnitude of layer '{key}' runs along the weight's inputs, and the "
                f"{format} format knows only outputs; one cannot be turned into the other. Write "
                "kohya or lycoris."
            )
        # [out, 1] -> [out];  [out, 1, 1, 1] -> [1, out, 1, 1]
        moved = factors.magnitude.transpose(0, 1) if factors.is_conv else factors.magnitude[:, 0]
        # transformers, which loads diffusers' text encoders, looks for the parameter's own name.
        own_name = format == "diffusers" and key.part != UNET
        leaf = "lora_magnitude_vector.weight" if own_name else "lora_magnitude_vector"
        tensors[f"{stem}.{leaf}"] = _narrowed(key, moved, dtype)
    return tensors


def _low_rank_layers(adapter: AdapterFile, format: str) -> Iterator[tuple[LayerKey, LoRAFactors]]:
    """The layers of an adapter whose layers all are LoRA or DoRA.

    Raises:
        InputError: one is not, which diffusers' and PEFT's files of a LoRA cannot say.
    """
    for key, factors in adapter.layers.items():
        if not isinstance(factors, LoRAFactors):
            raise InputError(
                f"The layer '{key}' is {KIND_NAMES[factors.kind]}, and the {format} format knows "
                "only LoRA and DoRA. Write kohya or lycoris."
            )
        yield key, factors


def _check_all_or_no_dora(adapter: AdapterFile, format: str) -> None:
    """PEFT's `use_dora`, which diffusers guesses from the file, is for all layers of a model."""
    for part in PARTS:
        kinds = {f.kind == "dora" for key, f in adapter.layers.items() if key.part == part}
        if len(kinds) > 1:
            raise InputError(
                f"Some layers of the {part} are DoRA and some plain LoRA, which the {format} "
                "format cannot say. Write kohya or lycoris."
            )


def _peft_config(layers: Mapping[str, LoRAFactors]) -> dict[str, object]:
    """The fields of PEFT's `LoraConfig`, for the layers by their paths in the live model."""
    rank = Counter(f.rank for f in layers.values()).most_common(1)[0][0]
    alpha = Counter(f.alpha for f in layers.values()).most_common(1)[0][0]
    return {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": None,
        "r": rank,
        "lora_alpha": _short(alpha),
        "rank_pattern": {p: f.rank for p, f in layers.items() if f.rank != rank},
        "alpha_pattern": {p: _short(f.alpha) for p, f in layers.items() if f.alpha != alpha},
        "target_modules": sorted(layers),
        "use_dora": any(isinstance(f, DoRAFactors) for f in layers.values()),
        "use_rslora": False,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "inference_mode": True,
    }


def _short(number: float) -> float | int:
    return int(number) if number == int(number) else number


def _nameless(adapter: AdapterFile, key: LayerKey, format: str) -> InputError:
    base = ARCH_NAMES.get(adapter.arch, adapter.arch)
    return InputError(
        f"The {format} format for {base} has no name for layer '{key}'. Write another format: "
        "kohya has names for all layers of the UNet and the text encoders that are trained."
    )


def _narrowed(key: LayerKey, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """`tensor` in `dtype`, on the CPU, in memory of its own."""
    tensor = tensor.detach().cpu()
    if not torch.isfinite(tensor).all():
        raise InputError(
            f"Layer '{key}' holds NaN or infinite numbers: the training diverged. "
            "Lower the learning rate, or go back to an earlier checkpoint."
        )
    narrow = tensor.to(dtype, copy=True).contiguous()
    if not torch.isfinite(narrow).all():
        raise InputError(
            f"Layer '{key}' holds numbers that {dtype} cannot hold. Save in bf16 or fp32."
        )
    return narrow
