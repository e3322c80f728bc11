"""Weights of one adapter: as text, per layer, per step."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_diffusion.base_layers import true_size
from lora_diffusion.composition.blocks import LISTS, block_name, blocks_of
from lora_diffusion.composition.weights import MAX_WEIGHT, Weights, split_weight
from lora_diffusion.errors import InputError
from lora_diffusion.formats.sgm_names import sgm_path
from lora_diffusion.keys import TEXT_ENCODER, TEXT_ENCODER_2, UNET, LayerKey

MID = LayerKey(UNET, "mid_block.attentions.0.transformer_blocks.0.attn1.to_q")
DOWN = LayerKey(UNET, "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k")
UP = LayerKey(UNET, "up_blocks.3.resnets.2.conv1")
TEXT = LayerKey(TEXT_ENCODER, "text_model.encoder.layers.3.mlp.fc1")

numbers = st.floats(-MAX_WEIGHT, MAX_WEIGHT, allow_nan=False)
models = st.dictionaries(
    st.sampled_from(["unet", "text", "text_encoder", "text_encoder_2"]), numbers
)
blocks = st.dictionaries(st.sampled_from(["down", "mid", "up.1", "down.1.0", "conv_in"]), numbers)
shares = st.lists(st.floats(0, 0.99), unique=True, max_size=3).map(sorted)


@given(numbers, models, blocks, shares, st.data())
def test_text_reads_back_as_the_same_weights(overall, models, blocks, shares, data):
    steps = tuple((share, data.draw(numbers)) for share in shares)
    weights = Weights(overall, models, blocks, steps)
    assert Weights.parse(str(weights)) == weights


def test_a_layer_s_weight_is_the_product_of_what_fits_it():
    weights = Weights.parse("0.8, text=0.5, mid=0, in=0.5, down.1=0.25, steps=0:1;0.5:-1")
    assert weights.of(MID) == 0
    assert weights.of(DOWN) == pytest.approx(0.2)  # down.1 counts, not down
    assert weights.of(UP) == 0.8
    assert weights.of(TEXT) == pytest.approx(0.4)
    assert weights.of(UP, done=0.49) == 0.8
    assert weights.of(UP, done=0.5) == -0.8
    second = LayerKey(TEXT_ENCODER_2, TEXT.path)
    both = Weights.parse("text=0.5,te2=0.25")
    assert (both.of(TEXT), both.of(second)) == (0.5, 0.25)


def test_before_a_schedule_s_first_point_the_factor_is_1():
    weights = Weights.parse("steps=0.25:0")
    assert [weights.of(UP, done) for done in (0, 0.2, 0.25, 0.9)] == [1, 1, 0, 0]


@pytest.mark.parametrize("arch", ["sd15", "sdxl"])
def test_a1111_s_numbers_are_the_blocks_of_the_original_code(arch):
    """IN04 is `input_blocks.4` of the original UNet, OUT03 `output_blocks.3`."""
    prefixes = {"input_blocks": "IN", "output_blocks": "OUT"}
    seen = set()
    for key in true_size(arch):
        if key.part != UNET or key.path.startswith(("time_", "add_", "conv_out")):
            continue
        if arch == "sd15" and "up_blocks" in key.path and "samplers" in key.path:
            continue  # sgm_path speaks of SDXL's slots there
        side, number, *_ = sgm_path(key.path).split(".")
        name = f"{prefixes[side]}{int(number):02}" if side in prefixes else "M00"
        assert blocks_of(key.path)[0] == block_name(name), key
        seen.add(name)
    assert seen == set(LISTS[20 if arch == "sdxl" else 26][1:])


def test_a_list_of_block_weights():
    numbers = [0.5] + [1.0] * 16
    numbers[LISTS[17].index("IN04")] = 0.25
    weights = Weights.parse("0.8,lbw=" + ",".join(map(str, numbers)))
    assert weights.of(TEXT) == pytest.approx(0.4)
    assert weights.of(DOWN) == pytest.approx(0.2)
    assert weights.of(MID) == 0.8
    # what the list of 17 has no number for is off, as in the extension
    assert weights.of(LayerKey(UNET, "up_blocks.0.resnets.0.conv1")) == 0
    assert weights.of(LayerKey(UNET, "conv_out")) == 0.8


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("loud", "loud"),
        ("nan", "nan"),
        ("1e9", "between"),
        ("0.8,0.9", "0.8,0.9"),
        ("middle=1", "middle"),
        ("mid=1,mid=0", "twice"),
        ("down.1=", "down.1"),
        ("lbw=1,2,3", "3 numbers"),
        ("steps=0.5:1;0.2:0", "ascend"),
        ("steps=half", "half"),
        ("\x1b[31m=1", "[31m"),
    ],
)
def test_what_cannot_be_meant_is_refused(text, word):
    with pytest.raises(InputError, match=r".") as caught:
        Weights.parse(text)
    assert word in str(caught.value)
    assert "\x1b" not in str(caught.value)


def test_a_file_and_its_weights():
    assert split_weight("a.safetensors") == ("a.safetensors", Weights())
    assert split_weight("a.safetensors:-0.3") == ("a.safetensors", Weights(-0.3))
    assert split_weight(r"C:\a:b.safetensors:0.5") == (r"C:\a:b.safetensors", Weights(0.5))
    path, weights = split_weight("dir/a.safetensors:0.8,mid=0,steps=0:1;0.5:0")
    assert (path, str(weights)) == ("dir/a.safetensors", "0.8,mid=0,steps=0:1;0.5:0")
    with pytest.raises(InputError, match=r"a\.safetensors.*loud"):
        split_weight("a.safetensors:loud")
