"""What a search turns, and what its numbers mean."""

from __future__ import annotations

from lora_diffusion.keys import LayerKey
from trainers.search.knobs import Knob, knobs, to_weights

UP = LayerKey("unet", "up_blocks.1.attentions.0.proj_in")
UP_RES = LayerKey("unet", "up_blocks.1.resnets.0.conv1")
MID = LayerKey("unet", "mid_block.resnets.0.conv1")
OUT = LayerKey("unet", "conv_out")
TEXT = LayerKey("text_encoder", "text_model.encoder.layers.0.mlp.fc1")
ADAPTERS = {"fox": [UP, UP_RES, MID, OUT, TEXT], "ink": [UP]}


def test_there_is_a_knob_for_each_thing_that_an_adapter_has():
    assert knobs(ADAPTERS, "adapter") == [Knob("fox"), Knob("ink")]
    assert knobs(ADAPTERS, "component") == [
        Knob("fox", "text"), Knob("fox", "unet"), Knob("ink", "unet")
    ]  # fmt: skip
    blocks = [knob.what for knob in knobs(ADAPTERS, "block") if knob.adapter == "fox"]
    assert blocks == ["conv_out", "mid", "text", "up.1"]


def test_numbers_become_weights_of_the_layers_they_are_for():
    whole = to_weights({Knob("fox"): 0.804, Knob("ink"): -0.3})
    assert (str(whole["fox"]), str(whole["ink"])) == ("0.8", "-0.3")
    parts = to_weights(dict.fromkeys(knobs({"fox": ADAPTERS["fox"]}, "component"), 0.5))["fox"]
    assert (parts.of(UP), parts.of(TEXT)) == (0.5, 0.5)
    numbers = {knob: n / 10 for n, knob in enumerate(knobs({"fox": ADAPTERS["fox"]}, "block"))}
    blocks = to_weights(numbers)["fox"]
    assert [blocks.of(key) for key in (OUT, MID, TEXT, UP, UP_RES)] == [0, 0.1, 0.2, 0.3, 0.3]


def test_a_knob_reads_what_its_numbers_were_made_into():
    for per in ("adapter", "component", "block"):
        turned = knobs(ADAPTERS, per)
        numbers = {knob: n / 10 for n, knob in enumerate(turned, 1)}
        weights = to_weights(numbers)
        assert {knob: round(knob.read(weights[knob.adapter]), 6) for knob in turned} == numbers
