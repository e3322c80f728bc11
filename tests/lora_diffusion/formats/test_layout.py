"""What is refused from names and shapes alone."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from lora_diffusion.errors import AdapterFileError
from lora_diffusion.formats import load_adapter
from lora_diffusion.formats.describe import describe
from lora_diffusion.formats.kohya_names import kohya_stem, stem_table
from lora_diffusion.formats.layer_names import by_flat_name
from lora_diffusion.formats.layout import MAX_LAYER_ELEMENTS
from lora_diffusion.keys import PARTS, LayerKey

Write = Callable[..., Path]
STEM = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
KEY = LayerKey("unet", "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k")


def layer(stem: str, inputs: int, outputs: int, rank: int = 1) -> dict[str, tuple[str, list[int]]]:
    return {
        f"{stem}.lora_down.weight": ("F16", [rank, inputs]),
        f"{stem}.lora_up.weight": ("F16", [outputs, rank]),
    }


def test_stems_and_keys_are_inverse() -> None:
    keys = [key for part in PARTS for key in by_flat_name(part).values()]
    for arch in ("sd15", "sdxl"):
        stems = {key: kohya_stem(key, arch) for key in keys}
        spelled = {key: stem for key, stem in stems.items() if stem is not None}
        assert len(set(spelled.values())) == len(spelled) > 2_000
        assert all(stem_table()[stem] == key for key, stem in spelled.items())
        assert {key for key in keys if key not in spelled} == {
            key for key in keys if key.part == "text_encoder_2" and arch != "sdxl"
        }
        assert kohya_stem(LayerKey("unet", "down.blocks.0"), arch) is None
        assert kohya_stem(LayerKey("vae", "x"), arch) is None
        assert kohya_stem(LayerKey("unet", KEY.path.replace("attn2.to", "attn2_to")), arch) is None


@pytest.mark.parametrize("with_base", [True, False])
def test_rank_bombs_are_refused_without_memory(shaped_file: Write, with_base: bool) -> None:
    """Some 0.8 MB of factors that stand for up to 80 GB of update."""
    rng = random.Random(5)
    shapes = dict.fromkeys(stem_table().values(), (320, 768)) if with_base else None
    process = psutil.Process()
    load_adapter(shaped_file(layer(STEM, 768, 320)), shapes)  # imports are not part of the cost
    before, started = process.memory_info().rss, time.perf_counter()
    for _ in range(200):
        inputs = rng.randint(100_000, 300_000)
        stem = rng.choice(list(stem_table()))
        bomb = shaped_file(layer(stem, inputs, 400_000 - inputs), name="bomb.safetensors")
        with pytest.raises(AdapterFileError, match="exhaust memory"):
            load_adapter(bomb, shapes)
        with pytest.raises(AdapterFileError, match="exhaust memory"):
            describe(bomb)
    assert process.memory_info().rss - before < 64 << 20
    assert time.perf_counter() - started < 20


def test_the_largest_real_layers_are_taken(shaped_file: Write) -> None:
    largest = {  # SD 1.x: conv1 of the second up block; SDXL's widest feed-forward
        "lora_unet_up_blocks_1_resnets_0_conv1.lora_down.weight": ("F16", [64, 2560, 3, 3]),
        "lora_unet_up_blocks_1_resnets_0_conv1.lora_up.weight": ("F16", [1280, 64, 1, 1]),
        **layer("lora_unet_mid_block_attentions_0_transformer_blocks_0_ff_net_0_proj", 1280, 10240),
    }
    assert MAX_LAYER_ELEMENTS > 2560 * 9 * 1280
    assert describe(shaped_file(largest)).modules == {"unet": 2}


def test_a_base_of_other_shape_is_refused_before_reading(shaped_file: Write) -> None:
    path = shaped_file(layer(STEM, 768, 320))
    assert load_adapter(path, {KEY: (320, 768)}).layers.keys() == {KEY}
    with pytest.raises(AdapterFileError, match=r"weight of shape \[320, 768\].*\[320, 1024\]"):
        load_adapter(path, {KEY: (320, 1024)})
    with pytest.raises(AdapterFileError, match=r"the base has no layer 'unet\.down_blocks"):
        load_adapter(path, {})


def test_five_layers_that_do_not_fit_are_named(shaped_file: Write) -> None:
    stems = [STEM.replace("_0_attn", f"_{i}_attn") for i in range(8)]
    path = shaped_file({n: t for stem in stems for n, t in layer(stem, 768, 320).items()})
    keys = list(load_adapter(path).layers)
    with pytest.raises(AdapterFileError) as found:
        load_adapter(path, dict.fromkeys(keys, (320, 1024)))
    assert [str(key) in str(found.value) for key in keys] == [True] * 5 + [False] * 3
    assert "and 3 more" in str(found.value)
    with pytest.raises(AdapterFileError) as found:
        load_adapter(path, {})
    assert [str(key) in str(found.value) for key in keys] == [True] * 5 + [False] * 3


@pytest.mark.parametrize("dtype", ["I64", "U8"])
def test_integer_factors_are_refused(shaped_file: Write, dtype: str) -> None:
    tensors = {name: (dtype, shape) for name, (_, shape) in layer(STEM, 768, 320).items()}
    with pytest.raises(AdapterFileError, match=f"holds {dtype}, not floating-point"):
        load_adapter(shaped_file(tensors))


def test_more_bytes_than_any_lora_are_refused(shaped_file: Write) -> None:
    path = shaped_file(layer(STEM, 1 << 34, 1))  # sparse: 32 GiB that take no space
    started = time.perf_counter()
    with pytest.raises(AdapterFileError, match="more than any LoRA"):
        load_adapter(path)
    assert time.perf_counter() - started < 2
