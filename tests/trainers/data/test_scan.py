"""Finding pictures and captions: folders of every shape, junk, loops, subsets, kohya's names."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from lora_diffusion.errors import InputError
from trainers.data import scan, walk
from trainers.layering import build_spec
from trainers.planner.plan import plan
from trainers.spec import DataSpec, SubsetSpec


def make(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix.lower() in scan.PICTURE_ENDINGS:
            Image.new("RGB", (8, 8), "red").save(path)
        else:
            path.write_text(f"words of {path.stem}", encoding="utf-8")


def found(root: Path, **settings: object) -> dict[str, tuple[str, ...]]:
    data = DataSpec.model_validate({"folder": str(root), "trigger": "sks", **settings})
    return {picture.name: picture.captions for picture in scan.find(data)}


def kinds(root: Path, **settings: object) -> list[tuple[str, str, str]]:
    data = DataSpec.model_validate({"folder": str(root), "trigger": "sks", **settings})
    return [(p.file, p.severity, p.kind) for p in scan.find_all(data).problems]


def test_nested_folders_are_walked_and_junk_is_left_out(tmp_path):
    make(tmp_path, "b.PNG", "a.jpg", "x/y/c.WebP", "x/d.tif", ".hidden.png", "._a.jpg")
    make(tmp_path, "__MACOSX/a.jpg", ".git/e.png", "@eaDir/a.jpg", "notes.md")
    make(tmp_path, "a.mask.png", "a-masklabel.png", "run/previews/p.png", "run/events.jsonl")
    (tmp_path / "Thumbs.db").write_bytes(b"x")
    assert list(found(tmp_path)) == ["a.jpg", "b.PNG", "x/d.tif", "x/y/c.WebP"]
    assert list(found(tmp_path, nested=False)) == ["a.jpg", "b.PNG"]


def test_loops_of_links_end_and_dead_links_are_named(tmp_path):
    make(tmp_path, "x/a.png")
    (tmp_path / "x" / "back").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "x" / "self").symlink_to(tmp_path / "x" / "self")
    (tmp_path / "again").symlink_to(tmp_path / "x", target_is_directory=True)
    (tmp_path / "dead.png").symlink_to(tmp_path / "nowhere.png")
    assert [file for file, severity, _ in kinds(tmp_path) if severity == "error"] == ["dead.png"]
    with pytest.raises(InputError, match=r"dead\.png: is a link to nowhere"):
        found(tmp_path)
    (tmp_path / "dead.png").unlink()
    assert len(found(tmp_path)) == 1  # once, whichever way it is reached


def test_the_walk_is_bounded(tmp_path, monkeypatch):
    make(tmp_path, "a.png", "/".join(["d"] * (walk.MAX_DEPTH + 1)) + "/deep.png")
    assert list(found(tmp_path)) == ["a.png"]
    assert [kind for _, _, kind in kinds(tmp_path)] == ["too-deep"]
    monkeypatch.setattr(walk, "MAX_ENTRIES", 3)
    with pytest.raises(InputError, match="more than 3 files"):
        found(tmp_path)


def test_a_caption_of_the_full_name_is_preferred_and_a_shared_one_is_refused(tmp_path):
    make(tmp_path, "a.png", "a.jpg")
    assert set(found(tmp_path).values()) == {("a photo of sks",)}
    (tmp_path / "a.txt").write_text("which?")
    with pytest.raises(InputError, match=r"a\.png: and a\.jpg share one caption file, a\.txt\."):
        found(tmp_path)
    (tmp_path / "a.png.txt").write_text("the sks png")
    assert found(tmp_path) == {"a.jpg": ("sks, which?",), "a.png": ("the sks png",)}
    (tmp_path / "a.jpg.txt").write_text("the sks jpg")
    (tmp_path / "a.txt").unlink()
    assert found(tmp_path) == {"a.jpg": ("the sks jpg",), "a.png": ("the sks png",)}


def test_no_two_pictures_of_any_tree_share_a_caption(tmp_path):
    """200 trees: each picture has a caption that names it, or is refused."""
    source = random.Random(0)
    for number in range(200):
        root = tmp_path / str(number)
        for _ in range(source.randint(2, 5)):
            name = source.choice("ab") + source.choice([".png", ".jpg", ".PNG"])
            make(root, name)
            if source.random() < 0.7:
                (root / (name + ".txt")).write_text(f"sks {name}")
        if source.random() < 0.4:
            (root / "a.txt").write_text("sks shared")
        try:
            captions = found(root)
        except InputError as error:
            assert "share one caption file" in str(error)
            continue
        for name, (caption,) in captions.items():
            assert caption in (f"sks {name}", "a photo of sks", "sks shared")
        assert list(captions.values()).count(("sks shared",)) <= 1


def test_captions_of_tables_files_and_pictures(tmp_path):
    make(tmp_path, "a.png", "b.png", "sub/c.png", "d.png", "e.TXT", "e.png", "f.png")
    rows = [
        {"file_name": "a.png", "text": "sks from  a table"},
        {"file_name": "b.png", "captions": ["sks one", "sks two"]},
        {"file_name": "sub/c.png", "prompt": "sks nested"},
    ]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\nnot json\n")
    info = PngInfo()
    info.add_text("parameters", "a sks dog\nNegative prompt: bad\nSteps: 20")
    Image.new("RGB", (8, 8)).save(tmp_path / "d.png", pnginfo=info)
    exif = Image.Exif()
    exif[0x010E] = "sks in exif"
    Image.new("RGB", (8, 8)).save(tmp_path / "f.png", exif=exif)
    assert found(tmp_path, picture_text=True) == {
        "a.png": ("sks from a table",),
        "b.png": ("sks one", "sks two"),
        "d.png": ("a sks dog",),
        "e.png": ("sks, words of e",),
        "f.png": ("sks in exif",),
        "sub/c.png": ("sks nested",),
    }
    assert kinds(tmp_path) == [("metadata.jsonl:4", "warning", "bad-caption-table")]
    assert found(tmp_path)["d.png"] == ("a photo of sks",)


def test_lines_may_be_captions_of_their_own(tmp_path):
    make(tmp_path, "a.png")
    (tmp_path / "a.txt").write_text("sks one\n\n two  sks\n")
    assert found(tmp_path)["a.png"] == ("sks one two sks",)
    assert found(tmp_path, caption_lines=True)["a.png"] == ("sks one", "two sks")


def test_kohyas_metadata_json(tmp_path):
    make(tmp_path / "pictures", "a.png", "b.png")
    table = tmp_path / "meta.json"
    table.write_text(
        json.dumps({"/elsewhere/a.png": {"caption": "sks dog", "tags": "1girl, hat"}, "b": "sks b"})
    )
    assert found(tmp_path / "pictures", caption_table=str(table)) == {
        "a.png": ("sks dog, 1girl, hat",),
        "b.png": ("sks b",),
    }
    table.write_text("[")
    with pytest.raises(InputError, match=r"meta\.json.*JSON"):
        found(tmp_path / "pictures", caption_table=str(table))


def test_what_is_wrong_with_captions_is_told(tmp_path):
    make(tmp_path, *(f"{stem}.png" for stem in "abcd"), "orphan.txt")
    (tmp_path / "a.txt").write_bytes("café".encode("cp1252"))
    (tmp_path / "b.txt").write_text(" \n")
    (tmp_path / "c.txt").write_text("one")
    (tmp_path / "c.caption").write_text("other")
    (tmp_path / "d.txt").write_bytes(b"\x89PNG\0\0\0\x01")
    (tmp_path / "film.mp4").write_bytes(b"x")
    assert sorted(kinds(tmp_path)) == [
        ("a.txt", "error", "caption-encoding"),
        ("b.txt", "warning", "empty-caption"),
        ("c.png", "warning", "contradictory-captions"),
        ("d.txt", "error", "caption-encoding"),
        ("film.mp4", "warning", "unread-type"),
        ("orphan.txt", "note", "caption-without-picture"),
    ]
    with pytest.raises(InputError, match=r"a\.txt: is not UTF-8 text; as cp1252 it reads 'café'"):
        found(tmp_path)
    (tmp_path / "d.txt").write_text("d")
    assert found(tmp_path, caption_encoding="cp1252")["a.png"] == ("sks, café",)
    assert found(tmp_path, caption_encoding="cp1252")["b.png"] == ("a photo of sks",)


def test_a_picture_without_any_caption_is_refused(tmp_path):
    make(tmp_path, "a.png")
    with pytest.raises(InputError, match=r"a\.png: has no caption\. Put one into a\.txt"):
        found(tmp_path, trigger=None)


def test_kohyas_folders_give_repeats_captions_and_regularisation(tmp_path):
    make(tmp_path, "img/10_sks dog/a.png", "img/10_sks dog/b.png", "img/10_sks dog/b.txt")
    make(tmp_path, "reg/2_dog/r.png", "img/2023_summer/s.png", "img/01_first/f.png")
    data = DataSpec(folder=str(tmp_path), trigger="sks")
    pictures = {picture.path.name: picture for picture in scan.find(data)}
    assert (pictures["a.png"].repeats, pictures["a.png"].caption) == (10, "sks dog")
    assert pictures["b.png"].captions == ("sks, words of b",)
    assert pictures["a.png"].subset == "10_sks dog"
    reg = pictures["r.png"]
    assert (reg.is_class, reg.repeats, reg.caption, reg.trigger) == (True, 2, "dog", None)
    for plain in ("s.png", "f.png"):  # a year and a number with a zero are names, not repeats
        assert (pictures[plain].repeats, pictures[plain].caption) == (1, "a photo of sks")
    off = {p.path.name: p for p in scan.find(data.model_copy(update={"kohya_folders": False}))}
    assert (off["a.png"].repeats, off["r.png"].is_class) == (1, False)


def test_the_plan_explains_kohyas_folders(tmp_path):
    make(tmp_path, "10_sks dog/a.png", "10_sks dog/b.png", "2_hat/c.png")
    text = plan(build_spec([{"data": {"folder": str(tmp_path)}, "schedule": {"epochs": 1}}]))
    assert "10_sks dog: 2 pictures, shown 10x an epoch, 'sks dog' where there is no caption" in text
    assert "22 steps" in text


def test_subsets_have_settings_of_their_own(tmp_path):
    make(tmp_path, "face/a.png", "face/a.tags", "body/b.png", "body/b.txt", "masks/b.png")
    make(tmp_path, "dogs/c.png")
    data = DataSpec(
        trigger="sks",
        masked_loss=True,
        class_prompts=("a dog",),
        subsets=(
            SubsetSpec(
                folder=str(tmp_path / "face"), repeats=3, weight=0.5, caption_ending=".tags"
            ),
            SubsetSpec(
                folder=str(tmp_path / "body"), trigger="", mask_folder=str(tmp_path / "masks")
            ),
            SubsetSpec(folder=str(tmp_path / "dogs"), is_class=True, name="prior"),
            SubsetSpec(folder=str(tmp_path / "face"), instance_prompt="{trigger} face"),
        ),
    )
    face, body, prior, again = scan.find(data)
    assert (face.name, face.repeats, face.weight) == ("face/a.png", 3, 0.5)
    assert face.captions == ("sks, words of a",)
    assert (body.captions, body.mask) == (("words of b",), tmp_path / "masks" / "b.png")
    assert (prior.is_class, prior.caption, prior.name) == (True, "a dog", "prior/c.png")
    assert (again.name, again.caption) == ("face-2/a.png", "sks face")


@pytest.mark.skipif(os.name == "nt", reason="Windows refuses these names itself")
@pytest.mark.parametrize("name", ["ü ö.png", "日本.png", "a'b\"c.png", "x\ny.png", "-rf.png"])
def test_odd_names(tmp_path, name):
    make(tmp_path, name)
    assert list(found(tmp_path)) == [name]


@pytest.mark.skipif(os.name == "nt", reason="POSIX names are bytes")
def test_names_that_are_no_text(tmp_path):
    make(tmp_path, "a.png")
    os.rename(bytes(tmp_path / "a.png"), bytes(tmp_path) + b"/\xff.png")  # noqa: PTH104
    assert len(found(tmp_path)) == 1
    assert "a photo of sks" in found(tmp_path).popitem()[1]
