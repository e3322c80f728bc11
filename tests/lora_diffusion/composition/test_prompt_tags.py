"""`<lora:name:0.8>` in prompts, as A1111 reads it."""

from __future__ import annotations

import pytest

from lora_diffusion.composition.prompt_tags import PromptTag, read_tags
from lora_diffusion.composition.weights import Weights
from lora_diffusion.errors import InputError


def test_tags_are_cut_out_and_nothing_else_changes():
    prompt, tags = read_tags("a cat,  <lora:ink v1.2:0.8>, (red:1.2) <hypernet:x:1> <lyco:b>")
    assert prompt == "a cat,  , (red:1.2) <hypernet:x:1>"
    assert tags == (PromptTag("ink v1.2", Weights(0.8)), PromptTag("b", Weights()))
    assert read_tags(" a cat ") == (" a cat ", ())


@pytest.mark.parametrize(
    ("tag", "weights"),
    [
        # A1111's order: text encoder, UNet
        ("<lora:a:0.8:0.5>", Weights(models={"text": 0.8, "unet": 0.5})),
        ("<lora:a:te=0.5:unet=1>", Weights(models={"text": 0.5, "unet": 1.0})),
        # the UNet follows the text encoder where it has no number of its own
        ("<lora:a:0.8:te=0>", Weights(0.0)),
        ("<lora:a:0.8:unet=0>", Weights(models={"text": 0.8, "unet": 0.0})),
        ("<lora:a:-.5>", Weights(-0.5)),
        ("<lora:a:0.8,mid=0,steps=0:1;0.5:0>", Weights.parse("0.8,mid=0,steps=0:1;0.5:0")),
    ],
)
def test_weights_in_tags(tag, weights):
    found = read_tags(f"x {tag}")[1][0]
    assert found.weights == weights
    assert read_tags(str(found))[1] == (found,)


def test_a_list_of_block_weights_in_a_tag():
    numbers = ",".join(["0.5", *["1"] * 5, "0", *["1"] * 10])
    weights = read_tags(f"<lora:a:0.8:lbw={numbers}>")[1][0].weights
    assert weights.overall == 0.8
    assert (weights.models["text"], weights.blocks["down.2.1"]) == (0.5, 0.0)


@pytest.mark.parametrize("tag", ["<lora:>", "<lora:a:loud>", "<lora:a:1:2:3>", "<lora:a:lbw=MID>"])
def test_a_tag_that_cannot_be_read_is_named(tag):
    with pytest.raises(InputError) as caught:
        read_tags(tag)
    assert tag in str(caught.value)
