"""How kohya's and LyCORIS' files name tensors: `PREFIX_FLAT-PATH.LEAF`. No torch.

kohya: `lora_unet_`, and `lora_te_` (SD 1.x and 2.x) or `lora_te1_`, `lora_te2_` (SDXL). UNet paths
are diffusers' for SD 1.x and 2.x; SDXL's are those of its original code, though many tools read
and some write diffusers' there too. LyCORIS used by itself (SimpleTuner): `lycoris_` and diffusers'
UNet path; it has no prefix for text encoders.

There is exactly one dot between the layer and the leaf: `lora_down.weight`, `lora_up.weight`,
`alpha`, DoRA's `dora_scale`, LyCORIS' `lora_mid.weight` of convolutions in Tucker form, its `diff`
of whole weights, and its names of LoHa (`hada_…`) and LoKr (`lokr_…`).

Source: kohya-ss/sd-scripts, networks/lora.py; KohakuBlueleaf/LyCORIS, lycoris/wrapper.py.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Final

from lora_diffusion.formats.arch import NOT_SDXL, SDXL_ONLY, Evidence
from lora_diffusion.formats.header import refuse
from lora_diffusion.formats.layer_names import by_flat_name, flatten, is_layer
from lora_diffusion.formats.sgm_names import by_flat_sgm_name, sgm_path
from lora_diffusion.formats.spelling import (
    ALPHA,
    DIFF,
    DOWN,
    LYCORIS_LEAVES,
    MAGNITUDE,
    MID,
    UP,
    Leaf,
    Named,
    Spelling,
    refuse_unknown,
    split_embeddings,
)
from lora_diffusion.keys import TEXT_ENCODER, TEXT_ENCODER_2, UNET, LayerKey

UNET_PREFIX, TE_PREFIX, TE1_PREFIX, TE2_PREFIX = "lora_unet_", "lora_te_", "lora_te1_", "lora_te2_"
LYCORIS_PREFIX = "lycoris_"
LEAVES: Final[Mapping[str, Leaf]] = MappingProxyType(
    {
        "lora_down.weight": DOWN,
        "lora_mid.weight": MID,
        "lora_up.weight": UP,
        "alpha": ALPHA,
        "dora_scale": MAGNITUDE,
        "diff": DIFF,
        **{name: name for name in LYCORIS_LEAVES},
    }
)

_SGM_EVIDENCE = Evidence(SDXL_ONLY, "a UNet layer named as in SDXL's original code")
_PREFIX_EVIDENCE = {
    TE_PREFIX: Evidence(NOT_SDXL, f"the prefix '{TE_PREFIX}'"),
    # diffusers 0.42's own converter writes it for SD 1.x too.
    TE1_PREFIX: Evidence(SDXL_ONLY, f"the prefix '{TE1_PREFIX}'", is_habit=True),
    TE2_PREFIX: Evidence(SDXL_ONLY, f"the prefix '{TE2_PREFIX}'"),
}


@cache
def sgm_stem_table() -> Mapping[str, LayerKey]:
    """Stem -> layer, of UNet layers by the names of SDXL's original code; shared and fixed."""
    return MappingProxyType({UNET_PREFIX + name: key for name, key in by_flat_sgm_name().items()})


@cache
def stem_table() -> Mapping[str, LayerKey]:
    """Stem -> layer, of every layer of every base in every spelling; shared and fixed."""
    prefixes = (
        (UNET_PREFIX, UNET),
        (TE_PREFIX, TEXT_ENCODER),
        (TE1_PREFIX, TEXT_ENCODER),
        (TE2_PREFIX, TEXT_ENCODER_2),
    )
    table = {
        prefix + name: key for prefix, part in prefixes for name, key in by_flat_name(part).items()
    }
    table.update(sgm_stem_table())
    return MappingProxyType(table)


@cache
def lycoris_stem_table() -> Mapping[str, LayerKey]:
    """Stem -> layer, of every layer that a `lycoris_` name can mean; shared and fixed."""
    return MappingProxyType({LYCORIS_PREFIX + n: key for n, key in by_flat_name(UNET).items()})


def kohya_stem(key: LayerKey, arch: str) -> str | None:
    """How kohya's files for `arch` spell `key`; None if they cannot."""
    if not is_layer(key):
        return None
    if key.part == UNET:
        return UNET_PREFIX + flatten(sgm_path(key.path) if arch == "sdxl" else key.path)
    if arch == "sdxl":
        return (TE1_PREFIX if key.part == TEXT_ENCODER else TE2_PREFIX) + flatten(key.path)
    return TE_PREFIX + flatten(key.path) if key.part == TEXT_ENCODER else None


def lycoris_stem(key: LayerKey, arch: str) -> str | None:
    """How `lycoris_` files spell `key`; None if they cannot. The same for every `arch`."""
    del arch
    return LYCORIS_PREFIX + flatten(key.path) if key.part == UNET and is_layer(key) else None


def spell_kohya(source: str | Path, names: Collection[str]) -> Spelling:
    """What the tensor names of a kohya file mean.

    Raises:
        AdapterFileError: names that mean no layer of a Stable Diffusion model or no part of a
            LoRA, or SDXL's layers in two spellings at once.
    """
    tensors, embeddings = _spell(source, names, stem_table())
    sgm = sgm_stem_table()
    original = {place.stem for place in tensors.values() if place.stem in sgm}
    diffusers = {
        place.stem
        for place in tensors.values()
        if place.key.part == UNET and place.stem not in original
    }
    if original and diffusers:
        refuse(
            source,
            f"it mixes two spellings of UNet layers, '{min(original)}' (SDXL's original code) and "
            f"'{min(diffusers)}' (diffusers)",
            "Other programs drop one half in silence; export it again with the tool that made it.",
        )
    evidence = [_SGM_EVIDENCE] if original else []
    for prefix, means in _PREFIX_EVIDENCE.items():
        if any(place.stem.startswith(prefix) for place in tensors.values()):
            evidence.append(means)
    return Spelling(
        tensors,
        unstated_alpha_is_odd=True,
        embeddings=embeddings,
        evidence=tuple(evidence),
    )


def spell_lycoris(source: str | Path, names: Collection[str]) -> Spelling:
    """What the tensor names of a `lycoris_` file mean.

    Raises:
        AdapterFileError: names that mean no UNet layer or no part of a LoRA.
    """
    tensors, embeddings = _spell(source, names, lycoris_stem_table())
    return Spelling(tensors, unstated_alpha_is_odd=True, embeddings=embeddings)


def _spell(
    source: str | Path, names: Collection[str], table: Mapping[str, LayerKey]
) -> tuple[dict[str, Named], tuple[str, ...]]:
    named, embeddings = split_embeddings(names)
    tensors: dict[str, Named] = {}
    strangers, odd_leaves = [], []
    for name in named:
        stem, dot, leaf = name.partition(".")
        if not dot or stem not in table:
            strangers.append(name)
        elif leaf not in LEAVES:
            odd_leaves.append(name)
        else:
            tensors[name] = Named(table[stem], LEAVES[leaf], stem)
    refuse_unknown(
        source,
        strangers,
        "belong to no layer of a Stable Diffusion 1.x, 2.x or XL model",
        "It is made for another kind of model, or by an unknown tool.",
    )
    refuse_unknown(
        source,
        odd_leaves,
        "belong to no kind of layer that is read",
        "LoRA, LoCon, DoRA, LoHa, LoKr and diff are; biases (diff_b), norms (w_norm, b_norm) and "
        "other kinds of LyCORIS aren't.",
    )
    return tensors, embeddings
