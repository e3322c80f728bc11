"""Adapters between disk, RAM and device: budgets, pins, and files that change."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from lora_diffusion.errors import AdapterFileError, InputError
from lora_diffusion.multi.pages import AdapterPages, Moves
from tests.conftest import make_parts

PLENTY = 1 << 30


@pytest.fixture(scope="module")
def base() -> dict[str, nn.Module]:
    return make_parts()


def pages_of(base, paths, *, device: int = PLENTY, ram: int = PLENTY) -> AdapterPages:
    pages = AdapterPages(base, device_bytes=device, ram_bytes=ram)
    for name, path in paths.items():
        pages.add(name, path)
    return pages


def size_of(base, paths, name: str) -> int:
    pages = pages_of(base, {name: paths[name]})
    with pages.use([name]) as found:
        exact = sum(p.nbytes for adapter in found[name].values() for p in adapter.parameters())
    assert pages.device_bytes == exact
    return exact


def test_nothing_is_read_before_it_is_used_and_nothing_twice(base, paths):
    pages = pages_of(base, paths)
    assert pages.moves == Moves()
    for _ in range(3):
        with pages.use(["lora", "dora"]) as found:
            assert set(found) == {"lora", "dora"}
    assert pages.moves == Moves(reads=2, copies=2)
    assert pages.device_names == ["lora", "dora"]


def test_what_leaves_the_device_comes_back_from_ram_and_then_from_disk(base, paths):
    sizes = {name: size_of(base, paths, name) for name in ("lora", "dora")}
    pages = pages_of(base, paths, device=max(sizes.values()))
    for _ in range(2):
        for name in sizes:
            with pages.use([name]):
                assert pages.device_names == [name]
                assert pages.device_bytes == sizes[name]
    assert pages.moves == Moves(reads=2, copies=4)
    without_ram = pages_of(base, paths, device=max(sizes.values()), ram=0)
    for name in (*sizes, *sizes):
        with without_ram.use([name]):
            assert without_ram.ram_bytes == 0
    assert without_ram.moves == Moves(reads=4, copies=4)


def test_a_batch_that_does_not_fit_is_refused_and_frees_its_pins(base, paths):
    sizes = {name: size_of(base, paths, name) for name in ("lora", "dora")}
    pages = pages_of(base, paths, device=sum(sizes.values()) - 1)
    with pytest.raises(InputError, match="budget"), pages.use(sizes):
        pass
    for name in sizes:  # each alone fits: nothing stayed pinned
        with pages.use([name]):
            pass


def test_those_that_are_there_do_not_make_way_for_others_of_the_batch(base, paths):
    sizes = {name: size_of(base, paths, name) for name in ("lora", "dora", "middle")}
    pages = pages_of(base, paths, device=sum(sizes.values()) - 1)
    with pages.use(["dora"]), pages.use(["middle"]):
        pass
    with pages.use(["lora", "dora"]):  # lora needs the room of middle, not that of dora
        assert set(pages.device_names) == {"lora", "dora"}
    assert pages.moves.copies == 3


def test_unknown_names_are_one_clear_line(base, paths):
    pages = pages_of(base, {"lora": paths["lora"]})
    with pytest.raises(InputError, match=r"no adapter 'ink'\. Known: lora"), pages.use(["ink"]):
        pass


@pytest.fixture
def copied(paths, tmp_path) -> dict[str, Path]:
    return {
        name: Path(shutil.copy(paths[name], tmp_path / f"{name}.safetensors"))
        for name in ("lora", "rslora")
    }


@pytest.mark.parametrize("device", [PLENTY, None])
def test_a_file_that_changed_is_refused_until_it_is_added_again(base, paths, copied, device):
    size = size_of(base, paths, "rslora")
    pages = pages_of(base, copied, device=device or size, ram=PLENTY if device else 0)
    with pages.use(["lora"]):
        pass
    if device is None:
        with pages.use(["rslora"]):  # takes its place
            assert pages.device_names == ["rslora"]
    data = bytearray(copied["lora"].read_bytes())
    data[-1] ^= 1
    copied["lora"].write_bytes(data)
    changed = pytest.raises(AdapterFileError, match=r"lora\.safetensors: it has changed")
    with changed, pages.use(["lora"]):
        pass
    pages.add("lora", copied["lora"])
    with pages.use(["lora"]) as found:
        assert found["lora"]


def test_touching_a_file_is_no_change_and_deleting_it_is_told(base, copied):
    pages = pages_of(base, copied)
    with pages.use(["lora"]):
        pass
    os.utime(copied["lora"], ns=(1, 1))
    with pages.use(["lora"]):
        pass
    assert pages.moves.reads == 1
    copied["lora"].unlink()
    with pytest.raises(AdapterFileError, match="cannot be read"), pages.use(["lora"]):
        pass


def test_an_adapter_in_use_is_not_replaced(base, copied):
    pages = pages_of(base, copied)
    with pages.use(["lora"]), pytest.raises(InputError, match="in use"):
        pages.add("lora", copied["rslora"])


def test_another_bases_adapter_is_refused_when_it_is_added(paths, base):
    pages = AdapterPages({"unet": base["unet"]}, device_bytes=PLENTY, ram_bytes=0)
    with pytest.raises(AdapterFileError, match="the base has no layer"):
        pages.add("lora", paths["lora"])
    assert pages.names == []


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_budgets_hold_whatever_is_used(base, paths, data):
    """Accounting is exact, what is in use stays, and what was used is right."""
    names = ["lora", "rslora", "dora", "middle", "lokr"]
    device = data.draw(st.integers(20_000, 120_000), "device bytes")
    ram = data.draw(st.sampled_from([0, 60_000, PLENTY]), "ram bytes")
    pages = pages_of(base, {name: paths[name] for name in names}, device=device, ram=ram)
    for wanted in data.draw(st.lists(st.lists(st.sampled_from(names), max_size=3), max_size=8)):
        try:
            with pages.use(wanted) as found:
                assert set(found) == set(wanted) <= set(pages.device_names)
        except InputError as error:
            assert "budget" in str(error)
        held = {
            name: sum(p.nbytes for a in page.values() for p in a.parameters())
            for name in pages.device_names
            for page in [pages._device.value(name)]
        }
        assert pages.device_bytes == sum(held.values()) <= device
        assert pages.ram_bytes <= ram
