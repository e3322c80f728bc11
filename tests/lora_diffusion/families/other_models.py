"""Tiny models of SD2.x's and SDXL's true classes and block structure, in both layouts.

As in `sd15_models`, checkpoint names come from tables written here, from the layout of Stability's
original code and of OpenCLIP, not from the converter under test.
"""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from tests.lora_diffusion.families import sd15_models
from tests.lora_diffusion.families.sd15_models import (
    MODEL_INDEX,
    SCHEDULER,
    WIDTH,
    Models,
    byte_tokenizer,
)

VOCABULARY = 514
SD2_LAYERS = 3  # used, of the four that the checkpoint holds
WIDTH_2 = 2 * WIDTH  # of SDXL's second encoder
POOLED = 96  # its projection, of another width so that a transposition shows
TIME_WIDTH = 256  # of each size number's embedding

V_SCHEDULER = SCHEDULER | {"prediction_type": "v_prediction"}
SDXL_INDEX = MODEL_INDEX | {
    "_class_name": "StableDiffusionXLPipeline",
    "force_zeros_for_empty_prompt": True,
    "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
    "tokenizer_2": ["transformers", "CLIPTokenizer"],
}


def make_sd21(seed: int = 1) -> Models:
    """SD2.1's four levels with linear projections and heads of 64; three of four text layers."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(32, 32, 64, 64),
            cross_attention_dim=WIDTH,
            attention_head_dim=(1, 1, 1, 1),
            use_linear_projection=True,
            upcast_attention=True,
        )
        vae = _vae(0.18215)
        text = CLIPTextModel(_text(WIDTH, SD2_LAYERS, "gelu"))
    return _frozen(Models(unet, vae, text, _padded_tokenizer()))


def make_sdxl(seed: int = 2) -> Models:
    """SDXL's three levels, the lower two with two and three transformer layers."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(32, 32, 64),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 2, 3),
            attention_head_dim=(1, 1, 1),
            cross_attention_dim=WIDTH + WIDTH_2,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=TIME_WIDTH,
            projection_class_embeddings_input_dim=POOLED + 6 * TIME_WIDTH,
        )
        vae = _vae(0.13025)
        text = CLIPTextModel(_text(WIDTH, sd15_models.LAYERS, "quick_gelu"))
        text_2 = CLIPTextModelWithProjection(_text(WIDTH_2, 4, "gelu", POOLED))
    return _frozen(Models(unet, vae, text, byte_tokenizer(), text_2, _padded_tokenizer()))


def save_sd21(models: Models, folder: Path, *, v_prediction: bool = True) -> Path:
    scheduler = V_SCHEDULER if v_prediction else SCHEDULER
    return sd15_models.save_folder(models, folder, scheduler=scheduler)


def save_sdxl(models: Models, folder: Path, **scheduler: object) -> Path:
    return sd15_models.save_folder(
        models, folder, index=SDXL_INDEX, scheduler=SCHEDULER | scheduler
    )


def ldm_tensors(models: Models) -> dict[str, Tensor]:
    """`models` under the names of a single-file checkpoint of SD2.x or SDXL."""
    is_xl = models.text_2 is not None
    tensors: dict[str, Tensor] = {}
    for name, tensor in models.unet.state_dict().items():
        tensors[f"model.diffusion_model.{_unet_name(name, is_xl)}"] = tensor
    for name, tensor in models.vae.state_dict().items():
        shape = sd15_models.ldm_shape("vae", name, tensor.shape)
        tensors[sd15_models.ldm_name("vae", name)] = tensor.reshape(shape)
    if models.text_2 is None:
        tensors |= open_clip_tensors(models.text, "cond_stage_model.model.")
        tensors |= _last_layer(tensors, "cond_stage_model.model.")
        return tensors
    for name, tensor in models.text.state_dict().items():
        bare = name.removeprefix("text_model.")
        tensors[f"conditioner.embedders.0.transformer.text_model.{bare}"] = tensor
    return tensors | open_clip_tensors(models.text_2, "conditioner.embedders.1.model.")


_OPEN_CLIP = {
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm.weight": "ln_final.weight",
    "final_layer_norm.bias": "ln_final.bias",
}
_OPEN_CLIP_LAYER = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "self_attn.out_proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}


def open_clip_tensors(
    model: CLIPTextModel | CLIPTextModelWithProjection, prefix: str
) -> dict[str, Tensor]:
    """A text encoder as OpenCLIP saves it, with what CLIP has besides."""
    state = {n.removeprefix("text_model."): t for n, t in model.state_dict().items()}
    tensors = {prefix + "logit_scale": torch.tensor(4.6)}
    width = model.config.hidden_size
    tensors[prefix + "text_projection"] = torch.ones(width, width)  # SD2.x's is not used
    for name, tensor in state.items():
        if name == "text_projection.weight":
            tensors[prefix + "text_projection"] = tensor.T
        elif name in _OPEN_CLIP:
            tensors[prefix + _OPEN_CLIP[name]] = tensor
        elif ".q_proj." in name:
            three = [state[name.replace("q_proj", f"{x}_proj")] for x in "qkv"]
            number, leaf = name.split(".")[2], name.rsplit(".", 1)[1]
            place = f"{prefix}transformer.resblocks.{number}.attn.in_proj_{leaf}"
            tensors[place] = torch.cat(three)
        elif ".k_proj." not in name and ".v_proj." not in name:
            number, module = name.removeprefix("encoder.layers.").split(".", 1)
            module, leaf = module.rsplit(".", 1)
            place = f"{prefix}transformer.resblocks.{number}.{_OPEN_CLIP_LAYER[module]}.{leaf}"
            tensors[place] = tensor
    return tensors


def _last_layer(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The layer that SD2.x does not use: any numbers."""
    last = f"{prefix}transformer.resblocks.{SD2_LAYERS - 1}."
    extra = f"{prefix}transformer.resblocks.{SD2_LAYERS}."
    return {n.replace(last, extra): t + 1 for n, t in tensors.items() if n.startswith(last)}


def _unet_name(name: str, is_xl: bool) -> str:
    for new, old in (("linear_1", "0"), ("linear_2", "2")):
        if name.startswith(f"add_embedding.{new}."):
            return f"label_emb.0.{old}.{name.rsplit('.', 1)[1]}"
    return sd15_models.unet_name(name, lowest_attends=is_xl)


def _vae(scale: float) -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(32, 32, 64, 64),
        layers_per_block=2,
        scaling_factor=scale,
    )


def _text(width: int, layers: int, activation: str, projection: int = WIDTH) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        hidden_act=activation,
        projection_dim=projection,
        bos_token_id=VOCABULARY - 2,
        eos_token_id=VOCABULARY - 1,
        pad_token_id=0,
    )


def _padded_tokenizer() -> CLIPTokenizer:
    words = byte_tokenizer()
    words.pad_token = "!"
    return words


def _frozen(models: Models) -> Models:
    source = torch.Generator().manual_seed(3)
    for model in models.parts().values():
        model.eval().requires_grad_(False)
        with torch.no_grad():  # biases and norms that would show a mix-up
            for parameter in model.parameters():
                if parameter.ndim == 1:
                    parameter.add_(torch.randn(parameter.shape, generator=source) * 0.02)
    return models
