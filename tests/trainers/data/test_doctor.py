"""The doctor's findings, each on a dataset made to have it; and the index."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from tests.trainers.data.corpus import encoded, noise
from trainers.data import doctor, examine, index, tokens
from trainers.data.buckets import BucketRules, fit
from trainers.data.doctor import diagnose
from trainers.spec import DataSpec


@pytest.fixture
def look(tmp_path):
    """Diagnose the folder `tmp_path/d`; findings as file -> kinds."""

    def run(**options: object) -> dict[str, set[str]]:
        settings = options.pop("data", {})
        data = DataSpec.model_validate({"folder": str(tmp_path / "d"), "trigger": "sks"} | settings)
        report = diagnose(data, index_folder=tmp_path / "index", **options)
        kinds: dict[str, set[str]] = {}
        for problem in report.problems:
            assert problem.cause and problem.fix.endswith("."), problem
            assert not problem.cause.endswith("."), problem
            kinds.setdefault(problem.file, set()).add(problem.kind)
        return kinds

    (tmp_path / "d").mkdir()
    return run


def save(root: Path, name: str, picture: Image.Image, caption: str | None = "sks", **how) -> None:
    path = root / "d" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, **how)
    if caption is not None:
        path.with_name(path.name + ".txt").write_text(caption)


def test_copies_and_lookalikes_are_found(tmp_path, look):
    original = noise(1, 256, 256)
    save(tmp_path, "a.png", original)
    save(tmp_path, "a copy.png", original, caption="other words")
    save(tmp_path, "b smaller.jpg", original.resize((160, 160)), quality=60)
    save(tmp_path, "c lighter.png", ImageEnhance.Brightness(original).enhance(1.05))
    save(tmp_path, "d other colours.png", Image.fromarray(np.asarray(original)[..., ::-1].copy()))
    for seed in range(2, 42):
        save(tmp_path, f"z{seed}.png", noise(seed, 64, 64))
    assert look() == {
        "a.png": {"duplicate", "contradictory-captions"},
        "b smaller.jpg": {"near-duplicate"},
        "c lighter.png": {"near-duplicate"},
    }


def test_flat_pictures_are_no_lookalikes(tmp_path, look):
    for number in range(3):
        save(tmp_path, f"{number}.png", Image.new("RGB", (64, 64 + number), (9, 9, 9)))
    assert look() == {f"{number}.png": {"flat"} for number in range(3)}


def test_unlike_pictures_of_one_band_are_told_apart():
    """More pictures than are compared pairwise in one band; only the last two are alike."""
    facts = [
        examine.Facts(str(i), look=((i + 1) * 0x9E3779B97F4A7C15) % 2**64, colours=bytes(192))
        for i in range(3_000)
    ]
    from trainers.data import duplicates

    facts.append(examine.Facts("x", look=facts[7].look ^ 0b101, colours=bytes(192)))
    assert duplicates.near(facts, {})[3_000] == 7
    assert duplicates.exact(facts) == {}


def test_sizes_are_told_as_the_buckets_have_them(tmp_path, look):
    rules = BucketRules.around(128, 32, upscale=False)
    enlarging = BucketRules.around(128, 32, upscale=True)
    save(tmp_path, "tiny.png", noise(1, 20, 30))
    save(tmp_path, "wide.png", noise(2, 100, 1000))
    save(tmp_path, "good.png", noise(3, 128, 128))
    assert look(rules=rules) == {"tiny.png": {"too-small"}, "wide.png": {"crop-loss"}}
    assert look(rules=enlarging)["tiny.png"] == {"enlarged"}
    report = diagnose(
        DataSpec(folder=str(tmp_path / "d"), trigger="sks"),
        rules=rules,
        index_folder=tmp_path / "index",
    )
    wide = next(p for p in report.problems if p.kind == "crop-loss")
    assert f"loses {fit((100, 1000), rules).crop_loss:.0%} of its area" in wide.cause


def test_captions_are_counted_and_missing_ones_told(tmp_path, look, demo_base):
    save(tmp_path, "a.png", noise(1), caption="the quick brown fox jumps " * 30)
    save(tmp_path, "b.png", noise(2), caption=None)
    save(tmp_path, "c.png", noise(3))
    found = look(find_tokens=lambda: tokens.find(str(demo_base)))
    assert found == {"a.png": {"long-caption"}, "b.png": {"missing-caption"}}
    assert look(find_tokens=lambda: None)[""] == {"no-tokenizer"}
    save(tmp_path, "a.png", noise(1), caption="short")
    assert look(find_tokens=lambda: pytest.fail("nothing is long")) == {
        "b.png": {"missing-caption"}
    }


def test_a_folder_without_captions_is_one_note(tmp_path, look):
    save(tmp_path, "a.png", noise(1), caption=None)
    save(tmp_path, "b.png", noise(2), caption=None)
    assert look() == {"": {"no-captions"}}
    assert look(data={"trigger": None}) == {
        "a.png": {"no-caption"},
        "b.png": {"no-caption"},
        "": {"no-captions"},
    }
    assert look(data={"trigger": None}, captions_needed=False) == {"": {"no-captions"}}


def test_imbalance_between_parts_is_told(tmp_path, look):
    save(tmp_path, "1_rare/a.png", noise(1))
    save(tmp_path, "20_usual/b.png", noise(2))
    assert look() == {"": {"imbalance"}}
    save(tmp_path, "reg/1_thing/r.png", noise(3))
    for seed in range(10, 22):
        save(tmp_path, f"1_rare/{seed}.png", noise(seed))
    assert look() == {"": {"imbalance"}}  # one regularisation picture for fourteen


def test_the_index_spares_the_second_look_and_sees_every_change(tmp_path, look, monkeypatch):
    for seed in range(4):
        save(tmp_path, f"{seed}.png", noise(seed))
    (tmp_path / "d" / "bad.png").write_bytes(b"no picture")
    save(tmp_path, "bad.png.keep.png", noise(9))
    seen: list[str] = []

    def spy(path: Path, limit: int) -> examine.Facts:
        seen.append(path.name)
        return examine.examine(path, limit)

    monkeypatch.setattr(doctor, "examine", spy)
    first = look()
    assert len(seen) == 6
    seen.clear()
    assert look() == first
    assert seen == ["bad.png"]  # what can't be used is looked at again
    (tmp_path / "d" / "1.png").write_bytes(encoded(noise(100), "PNG"))
    os.utime(tmp_path / "d" / "2.png", ns=(1, 1))
    (tmp_path / "d" / "3.png").unlink()
    seen.clear()
    look()
    assert sorted(seen) == ["1.png", "2.png", "bad.png"]
    (database,) = (tmp_path / "index").iterdir()
    database.write_bytes(b"damaged" * 1_000)
    seen.clear()
    look()
    assert len(seen) == 5  # all are looked at anew


def test_an_index_that_cant_be_written_is_done_without(tmp_path, look):
    save(tmp_path, "a.png", noise(1))
    (tmp_path / "index").write_bytes(b"a file where the folder would be")
    assert look() == {}


def test_what_the_index_gives_back_is_what_was_found(tmp_path):
    picture = tmp_path / "a.png"
    noise(1).save(picture)
    facts = examine.examine(picture)
    stat = index.Stat(1, 2)
    kept = index.Index(tmp_path / "i", [tmp_path])
    assert kept.write({"a\udcff.png": facts}, {"a\udcff.png": stat})
    assert kept.read({"a\udcff.png": stat}) == {"a\udcff.png": facts}
    assert kept.read({"a\udcff.png": index.Stat(1, 3)}) == {}
    assert kept.write({}, {})
    assert kept.read({"a\udcff.png": stat}) == {}
