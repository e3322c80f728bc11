"""A mixed batch gives what its samples give one by one, with the adapter live on the base."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lora_diffusion.composition.weights import Weights
from lora_diffusion.injection import attach
from lora_diffusion.keys import TEXT_ENCODER, UNET
from lora_diffusion.multi import batch
from lora_diffusion.multi.batch import Mix, PerSample
from lora_diffusion.multi.pages import AdapterPages
from tests.conftest import VOCABULARY, make_parts, state_bytes
from tests.lora_diffusion.multi.kinds import KINDS

TOLERANCE = 1e-5  # of outputs of order 1, in fp32
PLENTY = 1 << 30


@pytest.fixture(scope="module")
def base() -> dict[str, nn.Module]:
    return make_parts()


@pytest.fixture
def per_sample(base, paths) -> PerSample:
    pages = AdapterPages(base, device_bytes=PLENTY, ram_bytes=PLENTY)
    for name, path in paths.items():
        pages.add(name, path)
    return PerSample(base, pages)


def inputs(rows: int) -> tuple[Tensor, Tensor, Tensor]:
    source = torch.Generator().manual_seed(3)
    latents = torch.randn(rows, 4, 8, 8, generator=source)
    context = torch.randn(rows, 77, 32, generator=source)
    return latents, torch.arange(rows) * 37 + 5, context


@torch.no_grad()
def unet(base, latents: Tensor, timesteps: Tensor, context: Tensor) -> Tensor:
    output: Tensor = base[UNET](latents, timesteps, encoder_hidden_states=context).sample
    return output


def one_by_one(base, files, mixes, rows: tuple[Tensor, ...], done: float = 0.0) -> Tensor:
    """Each row alone, its sample's adapters attached and weighed."""
    found = []
    for index in range(len(rows[0])):
        handles = []
        for number, (name, weights) in enumerate(mixes[index % len(mixes)]):
            handle = attach(base, files[name], f"number {number}")
            for key, layer in handle.layers.items():
                layer.strengths[handle.name] = weights.of(key, done)
            handles.append(handle)
        found.append(unet(base, *(tensor[index : index + 1] for tensor in rows)))
        for handle in handles:
            handle.remove()
    return torch.cat(found)


def mix(**weights: Weights | float | str) -> Mix:
    return [(name, Weights.of_any(given)) for name, given in weights.items()]


MIXES = [
    mix(lora=0.8),
    mix(locon=-0.3),
    mix(dora=0.5, loha="1.5,mid=0,down=0.3"),
    [],
    [*mix(lokr=0.7, lora=-1.5, middle=0.4), *mix(lora=0.5)],
    mix(full=1.0, dora_out=0.6),
    mix(rslora=0.9, locon=0),
    mix(lora=0.8),
]


@pytest.mark.parametrize("way", ["segments", "padded"])
@pytest.mark.parametrize("turns", [1, 2], ids=["plain", "guided"])
def test_mixed_batch_equals_one_by_one(base, files, per_sample, monkeypatch, way, turns):
    if way == "padded":  # what a GPU takes
        monkeypatch.setattr(batch, "PADDED_ON", ("cpu",))
    rows = inputs(turns * len(MIXES))
    before = state_bytes(base[UNET])
    plain = unet(base, *rows)
    with per_sample.drawing(MIXES):
        found = unet(base, *rows)
    wanted = one_by_one(base, files, MIXES, rows)
    assert (found - wanted).abs().max() <= TOLERANCE
    moved = (wanted - plain).abs().amax(dim=(1, 2, 3)).reshape(turns, -1)
    assert (moved[:, 3] <= TOLERANCE).all()
    others = [index for index in range(len(MIXES)) if index != 3]
    assert moved[:, others].min() > 100 * TOLERANCE
    assert torch.equal(unet(base, *rows), plain)
    assert state_bytes(base[UNET]) == before


@pytest.mark.parametrize("name", [*KINDS, "full"])
def test_every_kind_beside_a_sample_without_it(base, files, per_sample, name):
    mixes = [mix(**{name: 1.0}), [], mix(**{name: -0.5})]
    rows = inputs(3)
    with per_sample.drawing(mixes):
        found = unet(base, *rows)
    assert (found - one_by_one(base, files, mixes, rows)).abs().max() <= TOLERANCE


def test_a_batch_beside_adapters_that_are_live_on_the_base(base, files, per_sample):
    mixes = [mix(dora=1.0), mix(lokr=0.5)]
    rows = inputs(2)
    live = attach(base, files["rslora"], "live")
    try:
        wanted = one_by_one(base, files, mixes, rows)
        with per_sample.drawing(mixes):
            found = unet(base, *rows)
        live.merge()  # DoRA is still told the base's own weight
        with per_sample.drawing(mixes):
            merged = unet(base, *rows)
    finally:
        live.remove()
    assert (found - wanted).abs().max() <= TOLERANCE
    assert (merged - wanted).abs().max() <= 10 * TOLERANCE


def test_text_encoders_use_one_mix_with_its_own_weight(base, files, per_sample):
    ids = torch.randint(0, VOCABULARY, (3, 77), generator=torch.Generator().manual_seed(1))
    encoder = base[TEXT_ENCODER]
    used = mix(lora="5,text=-0.14", lokr=0.6, locon=1.0)
    with torch.no_grad():
        plain = encoder(ids).last_hidden_state
        with per_sample.encoding(used):
            found = encoder(ids).last_hidden_state
        handles = [attach(base, files[name], name) for name in ("lora", "lokr")]
        handles[0].scale, handles[1].scale = -0.7, 0.6
        wanted = encoder(ids).last_hidden_state
        for handle in handles:
            handle.remove()
        assert torch.equal(encoder(ids).last_hidden_state, plain)
    assert (found - wanted).abs().max() <= TOLERANCE
    assert (found - plain).abs().max() > 100 * TOLERANCE


def test_switching_reads_and_copies_nothing_again(base, per_sample):
    rows = inputs(1)
    names = ["lora", "dora", "lokr"]
    first = []
    for name in names:
        with per_sample.drawing([mix(**{name: 1})]):
            first.append(unet(base, *rows))
    moves = (per_sample.pages.moves.reads, per_sample.pages.moves.copies)
    assert moves == (3, 3)
    for name, wanted in zip(names, first, strict=True):
        with per_sample.drawing([mix(**{name: 1})]):
            assert torch.equal(unet(base, *rows), wanted)
    assert (per_sample.pages.moves.reads, per_sample.pages.moves.copies) == moves


def test_128_adapters_in_one_batch(base, paths, files):
    pages = AdapterPages(base, device_bytes=PLENTY, ram_bytes=0)
    for index in range(128):
        pages.add(f"a{index}", paths["middle"])
    rows = inputs(128)
    mixes = [mix(**{f"a{index}": (index - 63.5) / 64}) for index in range(128)]
    with PerSample(base, pages).drawing(mixes):
        found = unet(base, *rows)
    assert len(pages.device_names) == 128
    named = [[("middle", weights)] for [(_, weights)] in mixes]
    assert (found - one_by_one(base, files, named, rows)).abs().max() <= TOLERANCE


def test_rows_that_do_not_divide_are_refused_and_the_base_is_left_clean(base, per_sample):
    rows = inputs(3)
    plain = unet(base, *rows)
    with pytest.raises(ValueError, match="3 rows"), per_sample.drawing([mix(lora=1), []]):
        unet(base, *rows)
    assert torch.equal(unet(base, *rows), plain)


def test_weights_with_a_schedule_change_between_steps(base, files, per_sample):
    mixes = [mix(lora="1,steps=0:0;0.5:1"), mix(dora="0.5,steps=0.5:-2"), mix(loha=1)]
    rows = inputs(3)
    shares = (0.0, 0.25, 0.5, 0.75, 0.0)
    wanted = [one_by_one(base, files, mixes, rows, done) for done in shares]
    with per_sample.drawing(mixes) as shown:
        for done, of_share in zip(shares, wanted, strict=True):
            shown.go_to(done)
            assert (unet(base, *rows) - of_share).abs().max() <= TOLERANCE
    assert (wanted[0] - wanted[2]).abs().amax(dim=(1, 2, 3))[:2].min() > 100 * TOLERANCE
    assert per_sample.pages.moves.copies == 3
