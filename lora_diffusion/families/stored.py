"""A base's weights where they lie: which tensor of which file holds each layer's weight.

Nothing is loaded to find out; weights are read one at a time. Folders in diffusers layout and
single-file checkpoints (LDM, SGM), whose OpenCLIP encoders keep query, key and value in one tensor.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from lora_diffusion.errors import InputError, printable
from lora_diffusion.families import detect, hub, layout
from lora_diffusion.families.detect import TITLES, UNET_PREFIX
from lora_diffusion.families.ldm_configs import TEXTS
from lora_diffusion.families.locate import locate
from lora_diffusion.formats.container import read_tensor
from lora_diffusion.formats.header import Header, read_header, refuse
from lora_diffusion.formats.layer_names import by_flat_name
from lora_diffusion.formats.sgm_names import sgm_path
from lora_diffusion.keys import TEXT_ENCODER, UNET, LayerKey
from lora_diffusion.shapes import Shape

_CLIP_LEVEL = "text_model."
_JOINT = ("q_proj", "k_proj", "v_proj")
_OPEN_CLIP = {
    "self_attn.out_proj": "attn.out_proj.weight",
    "mlp.fc1": "mlp.c_fc.weight",
    "mlp.fc2": "mlp.c_proj.weight",
}
_FLOATS = frozenset({"F16", "BF16", "F32", "F64"})


@dataclass(frozen=True)
class Place:
    """Where one layer's weight lies.

    Attributes:
        header: of the file.
        name: the tensor.
        third: which third of its rows, where query, key and value share a tensor; else None.
        is_turned: the tensor is the weight's transpose.
    """

    header: Header
    name: str
    third: int | None = None
    is_turned: bool = False

    @property
    def shape(self) -> Shape:
        """The weight's shape."""
        first, *rest = self.header.tensors[self.name].shape
        if self.third is not None:
            first //= len(_JOINT)
        return (*rest, first) if self.is_turned else (first, *rest)

    def within(self, tensor: Tensor) -> Tensor:
        """The weight as a view into the stored `tensor`."""
        part = tensor if self.third is None else tensor.chunk(len(_JOINT))[self.third]
        return part.T if self.is_turned else part


@dataclass(frozen=True)
class StoredBase:
    """A base model on disk.

    Attributes:
        path: folder or file.
        arch: `sd15`, `sd21`, `sdxl`.
        prediction: what it says that it predicts; empty where it does not.
        headers: of every file with weights that adapters go on.
        places: every layer that an adapter fits.
    """

    path: Path
    arch: str
    prediction: str
    headers: tuple[Header, ...]
    places: Mapping[LayerKey, Place]

    def shapes(self) -> dict[LayerKey, Shape]:
        """Weight shape of every layer that an adapter fits."""
        return {key: place.shape for key, place in self.places.items()}

    def weight(self, key: LayerKey) -> Tensor:
        """One layer's weight, as stored, on the CPU.

        Raises:
            InputError: it holds NaN, is quantised, or can't be read; there is no such layer.
        """
        if key not in self.places:
            raise InputError(f"{printable(self.path.name)}: has no layer {key}.")
        place = self.places[key]
        return place.within(stored_tensor(place.header, place.name)).contiguous()


def stored_tensor(header: Header, name: str) -> Tensor:
    """A floating-point tensor of the file.

    Raises:
        InputError: it holds NaN, is quantised, or can't be read.
    """
    dtype = header.tensors[name].dtype
    if dtype not in _FLOATS:
        refuse(
            header.path,
            f"'{name}' is stored as {dtype}, so the model is quantised",
            "Get its fp16, bf16 or fp32 version.",
        )
    try:
        with header.path.open("rb") as file:
            return read_tensor(file, header, name)
    except OSError as error:
        refuse(header.path, f"it cannot be read ({printable(error)})")


def open_stored(location: str | Path) -> StoredBase:
    """The base at `location`: a folder, a `.safetensors` checkpoint, or `bundled:NAME`.

    Raises:
        InputError: there is none, it is incomplete, pickled, broken, or of another architecture.
    """
    source = locate(str(location))
    path = hub.cached_folder(source) if isinstance(source, str) else source
    if path is None:
        raise InputError(
            f"{printable(location)}: is not on this machine. Give the folder or file of a base."
        )
    where = printable(path.name)
    if path.is_dir():
        layout.refuse_if_no_model(path, where)
        said = detect.folder(path)
        arch = _known(said.arch, where)
        found = layout.check_complete(path, arch, where, with_tokenizer=False)
        headers = {
            part: [read_header(file) for file in found[part].files] for part in (UNET, *TEXTS[arch])
        }
        places = {
            key: place
            for part, of_part in headers.items()
            for header in of_part
            for key, place in _in_folder(part, header)
        }
        every = tuple(header for of_part in headers.values() for header in of_part)
        return StoredBase(path, arch, said.prediction, every, places)
    header = read_header(path)
    said = detect.checkpoint(header, path.with_suffix(".yaml"))
    arch = _known(said.arch, where)
    places = dict(_in_checkpoint(header, arch))
    if not places:
        raise InputError(f"{where}: no layers that an adapter fits were found. {layout.AGAIN}")
    return StoredBase(path, arch, said.prediction, (header,), places)


def _known(arch: str, where: str) -> str:
    if arch not in TEXTS:
        raise InputError(
            f"{where}: is {TITLES.get(arch, arch)}. Give a Stable Diffusion 1.x, 2.x or XL."
        )
    return arch


def _in_folder(part: str, header: Header) -> Iterator[tuple[LayerKey, Place]]:
    layers = set(by_flat_name(part).values())
    for name in header.tensors:
        path = name.removesuffix(".weight")
        if part != UNET and path != "text_projection":
            path = _CLIP_LEVEL + path.removeprefix(_CLIP_LEVEL)
        key = LayerKey(part, path)
        if name.endswith(".weight") and key in layers:
            yield key, Place(header, name)


def _in_checkpoint(header: Header, arch: str) -> Iterator[tuple[LayerKey, Place]]:
    for part in (UNET, *TEXTS[arch]):
        for key in by_flat_name(part).values():
            for place in _candidates(header, arch, key):
                if place.name in header.tensors:
                    yield key, place
                    break


def _candidates(header: Header, arch: str, key: LayerKey) -> Iterator[Place]:
    """Where a checkpoint may keep a layer, likeliest first."""
    if key.part == UNET:
        path = sgm_path(key.path)
        yield Place(header, f"{UNET_PREFIX}{path}.weight")
        if ".upsamplers." in key.path:  # in the slot of attention, where the level has none
            yield Place(header, f"{UNET_PREFIX}{path.replace('.2.conv', '.1.conv')}.weight")
        return
    prefix, is_open_clip = TEXTS[arch][key.part]
    if not is_open_clip:
        assert key.part == TEXT_ENCODER
        for level in (_CLIP_LEVEL, ""):  # some early files lack it
            yield Place(header, f"{prefix}{level}{key.path.removeprefix(_CLIP_LEVEL)}.weight")
        return
    if key.path == "text_projection":
        yield Place(header, f"{prefix}text_projection", is_turned=True)
        return
    number, _, inside = key.path.removeprefix("text_model.encoder.layers.").partition(".")
    block = f"{prefix}transformer.resblocks.{number}."
    leaf = inside.removeprefix("self_attn.")
    if leaf in _JOINT:
        yield Place(header, f"{block}attn.in_proj_weight", third=_JOINT.index(leaf))
    else:
        yield Place(header, block + _OPEN_CLIP[inside])
