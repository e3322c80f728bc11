"""The base that a consumer would put an adapter on, and what its layers are called. No torch.

Names are made here from the layer table, apart from the codecs in `formats`: what checks them must
not share their mistakes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_diffusion import base_layers, bundled
from lora_diffusion.errors import InputError, printable
from lora_diffusion.formats.arch import ARCH_NAMES
from lora_diffusion.formats.layer_names import by_flat_name
from lora_diffusion.keys import TEXT_ENCODER, TEXT_ENCODER_2, UNET, LayerKey

if TYPE_CHECKING:
    from lora_diffusion.families.detect import Found

Shape = tuple[int, ...]
Configs = dict[str, dict[str, Any]]

_UNIT = re.compile(r"(down|up)_blocks\.(\d+)\.(resnets|attentions)\.(\d+)\.(.+)")
_SAMPLER = re.compile(r"(down|up)_blocks\.(\d+)\.(?:down|up)samplers\.0\.conv")
_MIDDLE = {"resnets.0": 0, "attentions.0": 1, "resnets.1": 2}
_RESNET = {
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_ENDS = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_out": "out.2",
}
_UNITS = {"down": 2, "up": 3}  # in each block of every published model


@dataclass(frozen=True)
class Target:
    """A base model, as far as names and shapes go.

    Attributes:
        arch: `sd15`, `sd21`, `sdxl`.
        name: what messages call it.
        shapes: weight shape of every layer; `()` where only the name is known.
    """

    arch: str
    name: str
    shapes: Mapping[LayerKey, Shape]

    @cached_property
    def unet(self) -> Mapping[str, LayerKey]:
        """Flattened diffusers path -> layer, of the UNet."""
        return self.text(UNET)

    @cached_property
    def original_unet(self) -> Mapping[str, LayerKey]:
        """Flattened path in the original code (LDM, SGM) -> layer, of the UNet."""
        paths = [key.path for key in self.shapes if key.part == UNET]
        return {flat(name): LayerKey(UNET, path) for path, name in _original_names(paths)}

    def text(self, part: str) -> Mapping[str, LayerKey]:
        """Flattened canonical path -> layer, of one part; empty if the base has none."""
        return {flat(key.path): key for key in self.shapes if key.part == part}


def flat(path: str) -> str:
    """A dotted path as kohya-style names spell it."""
    return path.replace(".", "_")


def prefixed(prefix: str, names: Mapping[str, LayerKey]) -> dict[str, LayerKey]:
    """`names` with `prefix` before each."""
    return {prefix + name: key for name, key in names.items()}


@cache
def published(arch: str) -> Target:
    """The published model of an architecture, at its true size."""
    return Target(arch, ARCH_NAMES[arch], base_layers.true_size(arch))


@cache
def any_of_class(arch: str) -> Target:
    """Every layer that some model of the class may have, whatever its size."""
    names = [
        key
        for part in base_layers.parts_of(arch)
        for key in by_flat_name(part).values()
        if part != UNET or _is_usual(key.path)
    ]
    return Target(arch, f"a model of {ARCH_NAMES[arch]}'s class", dict.fromkeys(names, ()))


def of_base(location: str | Path) -> Target:
    """The base at `location`: a diffusers folder, a checkpoint file, or `bundled:NAME`.

    Configurations or the header are read, no weights.

    Raises:
        InputError: nothing there, no base model, or one of another architecture.
    """
    path = bundled.resolve(str(location))
    where = printable(path.name)
    if not path.exists():
        raise InputError(f"--base {printable(location)}: there is nothing there. Check the path.")
    arch, configs = _folder_configs(path) if path.is_dir() else _file_configs(path, where)
    try:
        return Target(arch, where, base_layers.of_configs(configs))
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise InputError(
            f"{where}: its configuration is not one of a Stable Diffusion model "
            f"({printable(error, 80)}). Download or copy the model again."
        ) from error


def _folder_configs(path: Path) -> tuple[str, Configs]:
    """Architecture, and part -> configuration, of a folder in diffusers layout."""
    from lora_diffusion.families import detect

    arch = _supported(path, detect.folder(path))
    return arch, {
        part: detect.read_json(path / part / "config.json") for part in base_layers.parts_of(arch)
    }


def _file_configs(path: Path, where: str) -> tuple[str, Configs]:
    """The same of a single-file checkpoint, from the shapes of its tensors."""
    from lora_diffusion.families import detect, ldm_configs, legacy

    with legacy.opened(path, lambda _: None) as header:
        arch = _supported(path, detect.checkpoint(header, path.with_suffix(".yaml")))
        shapes = header.shapes()
    clip, open_clip = ldm_configs.clip_config, ldm_configs.open_clip_config
    configs: Configs = {UNET: ldm_configs.unet_config(shapes, arch, where)}
    if arch == "sd15":
        configs[TEXT_ENCODER] = clip(shapes, detect.SD1_TEXT_PREFIX, arch, where)
    elif arch == "sd21":
        prefix = detect.SD2_TEXT_PREFIX
        configs[TEXT_ENCODER] = open_clip(shapes, prefix, arch, TEXT_ENCODER, where)
    else:
        prefix = detect.SDXL_TEXT_2_PREFIX
        configs[TEXT_ENCODER] = clip(shapes, detect.SDXL_TEXT_PREFIX, arch, where)
        configs[TEXT_ENCODER_2] = open_clip(shapes, prefix, arch, TEXT_ENCODER_2, where)
    return arch, configs


def _supported(path: Path, found: Found) -> str:
    if found.arch not in ARCH_NAMES:
        raise InputError(
            f"{printable(path.name)}: is {found.describe()}. Give a base of SD 1.x, 2.x or SDXL."
        )
    return found.arch


def _is_usual(path: str) -> bool:
    if path.startswith("mid_block."):
        return path.removeprefix("mid_block.").startswith(tuple(_MIDDLE))
    unit = _UNIT.fullmatch(path)
    return unit is None or int(unit[4]) < _UNITS[unit[1]]


def _original_names(paths: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Each UNet path and what the original code calls it: blocks are counted through all levels."""
    known = list(paths)
    first = {
        ("down", level): 1 + index for level, index in enumerate(_starts(known, "down"))
    } | {("up", level): index for level, index in enumerate(_starts(known, "up"))}  # fmt: skip
    for path in known:
        unit, sampler = _UNIT.fullmatch(path), _SAMPLER.fullmatch(path)
        if path in _ENDS:
            yield path, _ENDS[path]
        elif unit:
            side, level, kind, index, rest = unit.groups()
            blocks = "input_blocks" if side == "down" else "output_blocks"
            number = first[side, int(level)] + int(index)
            inside = _RESNET[rest] if kind == "resnets" else rest
            yield path, f"{blocks}.{number}.{int(kind == 'attentions')}.{inside}"
        elif sampler:
            side, level = sampler[1], int(sampler[2])
            units = _units(known, side, level)
            if side == "down":  # a block of its own
                yield path, f"input_blocks.{first[side, level] + units}.0.op"
            else:  # the last thing in the last block of the level
                attends = any(p.startswith(f"up_blocks.{level}.attentions.") for p in known)
                yield path, f"output_blocks.{first[side, level] + units - 1}.{1 + attends}.conv"
        else:
            _, kind, index, rest = path.split(".", 3)
            inside = _RESNET[rest] if kind == "resnets" else rest
            yield path, f"middle_block.{_MIDDLE[f'{kind}.{index}']}.{inside}"


def _starts(paths: list[str], side: str) -> Iterator[int]:
    """The number of each level's first block, counted from 0."""
    number, level = 0, 0
    while units := _units(paths, side, level):
        yield number
        has_own_sampler = f"{side}_blocks.{level}.downsamplers.0.conv" in paths
        number += units + has_own_sampler
        level += 1


def _units(paths: list[str], side: str, level: int) -> int:
    start = f"{side}_blocks.{level}.resnets."
    return len({p.removeprefix(start).split(".", 1)[0] for p in paths if p.startswith(start)})
