"""What can be composed, and what a card says about it."""

from __future__ import annotations

from pathlib import Path

import pytest

from lora_diffusion.errors import InputError
from lora_diffusion.formats import save_adapter
from lora_diffusion.injection import AdapterConfig
from lora_diffusion.probe import probe
from tests.ui.made_runs import make_run, make_sweep
from ui.compose.cards import Cards
from ui.compose.offer import offer
from ui.context import Context


def test_finished_runs_their_copies_and_the_folder_are_offered(
    context: Context, runs: Path
) -> None:
    run = make_run(runs, "fox", steps=20, every=10)
    make_run(runs, "unfinished", steps=20, every=10, reached=12, outcome="failed")
    copy = run.path / "exports" / "fox-10.safetensors"
    copy.parent.mkdir(exist_ok=True)
    copy.write_bytes((run.path / "fox.safetensors").read_bytes())
    with run.events_file.open("a") as log:
        log.write(
            '{"seq": 999, "at": 1.0, "kind": "export", "body": '
            '{"step": 10, "file": "exports/fox-10.safetensors"}}\n'
        )
    (context.adapters / "sub").mkdir(parents=True)
    (context.adapters / "sub" / "a.safetensors").write_bytes(b"broken")
    cards = Cards(context)
    assert [adapter.id for adapter in cards.all()] == [
        "run/fox", "run/fox/10", "file/sub/a.safetensors"
    ]  # fmt: skip
    for name in ("run/unfinished", "file/../runs/fox/fox.safetensors", 3):
        with pytest.raises(InputError, match="gone"):
            cards.find(name)


def test_runs_of_a_sweep_are_offered(context: Context, runs: Path) -> None:
    make_sweep(runs, "ranks", (4, 8))
    cards = Cards(context)
    assert {adapter.id for adapter in cards.all()} == {
        f"run/ranks/rank-{rank}{step}" for rank in (4, 8) for step in ("", "/10", "/20")
    }
    final, copy = cards.find("run/ranks/rank-4"), cards.find("run/ranks/rank-4/10")
    assert final.path == runs / "ranks/rank-4/rank-4.safetensors"
    assert (final.title, copy.title) == ("ranks / rank-4", "ranks / rank-4, step 10")


def test_a_broken_file_says_so_and_a_good_one_what_it_is(context: Context) -> None:
    context.adapters.mkdir(parents=True)
    (context.adapters / "broken.safetensors").write_bytes(b"not at all")
    made = probe("sdxl", AdapterConfig(targets="mid", text_targets="none", rank=2))
    save_adapter(made, context.adapters / "big.safetensors")
    cards = Cards(context)
    big, broken = (cards.card(a, "bundled:demo_base") for a in cards.all())
    assert big["line"] == "SDXL · LoCon · rank 2"
    assert big["problem"] == "Made for SDXL; this base is SD 1.x."
    assert broken["problem"].startswith("broken.safetensors: ")


def test_the_offer_has_the_blocks_of_the_base(context: Context) -> None:
    told = offer(context, Cards(context), "")
    assert told["base"] == "bundled:demo_base"
    names = [name for name, _ in told["blocks"]]
    assert names[0] == "down.0" and "mid" in names and names[-1].startswith("up.")
    assert told["defaults"]["size"] == 64 and told["defaults"]["cfg"] == 2  # as its presets draw
