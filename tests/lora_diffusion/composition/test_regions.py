"""Adapters that act in one part of the picture."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from lora_diffusion import compose
from lora_diffusion.composition.regions import Region, box_of, read_mask
from lora_diffusion.errors import InputError
from lora_diffusion.families.base import Conditioning
from lora_diffusion.generate import PictureSpec, draw
from lora_diffusion.injection import AdapterConfig, inject
from lora_diffusion.keys import UNET
from tests.conftest import fill

PICTURE = PictureSpec("a red circle", seed=3, sampling_steps=3, cfg=3.0, width_px=64, height_px=64)
LEFT = torch.cat([torch.ones(64, 32), torch.zeros(64, 32)], dim=1)


def array(image) -> np.ndarray:
    return np.asarray(image, dtype=int)


def test_a_region_of_everything_is_no_region_and_one_of_nothing_no_adapter(base, four):
    with compose(base, [(four[1], 0.8), (four[0], 0.5)]) as composition:
        whole = array(composition.draw([PICTURE])[0])
        for name in composition.names:
            composition.set_region(name, Region("all", torch.ones(4, 4)))
        everywhere = array(composition.draw([PICTURE])[0])
        for name in composition.names:
            composition.set_region(name, Region("none", torch.zeros(4, 4)))
        nowhere = array(composition.draw([PICTURE])[0])
        for name in composition.names:
            composition.set_region(name, None)
        again = array(composition.draw([PICTURE])[0])
    plain = array(draw(base, [PICTURE])[0])
    assert np.abs(everywhere - whole).max() <= 1
    assert np.abs(nowhere - plain).max() <= 1
    assert np.array_equal(again, whole)
    assert np.abs(whole - plain).max() > 20


def test_each_side_reads_its_own_prompt_with_its_own_adapter(parts, tmp_path):
    """Cross-attention's output in a region is what its adapter and prompt alone would give."""
    unet = parts[UNET]
    files = {}
    for side, seed in (("left", 1), ("right", 2)):
        handle = inject({UNET: unet}, AdapterConfig(rank=2, targets="*.attn2.to_k,*.attn2.to_v"))
        fill(handle, seed, 0.5)
        files[side] = tmp_path / f"{side}.safetensors"
        handle.save(files[side], dtype="fp32")
        handle.remove()
    source = torch.Generator().manual_seed(5)
    contexts = {name: torch.randn(1, 7, 32, generator=source) for name in ("rest", *files)}
    hidden = torch.randn(1, 64, 16, generator=source)  # 8 x 8 tokens
    attention = unet.get_submodule("down_blocks.0.attentions.0.transformer_blocks.0.attn2")

    def alone(side: str) -> torch.Tensor:
        with compose({UNET: unet}, [(files[side], 0.7)]):
            return attention(hidden, encoder_hidden_states=contexts[side])

    expected = {side: alone(side) for side in files}
    untouched = attention(hidden, encoder_hidden_states=contexts["rest"])
    masks = {side: torch.zeros(64, 64) for side in files}  # of 8 columns 3, 2 neither's, 3
    masks["left"][:, :24] = 1
    masks["right"][:, 40:] = 1
    with compose({UNET: unet}) as composition:
        for side, path in files.items():
            composition.add(path, 0.7, region=Region(side, masks[side]))
        given = {side: Conditioning(contexts[side]) for side in files}
        composition.direct(0.0, (8, 8), given)
        mixed = attention(hidden, encoder_hidden_states=contexts["rest"])
    for output, columns in (
        (expected["left"], slice(0, 3)),
        (untouched, slice(3, 5)),
        (expected["right"], slice(5, 8)),
    ):
        torch.testing.assert_close(
            mixed.reshape(8, 8, 16)[:, columns], output.reshape(8, 8, 16)[:, columns]
        )
    assert (expected["left"] - untouched).abs().max() > 0.01
    assert torch.equal(attention(hidden, encoder_hidden_states=contexts["rest"]), untouched)


def test_where_masks_overlap_they_share(parts):
    composition = compose(parts)
    stage = composition._stage
    stage.set({name: Region(name, LEFT) for name in ("a", "b")})
    stage.enter((8, 8), {})
    shares = stage.shares(torch.zeros(1, 64, 16))
    left = torch.tensor([0.5] * 4 + [0.0] * 4).repeat(8)
    assert torch.equal(shares["a"].flatten(), left)
    assert torch.equal(shares["b"].flatten(), left)
    assert torch.equal(shares[None].flatten(), 1 - 2 * left)


def test_a_window_is_a_picture_of_its_own(base, four):
    """Each window's prediction is that of its crop, with its adapter and prompt alone."""
    source = torch.Generator().manual_seed(7)
    noisy = torch.randn(2, 4, 8, 16, generator=source)
    times = torch.tensor([400, 400])
    masks = {"left": torch.zeros(64, 128), "right": torch.zeros(64, 128)}
    masks["left"][:, :64], masks["right"][:, 64:] = 1, 1
    wide = replace(PICTURE, width_px=128)
    files = dict(zip(masks, (four[1], four[2]), strict=True))
    texts = {"left": "a blue star", "right": "a green square"}
    expected = {}
    for side, columns in (("left", slice(0, 8)), ("right", slice(8, 16))):
        with compose(base, [(files[side], 0.6)]) as composition:
            given = composition.encode([replace(wide, prompt=texts[side])]).conditioning(True)
            expected[side] = base.predict(noisy[..., columns], times, given)
    with compose(base) as composition:
        for side, mask in masks.items():
            region = Region(side, mask, texts[side], window=True)
            composition.add(files[side], 0.6, region=region)
        encoded = composition.encode([wide])
        regions = {name: prompts.conditioning(True) for name, prompts in encoded.regions.items()}
        composition.direct(0.0, (8, 16), regions)
        found = composition.predict(noisy, times, encoded.conditioning(True))
        torch.testing.assert_close(found[..., :8], expected["left"], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found[..., 8:], expected["right"], rtol=1e-4, atol=1e-5)
        # outside of all windows the picture's own prompt, without their adapters
        composition.remove(composition.names[1])
        rest = composition.predict(noisy, times, encoded.conditioning(True))
        drawn = array(composition.draw([wide])[0])
    plain = base.predict(noisy, times, encoded.conditioning(True))
    torch.testing.assert_close(rest[..., :8], found[..., :8])
    torch.testing.assert_close(rest[..., 8:], plain[..., 8:])
    assert drawn.shape == (64, 128, 3)


def test_the_box_around_a_mask():
    mask = torch.zeros(1, 1, 8, 20)
    mask[..., 3, 5:9] = 0.5
    assert box_of(mask, 2) == (slice(2, 4), slice(4, 10))
    assert box_of(mask, 8) == (slice(0, 8), slice(0, 16))
    assert box_of(torch.ones(1, 1, 8, 20), 8) == (slice(0, 8), slice(0, 20))
    rows, columns = box_of(torch.zeros(1, 1, 8, 20), 8)
    assert torch.zeros(8, 20)[rows, columns].numel() == 0


def test_a_convolution_s_update_stops_at_the_mask(parts, tmp_path):
    unet = parts[UNET]
    path = "down_blocks.0.resnets.0.conv1"
    handle = inject({UNET: unet}, AdapterConfig(rank=2, targets=path))
    fill(handle, 1, 0.5)
    handle.save(tmp_path / "conv.safetensors", dtype="fp32")
    handle.remove()
    features = torch.randn(1, 16, 5, 5, generator=torch.Generator().manual_seed(5))
    plain = unet.get_submodule(path)(features)
    with compose({UNET: unet}, [(tmp_path / "conv.safetensors", 0.5)]) as composition:
        whole = unet.get_submodule(path)(features)
        composition.set_region("conv", Region("left", LEFT[:, 16:48]))
        composition.direct(0.0, (10, 10), {"left": Conditioning(torch.zeros(1, 7, 32))})
        half = unet.get_submodule(path)(features)
    torch.testing.assert_close(half[..., :2], whole[..., :2])
    torch.testing.assert_close(half[..., 2], plain[..., 2] + 0.5 * (whole - plain)[..., 2])
    torch.testing.assert_close(half[..., 3:], plain[..., 3:])


def test_a_region_has_its_own_prompt(base, four):
    there = "a blue star on a white background"
    blue = replace(PICTURE, prompt=there)
    with compose(base, [(four[0], 0)]) as composition:
        composition.set_region("lora", Region("all", torch.ones(8, 8), there))
        drawn = array(composition.draw([PICTURE])[0])
        composition.set_region("lora", Region("left", LEFT, there))
        half = array(composition.draw([PICTURE])[0])
    wanted, plain = (array(draw(base, [picture])[0]) for picture in (blue, PICTURE))
    assert np.abs(drawn - wanted).max() <= 1
    # the left side is nearer to the region's prompt, the right one to the picture's
    for side, near, far in ((slice(0, 24), wanted, plain), (slice(40, 64), plain, wanted)):
        assert np.abs(half - near)[:, side].mean() < np.abs(half - far)[:, side].mean()


def test_masks_are_read_and_checked(tmp_path, base, four):
    picture = Image.new("LA", (2, 1))
    picture.putpixel((0, 0), (255, 255))
    picture.putpixel((1, 0), (255, 51))
    picture.save(tmp_path / "mask.png")
    assert read_mask(tmp_path / "mask.png").tolist() == [[1.0, pytest.approx(0.2)]]
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(InputError, match=r"text\.png"):
        read_mask(tmp_path / "text.png")
    with pytest.raises(InputError, match=r"outside of 0\.\.1"):
        Region("left", torch.full((2, 2), 2.0))
    with compose(base, [(four[0], 1)]) as composition:
        composition.set_region("lora", Region("left", LEFT))
        with pytest.raises(InputError, match="another mask"):
            composition.add(four[1], region=Region("left", LEFT.flip(1)))
        assert composition.names == ("lora",)
        with pytest.raises(InputError, match=r"without the regions 'left'"):
            composition.direct(0.0, (8, 8), {})
