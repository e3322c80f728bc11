"""Captioning models of the true classes with random weights, saved as a hub download is.

Weights are drawn so wide that the caption depends on the picture.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

SIDE_PX = 32
WORDS = (
    *("a", "photo", "of", "the", "red", "green", "blue", "cat"),
    *("dog", "on", "grass", "sky", "is", "what", "image", "describe"),
)
TAGS = (
    ("general", 9),
    ("sensitive", 9),
    ("blue_sky", 0),
    ("green_grass", 0),
    ("red_(colour)", 0),
    ("^_^", 0),
    ("hero_(series)", 4),
)
# Scores of the tagger by channel mean in 0..1, in the order blue, green, red; and added to them.
TAG_WEIGHTS = (
    (0.0, 0.0, 0.9, 0.0, 0.0, 0.0, 0.0),
    (0.0, 0.0, 0.0, 0.8, 0.0, 0.0, 0.0),
    (0.0, 0.0, 0.0, 0.0, 0.7, 0.4, 0.9),
)
TAG_BIAS = (0.6, 0.3, 0.0, 0.0, 0.0, 0.0, 0.0)


def save_blip(folder: Path) -> None:
    from transformers import BlipConfig, BlipForConditionalGeneration, BlipProcessor
    from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]"]
    tokenizer = _tokenizer(
        special,
        around=("[CLS]", "[SEP]"),
        pad="[PAD]",
        unk="[UNK]",
        bos="[DEC]",
        eos="[SEP]",
        cls="[CLS]",
    )
    width = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
    config = BlipConfig(
        text_config={
            **width,
            "vocab_size": len(tokenizer),
            "encoder_hidden_size": 16,
            "num_hidden_layers": 1,
            "max_position_embeddings": 64,
            "pad_token_id": 0,
            "bos_token_id": 5,
            "sep_token_id": 3,
            "eos_token_id": 3,
            "projection_dim": 16,
        },
        vision_config={
            **width,
            "num_hidden_layers": 1,
            "image_size": SIDE_PX,
            "patch_size": 16,
        },
        projection_dim=16,
    )
    _save(BlipForConditionalGeneration, config, folder, [0, 1, 2, 4, 5])
    BlipProcessor(BlipImageProcessorPil(size=_square()), tokenizer).save_pretrained(folder)


def save_florence2(folder: Path) -> None:
    from transformers import (
        Florence2Config,
        Florence2ForConditionalGeneration,
        Florence2Processor,
    )
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    special = ["<s>", "<pad>", "</s>", "<unk>", "<image>"]
    tokenizer = _tokenizer(special, around=("<s>", "</s>"), pad="<pad>", unk="<unk>")
    config = Florence2Config(
        text_config={
            "model_type": "bart",
            "vocab_size": len(tokenizer),
            "d_model": 16,
            "encoder_layers": 1,
            "decoder_layers": 1,
            "encoder_attention_heads": 2,
            "decoder_attention_heads": 2,
            "encoder_ffn_dim": 16,
            "decoder_ffn_dim": 16,
            "max_position_embeddings": 128,
            "bos_token_id": 0,
            "pad_token_id": 1,
            "eos_token_id": 2,
            "decoder_start_token_id": 2,
            "forced_bos_token_id": 0,
            "forced_eos_token_id": 2,
        },
        vision_config={
            "depths": [1],
            "patch_size": [7],
            "patch_stride": [4],
            "patch_padding": [3],
            "patch_prenorm": [False],
            "embed_dim": [16],
            "num_heads": [2],
            "num_groups": [2],
            "window_size": 8,
            "projection_dim": 16,
        },
        image_token_id=4,
    )
    _save(Florence2ForConditionalGeneration, config, folder, [0, 1, 3, 4])
    pictures = CLIPImageProcessorPil(size=_square(), crop_size=_square(), do_center_crop=False)
    pictures.image_seq_length = (SIDE_PX // 4) ** 2 + 1
    Florence2Processor(pictures, tokenizer).save_pretrained(folder)


# A chat in LLaVA's manner, content in parts; and in JoyCaption's, where content is text and the
# template puts the picture's place.
PARTS_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ message['role'] | upper }} "
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image> "
    "{% else %}{{ part['text'] }} {% endif %}{% endfor %}{% endfor %}ASSISTANT "
)
TEXT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] | upper }} "
    "{% if message['role'] == 'user' %}{% if message['content'] is not string %}"
    "{{ raise_exception('text, please') }}{% endif %}<image> {% endif %}"
    "{{ message['content'] }} {% endfor %}ASSISTANT "
)


def save_llava(folder: Path, template: str | None = PARTS_TEMPLATE) -> None:
    from transformers import LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    special = ["<pad>", "<s>", "</s>", "<unk>", "<image>", "USER", "ASSISTANT", "SYSTEM"]
    tokenizer = _tokenizer(special, around=("<s>", None), pad="<pad>", unk="<unk>")
    width = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
    config = LlavaConfig(
        vision_config={
            **width,
            "model_type": "siglip_vision_model",
            "num_hidden_layers": 1,
            "image_size": SIDE_PX,
            "patch_size": 16,
        },
        text_config={
            **width,
            "model_type": "llama",
            "vocab_size": len(tokenizer),
            "num_hidden_layers": 1,
            "num_key_value_heads": 1,
            "max_position_embeddings": 256,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
        image_token_index=4,
        vision_feature_select_strategy="full",
        vision_feature_layer=-1,
    )
    _save(LlavaForConditionalGeneration, config, folder, [0, 1, 3, 4])
    LlavaProcessor(
        SiglipImageProcessorPil(size=_square()),
        tokenizer,
        patch_size=16,
        vision_feature_select_strategy="full",
        chat_template=template,
    ).save_pretrained(folder)


def save_wd14(folder: Path, *, side_px: int = 448, batch: int | str = "batch") -> None:
    """A tagger of known scores: the mean of each channel times TAG_WEIGHTS, plus TAG_BIAS."""
    from onnx import TensorProto, helper, numpy_helper, save

    folder.mkdir(parents=True, exist_ok=True)
    weights = np.asarray(TAG_WEIGHTS, np.float32) / 255
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["pixels", "axes"], ["means"], keepdims=0),
            helper.make_node("MatMul", ["means", "weights"], ["products"]),
            helper.make_node("Add", ["products", "bias"], ["scores"]),
        ],
        "tagger",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, [batch, side_px, side_px, 3])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [batch, len(TAGS)])],
        [
            numpy_helper.from_array(np.asarray([1, 2], np.int64), "axes"),
            numpy_helper.from_array(weights, "weights"),
            numpy_helper.from_array(np.asarray(TAG_BIAS, np.float32), "bias"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    save(model, folder / "model.onnx")
    with (folder / "selected_tags.csv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["tag_id", "name", "category", "count"])
        rows.writerows([number, name, kind, 1] for number, (name, kind) in enumerate(TAGS))


MODELS: dict[str, Callable[[Path], None]] = {
    "blip": save_blip,
    "florence2": save_florence2,
    "llava": save_llava,
    "wd14": save_wd14,
}


def _square() -> dict[str, int]:
    return {"height": SIDE_PX, "width": SIDE_PX}


def _save(model_class: Any, config: Any, folder: Path, wordless: Sequence[int]) -> None:
    """`wordless` are the special tokens, save the one that ends a text."""
    torch.manual_seed(1)
    model = model_class(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.5)
    # Chance would end some captions at once, and write others without a word.
    model.generation_config.min_new_tokens = 3
    model.generation_config.suppress_tokens = list(wordless)
    for name, bias in model.named_parameters():
        if name.endswith("cls.predictions.bias"):  # BLIP's decoder has no such configuration
            bias.data[list(wordless)] = -1000.0
    model.save_pretrained(folder)


def _tokenizer(
    special: Sequence[str],
    *,
    around: tuple[str, str | None],
    pad: str,
    unk: str,
    bos: str = "<s>",
    eos: str = "</s>",
    cls: str | None = None,
) -> Any:
    """A word a token; `around` is what it puts before and after a text."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    ids = {word: number for number, word in enumerate([*special, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=unk))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    first, last = around
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {last}" if last else f"{first} $A",
        special_tokens=[(word, ids[word]) for word in around if word],
    )
    extra = {"image_token": "<image>"} if "<image>" in ids else {}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=pad,
        unk_token=unk,
        bos_token=bos,
        eos_token=eos,
        cls_token=cls,
        extra_special_tokens=extra,
    )
