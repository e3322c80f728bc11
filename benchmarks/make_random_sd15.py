"""Write a full-size Stable Diffusion with random weights, to measure and test with.

    python -m benchmarks.make_random_sd15 OUT [--arch sd15|sd21|sdxl] [--layout folder|checkpoint]
        [--dtype fp16] [--seed 0]

It draws nothing worth looking at, but has every layer at its true size: memory, speed and the
loading code behave as with the real model. Weights are scaled so that activations keep their
order of magnitude and stay finite in fp16. One tensor is in memory at a time (236 MB at most); the
files take 2.1 GB in fp16 (SD2.1 2.6 GB, SDXL 6.9 GB). Single files are written for SD1.5 alone.
Without the open_clip_torch package the folder comes without a tokenizer.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lora_diffusion.families import layout, ldm_configs, tokenizer
from lora_diffusion.families.detect import MODEL_INDEX

DTYPES = {"fp16": (torch.float16, "F16"), "bf16": (torch.bfloat16, "BF16"), "fp32": (None, "F32")}
ITEM_BYTES = {"F16": 2, "BF16": 2, "F32": 4}
EMBEDDING_STD = 0.02
CLASSES = {
    "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}
SDXL_CLASSES = CLASSES | {
    "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
    "tokenizer_2": ["transformers", "CLIPTokenizer"],
}
PIPELINES = {"sd15": CLASSES, "sd21": CLASSES, "sdxl": SDXL_CLASSES}


@dataclass(frozen=True)
class Parameter:
    """One parameter of a part, and how the file spells it."""

    part: str
    name: str
    stored_name: str
    shape: tuple[int, ...]


def parameters(arch: str = "sd15") -> list[Parameter]:
    """Every parameter of a model of that architecture, under diffusers' names."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    make: Mapping[str, Callable[[dict[str, Any]], Any]] = {
        "unet": UNet2DConditionModel.from_config,
        "vae": AutoencoderKL.from_config,
        "text_encoder": lambda c: CLIPTextModel(CLIPTextConfig.from_dict(c)),
        "text_encoder_2": lambda c: CLIPTextModelWithProjection(CLIPTextConfig.from_dict(c)),
    }
    with torch.device("meta"):
        models = {part: make[part](ldm_configs.shipped(arch, part)) for part in layout.stems(arch)}
    return [
        Parameter(part, name, name, tuple(tensor.shape))
        for part, model in models.items()
        for name, tensor in model.state_dict().items()
    ]


def draw(parameter: Parameter, seed: int) -> Tensor:
    """Its random value in fp32, a function of (seed, part, name).

    Biases are 0 and the scales of norms 1; every other layer keeps the variance of its input.
    """
    shape = parameter.shape
    if len(shape) == 1:
        return torch.zeros(shape) if parameter.name.endswith("bias") else torch.ones(shape)
    if "embedding.weight" in parameter.name:
        std = EMBEDDING_STD
    else:
        std = 1 / math.sqrt(math.prod(shape[1:]))
    source = zlib.crc32(f"{seed} {parameter.part} {parameter.name}".encode())
    return torch.randn(shape, generator=torch.Generator().manual_seed(source)) * std


def write_weights(path: Path, listed: Iterable[Parameter], dtype: str, seed: int) -> None:
    """`listed` as one safetensors file, one tensor after another."""
    listed = list(listed)
    torch_dtype, stored = DTYPES[dtype]
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    position = 0
    for p in listed:
        end = position + math.prod(p.shape) * ITEM_BYTES[stored]
        entry = {"dtype": stored, "shape": list(p.shape), "data_offsets": [position, end]}
        header[p.stored_name] = entry
        position = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # the data starts at a multiple of 8
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for p in listed:
            value = draw(p, seed)
            value = value if torch_dtype is None else value.to(torch_dtype)
            file.write(value.flatten().view(torch.uint8).numpy())


def write_folder(out: Path, dtype: str = "fp16", seed: int = 0, arch: str = "sd15") -> Path:
    """The model as a diffusers folder at `out`."""
    listed = parameters(arch)
    shipped = ldm_configs.folder(arch)
    for part, stem in layout.stems(arch).items():
        weights = out / part / f"{stem}.safetensors"
        write_weights(weights, (p for p in listed if p.part == part), dtype, seed)
        shutil.copy(shipped / part / "config.json", out / part / "config.json")
    scheduler = out / layout.SCHEDULER_CONFIG
    scheduler.parent.mkdir(exist_ok=True)
    shutil.copy(shipped / layout.SCHEDULER_CONFIG, scheduler)
    pipeline = "StableDiffusionXLPipeline" if arch == "sdxl" else "StableDiffusionPipeline"
    index: Mapping[str, object] = {"_class_name": pipeline} | PIPELINES[arch]
    (out / MODEL_INDEX).write_text(json.dumps(index, indent=2))
    published = tokenizer.find_bpe_file()
    if published is not None:
        words = tokenizer.for_parts(tokenizer.from_bpe_file(published), arch)
        for name, own in zip(layout.tokenizers(arch), words.values(), strict=True):
            own.save_pretrained(out / name)
    return out


def write_checkpoint(out: Path, dtype: str = "fp16", seed: int = 0) -> Path:
    """SD1.5 as a single-file checkpoint at `out`, with the folder's weights."""
    from tests.lora_diffusion.families.sd15_models import ldm_name, ldm_shape

    listed = [
        Parameter(p.part, p.name, ldm_name(p.part, p.name), ldm_shape(p.part, p.name, p.shape))
        for p in parameters()
    ]
    write_weights(out, listed, dtype, seed)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("out", type=Path, help="folder, or .safetensors file, to write")
    parser.add_argument("--arch", choices=tuple(PIPELINES), default="sd15")
    parser.add_argument("--layout", choices=("folder", "checkpoint"), default="folder")
    parser.add_argument("--dtype", choices=tuple(DTYPES), default="fp16")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.layout == "folder":
        print(write_folder(arguments.out, arguments.dtype, arguments.seed, arguments.arch))
    elif arguments.arch == "sd15":
        print(write_checkpoint(arguments.out, arguments.dtype, arguments.seed))
    else:
        parser.error("--layout checkpoint is for --arch sd15 only; use --layout folder")


if __name__ == "__main__":
    main()
