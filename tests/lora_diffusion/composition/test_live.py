"""Live composition: the sum of weighted updates against the untouched base."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lora_diffusion import compose, load
from lora_diffusion.composition.weights import Weights
from lora_diffusion.errors import InputError
from lora_diffusion.generate import PictureSpec, draw
from lora_diffusion.keys import UNET, live_modules
from tests.conftest import state_bytes
from tests.lora_diffusion.composition.conftest import WEIGHTS

PICTURE = PictureSpec("a red circle", seed=3, sampling_steps=4, cfg=3.0, width_px=64, height_px=64)


def array(image) -> np.ndarray:
    return np.asarray(image, dtype=int)


def test_the_output_is_that_of_w0_plus_the_sum_of_weighted_deltas(parts, forward, tiny_four):
    plain = forward()
    before = {part: state_bytes(model) for part, model in parts.items()}
    composition = compose(parts, list(zip(tiny_four, WEIGHTS, strict=True)))
    live = forward()
    summed = {key: composition.weight(key) for key in composition.adapted()}
    composition.close()
    assert {part: state_bytes(model) for part, model in parts.items()} == before
    # independently: the deltas of the files, each on the untouched weight
    modules = live_modules(parts)
    files = [load(path, {k: tuple(v.shape) for k, v in summed.items()}) for path in tiny_four]
    for key, total in summed.items():
        own = modules[key].weight.data
        expected = own.double()
        for file, weight in zip(files, WEIGHTS, strict=True):
            if key in file.layers:
                expected = expected + weight * file.layers[key].delta(own).double()
        torch.testing.assert_close(total.double(), expected, rtol=1e-5, atol=1e-6)
        modules[key].weight.data = total
    baked = forward()
    assert (live - plain).abs().max() > 0.05
    torch.testing.assert_close(live, baked, rtol=1e-4, atol=1e-5)


def test_no_order_changes_a_bit(parts, forward, tiny_four):
    outputs = []
    for order in ((0, 1, 2, 3), (3, 2, 1, 0), (2, 0, 3, 1)):
        with compose(parts, [(tiny_four[index], WEIGHTS[index]) for index in order]):
            outputs.append(forward())
    assert all(torch.equal(output, outputs[0]) for output in outputs)


def test_weights_change_without_loading(parts, forward, tiny_four, monkeypatch):
    lora, locon = tiny_four[:2]
    with compose(parts, [(lora, 1.0), (locon, 0.5)]) as composition:
        monkeypatch.setattr("lora_diffusion.composition.live.load_source", None)
        composition.set_weights("lora", "0.5,text=0,mid=0")
        changed = forward()
        composition.enabled = False
        off = forward()
        composition.enabled = True
        assert torch.equal(forward(), changed)
        composition.remove("locon")
        assert composition.names == ("lora",)
        alone = forward()
        monkeypatch.undo()
        composition.set_weights("lora", 0)
        assert torch.equal(forward(), off)
    plain = forward()
    assert torch.equal(off, plain)
    with compose(parts, [(lora, Weights(0.5, {"text": 0.0}, {"mid": 0.0}))]):
        assert torch.equal(forward(), alone)
    with compose(parts) as composition:
        assert composition.add(lora) == "lora"
        assert composition.add(load(lora), 1.0, name="lora") == "lora#2"
        assert composition.add(locon) == "locon"
        with pytest.raises(InputError, match=r"'style'.*'lora', 'lora#2', 'locon'"):
            composition.set_weights("style", 1)
        twice = forward()
    with compose(parts, [(lora, 2), (locon, 1)]):
        torch.testing.assert_close(forward(), twice, rtol=1e-4, atol=1e-5)


def test_one_step_s_weights_are_a_picture_s_own(base, four):
    """A schedule draws what is drawn by hand with the weights changed between the steps."""
    style = four[1]
    with compose(base, [(style, "0.8,steps=0:1;0.5:0")]) as composition:
        scheduled = array(composition.draw([PICTURE])[0])
        assert composition.weights("locon").of(composition.adapted()[0]) == 0.8

        class ByHand:
            def encode(self, pictures):
                composition.set_weights("locon", 0.8)
                first = composition.encode(pictures)
                composition.set_weights("locon", 0.0)
                return replace(first, later=[(0.5, composition.encode(pictures))])

            def direct(self, done, latent_size, regions):
                composition.set_weights("locon", 0.8 if done < 0.5 else 0.0)

            predict = staticmethod(base.predict)

        by_hand = array(draw(base, [PICTURE], conductor=ByHand())[0])
        composition.set_weights("locon", 0.8)
        whole = array(composition.draw([PICTURE])[0])
        composition.set_weights("locon", 0)
        none = array(composition.draw([PICTURE])[0])
    assert np.array_equal(scheduled, by_hand)
    assert np.abs(scheduled - whole).max() > 5
    assert np.abs(scheduled - none).max() > 5
    assert np.array_equal(none, array(draw(base, [PICTURE])[0]))


def test_the_text_encoder_s_adapters_count_in_prompts(base, four):
    with compose(base, [(four[0], "unet=0")]) as composition:
        by_text = array(composition.draw([PICTURE])[0])
        composition.set_weights("lora", "text=0,unet=0")
        none = array(composition.draw([PICTURE])[0])
    assert np.abs(by_text - none).max() > 5


def test_names_with_dots_and_like_each_other(parts, forward, tiny_four, tmp_path):
    names = ("v1.5", "v1_5", "v1%5", "keys")
    paths = [Path(shutil.copy(tiny_four[0], tmp_path / f"{name}.safetensors")) for name in names]
    with compose(parts, [(path, 0.25) for path in paths]) as composition:
        assert composition.names == names
        four_quarters = forward()
    with compose(parts, [(tiny_four[0], 1.0)]):
        torch.testing.assert_close(forward(), four_quarters, rtol=1e-4, atol=1e-5)


def test_what_cannot_be_put_on_leaves_nothing(parts, tiny_four):
    before = {part: state_bytes(model) for part, model in parts.items()}
    with compose(parts, [(tiny_four[1], 1.0)]):
        with pytest.raises(InputError, match="locon"):  # a second composition on the same models
            compose(parts, [(tiny_four[0], 1.0), (tiny_four[1], 1.0)])
        assert not [name for name, _ in parts[UNET].named_modules() if "composed lora" in name]
    assert {part: state_bytes(model) for part, model in parts.items()} == before


def test_models_alone_can_be_composed_but_not_drawn(parts, tiny_four):
    with compose({UNET: parts[UNET]}) as composition:
        with pytest.raises(InputError, match="text_encoder"):
            composition.add(tiny_four[0])
        with pytest.raises(InputError, match="whole base"):
            composition.draw([PICTURE])
