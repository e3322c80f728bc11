"""A whole analysis, on adapters whose meeting is known."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from lora_diffusion.adapter import AdapterFile
from lora_diffusion.analyse import results
from lora_diffusion.analyse.pictures import draw_all
from lora_diffusion.analyse.study import Given, analyse
from lora_diffusion.composition.weights import Weights
from lora_diffusion.errors import InputError
from lora_diffusion.factors import LoRAFactors
from lora_diffusion.keys import LayerKey

WIDTH = 40
UP = LayerKey("unet", "up_blocks.1.attentions.0.transformer_blocks.0.attn2.to_v")
DOWN = LayerKey("unet", "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_v")
MID = LayerKey("unet", "mid_block.attentions.0.transformer_blocks.0.attn2.to_v")
TEXT = LayerKey("text_encoder", "text_model.encoder.layers.0.self_attn.q_proj")


def on_axes(*axes: int, strength: float = 1.0) -> LoRAFactors:
    """An update that reads and writes the named axes."""
    rows = torch.eye(WIDTH)[list(axes)]
    return LoRAFactors(down=rows, up=strength * rows.T.contiguous(), alpha=float(len(axes)))


def given(name: str, layers: dict[LayerKey, LoRAFactors], weight: float = 1.0) -> Given:
    return Given(Path(f"{name}.safetensors"), AdapterFile("sd15", layers), Weights(weight))


FIRST = given("first", {UP: on_axes(0, 1, strength=5), DOWN: on_axes(4), TEXT: on_axes(7)})
SECOND = given("second", {UP: on_axes(0, 1), DOWN: on_axes(9, strength=5), MID: on_axes(3)})


def test_each_adapter_is_told_by_layer_and_block():
    found = analyse([FIRST, SECOND])
    first = found.adapters[0]
    assert [layer.path for layer in first.layers] == [TEXT.path, DOWN.path, UP.path]
    assert first.norm == pytest.approx((25 * 2 + 1 + 1) ** 0.5)
    assert first.block_shares()["up.1"] == pytest.approx(50 / 52)
    up = first.layers[-1]
    assert (up.rank, up.effective_rank) == (2, pytest.approx(2))
    assert up.values == pytest.approx((5, 5)) and up.share is None


def test_interference_is_where_directions_are_shared_and_the_loser_less_is_named():
    pair = analyse([FIRST, SECOND]).pairs[0]
    assert [layer.path for layer in pair.layers] == [DOWN.path, UP.path]
    assert pair.blocks[0].block == "up.1"
    assert pair.blocks[0].interference == pytest.approx(1)
    assert pair.blocks[0].overlap == pytest.approx(1)
    # second has 2 of its 28 there, first nearly all
    assert pair.advice == (
        "Turn down second in up.1: 100% of the interference is there, and 7% of second's strength "
        "(first: 96%).",
    )


def test_a_weight_scales_norms_and_a_negative_one_turns_the_cosine():
    found = analyse([FIRST, replace(SECOND, weights=Weights(-0.5))])
    whole = analyse([FIRST, SECOND])
    assert found.adapters[1].norm == pytest.approx(whole.adapters[1].norm / 2)
    up, before = found.pairs[0].layers[1], whole.pairs[0].layers[1]
    assert (up.cosine, before.cosine) == pytest.approx((-1, 1))
    assert up.strength == pytest.approx(before.strength / 2)


def test_a_block_turned_down_interferes_less():
    turned_down = replace(SECOND, weights=Weights.parse("1,up.1=0.25"))
    assert analyse([FIRST, turned_down]).adapters[1].weights == "1,up.1=0.25"
    up = analyse([FIRST, turned_down]).pairs[0].layers[1]
    assert up.strength == pytest.approx(analyse([FIRST, SECOND]).pairs[0].layers[1].strength / 4)


def test_strangers_hardly_meet():
    other = given("other", {UP: on_axes(20, 21), DOWN: on_axes(22)})
    assert "hardly meet" in analyse([FIRST, other]).pairs[0].advice[0]


def test_a_base_gives_shares_and_amplification():
    weights = {key: 2 * torch.eye(WIDTH) for key in (UP, DOWN, MID, TEXT)}
    found = analyse([FIRST], base_weights=weights, base_name="demo")
    up = found.adapters[0].layers[-1]
    assert up.share == pytest.approx(up.norm / (2 * WIDTH**0.5))
    row = next(row for row in found.amplification if row.path == UP.path)
    assert (row.rank, row.block) == (2, "up.1")
    assert row.factor == pytest.approx(5 / 2)


def test_phi_compares_the_down_factors_and_the_updates():
    found = {each.of: each for each in analyse([FIRST, SECOND], layers="up").subspaces}
    assert set(found) == {"A", "update"}
    for each in found.values():
        assert each.layers == 1
        assert each.phi[1][1] == pytest.approx(1)
        assert each.chance[1][1] == pytest.approx(2 / WIDTH)


def test_what_is_written_is_read_again(tmp_path):
    found = analyse(
        [FIRST, SECOND], base_weights={k: torch.eye(WIDTH) for k in (UP, DOWN, MID, TEXT)}
    )
    path = tmp_path / "analysis.json"
    path.write_text(json.dumps(found.as_json()))
    assert results.read(path) == found
    path.write_text("{}")
    with pytest.raises(InputError, match=r"analysis\.json: is not an analysis"):
        results.read(path)


def test_pictures_are_drawn_of_everything(tmp_path):
    made = draw_all(analyse([FIRST, SECOND]), tmp_path)
    names = {path.name for path in made}
    assert names == {
        "layers-1.png", "layers-2.png", "spectra.png", "interference-1.png", "subspaces.png"
    }  # fmt: skip
    for path in made:
        with Image.open(path) as picture:
            colours = picture.convert("RGB").getcolors(1 << 24)
            assert picture.width > 700 and len(colours) > 20


@pytest.mark.parametrize(
    ("others", "options", "reason"),
    [
        ([], {"layers": "*.nothing"}, "no layer of these adapters fits it"),
        (
            [Given(Path("xl.safetensors"), AdapterFile("sdxl", {UP: on_axes(1)}))],
            {},
            "different bases",
        ),
        ([], {"base_weights": {}}, "This base has no layer"),
        (
            [],
            {"base_weights": {k: torch.eye(8) for k in (UP, DOWN, TEXT)}},
            "is for a weight of shape",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(others, options, reason):
    with pytest.raises(InputError, match=reason):
        analyse([FIRST, *others], **options)
