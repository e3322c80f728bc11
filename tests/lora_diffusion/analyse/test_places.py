"""Every layer of the published models has a place on a map."""

from __future__ import annotations

import pytest

from lora_diffusion.analyse.places import ORDER, place_of
from lora_diffusion.base_layers import true_size
from lora_diffusion.keys import LayerKey
from lora_diffusion.targets import matches, select


@pytest.mark.parametrize("arch", ["sd15", "sd21", "sdxl"])
def test_no_two_layers_share_a_place_and_adapted_ones_are_on_the_maps(arch):
    keys = list(true_size(arch))
    places = [place_of(key) for key in keys]
    assert len(set(places)) == len(places)
    adapted = [key for key in keys if key in set(select("all", "unet", keys))]
    for key in adapted:
        place = place_of(key)
        assert place.panel in ("attention", "convolutions")
        assert place.column in ORDER
        assert matches(place.block, key)


def test_names_are_short():
    def place(path: str, part: str = "unet") -> tuple[str, str, str]:
        found = place_of(LayerKey(part, path))
        return found.block, found.row, found.column

    assert place("down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k") == (
        "down.1", "down.1 att 0", "cross k"
    )  # fmt: skip
    assert place("mid_block.attentions.0.transformer_blocks.3.ff.net.2") == (
        "mid", "mid att 0.3", "ff out"
    )  # fmt: skip
    assert place("up_blocks.0.upsamplers.0.conv") == ("up.0", "up.0 upsampler", "conv")
    assert place("text_model.encoder.layers.11.self_attn.q_proj", "text_encoder") == (
        "text_encoder", "layer 11", "q"
    )  # fmt: skip
