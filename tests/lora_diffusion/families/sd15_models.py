"""Tiny models of Stable Diffusion 1.x's true classes and block structure, in both layouts.

The names of the checkpoint layout come from the table in this file, written from the layout of
CompVis' original code, not from the converter under test: a round trip proves both.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

BOS, EOS = "<|startoftext|>", "<|endoftext|>"
WIDTH = 64  # of the token states; one CLIP head
LAYERS = 3

SCHEDULER: dict[str, object] = {
    "_class_name": "PNDMScheduler",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
}
MODEL_INDEX: dict[str, object] = {
    "_class_name": "StableDiffusionPipeline",
    "scheduler": ["diffusers", "PNDMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


@dataclass
class Models:
    """One tiny model, whole."""

    unet: UNet2DConditionModel
    vae: AutoencoderKL
    text: CLIPTextModel
    tokenizer: CLIPTokenizer
    text_2: CLIPTextModelWithProjection | None = None
    tokenizer_2: CLIPTokenizer | None = None

    def parts(self) -> dict[str, nn.Module]:
        parts: dict[str, nn.Module] = {"unet": self.unet, "vae": self.vae}
        parts["text_encoder"] = self.text
        return parts if self.text_2 is None else parts | {"text_encoder_2": self.text_2}


def byte_tokenizer() -> CLIPTokenizer:
    """A CLIP tokenizer without merges: one token a letter, 514 in all."""
    printing = [*range(33, 127), *range(161, 173), *range(174, 256)]
    symbols = [chr(b) for b in printing] + [chr(256 + n) for n in range(256 - len(printing))]
    tokens = [*symbols, *(s + "</w>" for s in symbols), BOS, EOS]
    return CLIPTokenizer(vocab={t: i for i, t in enumerate(tokens)}, merges=[], model_max_length=77)


def make_models(seed: int = 0, *, vocabulary: int = 514) -> Models:
    """SD1.5's four levels, two layers each, at a hundredth of its width."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(32, 32, 64, 64),
            cross_attention_dim=WIDTH,
            attention_head_dim=8,
        )
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(32, 32, 64, 64),
            layers_per_block=2,
            scaling_factor=0.18215,
        )
        text = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=vocabulary,
                hidden_size=WIDTH,
                intermediate_size=2 * WIDTH,
                num_hidden_layers=LAYERS,
                num_attention_heads=1,
                hidden_act="quick_gelu",
                bos_token_id=vocabulary - 2,
                eos_token_id=vocabulary - 1,
                pad_token_id=vocabulary - 1,
            )
        )
    for model in (unet, vae, text):
        model.eval().requires_grad_(False)
    return Models(unet, vae, text, byte_tokenizer())


def save_folder(
    models: Models,
    folder: Path,
    *,
    variant: str | None = None,
    index: dict[str, object] = MODEL_INDEX,
    scheduler: dict[str, object] = SCHEDULER,
) -> Path:
    """`models` as a diffusers folder."""
    models.unet.save_pretrained(folder / "unet", variant=variant)
    models.vae.save_pretrained(folder / "vae", variant=variant)
    models.text.save_pretrained(folder / "text_encoder", variant=variant)
    models.tokenizer.save_pretrained(folder / "tokenizer")
    if models.text_2 is not None and models.tokenizer_2 is not None:
        models.text_2.save_pretrained(folder / "text_encoder_2", variant=variant)
        models.tokenizer_2.save_pretrained(folder / "tokenizer_2")
    write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
    write_json(folder / "model_index.json", index)
    return folder


def write_json(path: Path, document: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document), encoding="utf-8")


def ldm_tensors(models: Models) -> dict[str, Tensor]:
    """`models` under the names of a single-file checkpoint."""
    tensors: dict[str, Tensor] = {}
    for part, model in models.parts().items():
        for name, tensor in model.state_dict().items():
            tensors[ldm_name(part, name)] = tensor.reshape(ldm_shape(part, name, tensor.shape))
    return tensors


def ldm_name(part: str, name: str) -> str:
    """What a single-file checkpoint calls the parameter `name` of a part."""
    if part == "unet":
        return f"model.diffusion_model.{unet_name(name)}"
    if part == "vae":
        return f"first_stage_model.{_vae_name(name)}"
    return f"cond_stage_model.transformer.text_model.{name.removeprefix('text_model.')}"


def ldm_shape(part: str, name: str, shape: Sequence[int]) -> tuple[int, ...]:
    """Its shape there: the attention in the middle of the VAE is written as 1x1 convolutions."""
    as_conv = part == "vae" and ".attentions." in name and len(shape) == 2
    return (*shape, 1, 1) if as_conv else tuple(shape)


def save_checkpoint(
    tensors: dict[str, Tensor],
    path: Path,
    *,
    dtype: torch.dtype = torch.float32,
    metadata: dict[str, str] | None = None,
) -> Path:
    """`tensors` as a .safetensors file, floating-point ones in `dtype`."""
    cast = {
        name: (t.to(dtype) if t.is_floating_point() else t).contiguous().clone()
        for name, t in tensors.items()
    }
    save_file(cast, path, metadata=metadata)
    return path


_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_UNET_ENDS = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_PER_LEVEL = 3  # input blocks of one level: two layers, one step down; output blocks: three layers


def unet_name(name: str, *, lowest_attends: bool = False) -> str:
    """`name` as CompVis spells it; SDXL has attention on its lowest level, SD1.x and SD2.x not."""
    for new, old in _UNET_ENDS.items():
        if name.startswith(new + "."):
            return old + name.removeprefix(new)
    block, rest = name.split(".", 1)
    if block == "mid_block":
        kind, index, tail = rest.split(".", 2)
        place = {"resnets.0": 0, "attentions.0": 1, "resnets.1": 2}[f"{kind}.{index}"]
        return f"middle_block.{place}.{_inside(kind, tail)}"
    level, kind, index, tail = rest.split(".", 3)
    if block == "down_blocks":
        first = 1 + _PER_LEVEL * int(level)
        if kind == "downsamplers":
            return f"input_blocks.{first + 2}.0.op.{tail.removeprefix('conv.')}"
        column = 0 if kind == "resnets" else 1
        return f"input_blocks.{first + int(index)}.{column}.{_inside(kind, tail)}"
    first = _PER_LEVEL * int(level)
    if kind == "upsamplers":
        column = 2 if level != "0" or lowest_attends else 1  # after the attention, if any
        return f"output_blocks.{first + 2}.{column}.{tail}"
    column = 0 if kind == "resnets" else 1
    return f"output_blocks.{first + int(index)}.{column}.{_inside(kind, tail)}"


def _inside(kind: str, tail: str) -> str:
    if kind == "attentions":
        return tail
    leaf, parameter = tail.rsplit(".", 1)
    return f"{_RESNET[leaf]}.{parameter}"


_VAE_ATTENTION = {
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}


def _vae_name(name: str) -> str:
    words = name.split(".")
    if words[0] in ("quant_conv", "post_quant_conv"):
        return name
    side, rest = words[0], words[1:]
    if rest[0] in ("conv_in", "conv_out", "conv_norm_out"):
        return f"{side}.{rest[0].replace('conv_norm_out', 'norm_out')}.{rest[1]}"
    if rest[0] == "mid_block":
        if rest[1] == "attentions":
            leaf, parameter = ".".join(rest[3:-1]), rest[-1]
            return f"{side}.mid.attn_1.{_VAE_ATTENTION[leaf]}.{parameter}"
        return f"{side}.mid.block_{int(rest[2]) + 1}.{_vae_resnet(rest[3:])}"
    level = int(rest[1])
    place = f"down.{level}" if rest[0] == "down_blocks" else f"up.{3 - level}"
    if rest[2] == "resnets":
        return f"{side}.{place}.block.{rest[3]}.{_vae_resnet(rest[4:])}"
    step = {"downsamplers": "downsample", "upsamplers": "upsample"}[rest[2]]
    return f"{side}.{place}.{step}.{'.'.join(rest[4:])}"


def _vae_resnet(words: list[str]) -> str:
    return ".".join("nin_shortcut" if word == "conv_shortcut" else word for word in words)
