"""The Dataset tab's questions, as the page and programs ask them."""

from __future__ import annotations

import asyncio
import base64
import io
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.trainers.data.zips import make_zip
from tests.ui.dataset.conftest import Ask, draw
from trainers.data import masks, scan
from trainers.data.changes import Changes, Write
from trainers.spec import DataSpec
from ui.context import Context


def _contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and ".studio" not in path.parts
    }


def _open(ask: Ask, folder: Path) -> tuple[str, dict[str, dict[str, Any]]]:
    """The folder's key, and its pictures by name."""
    opened = ask("open", folder=str(folder))
    assert "error" not in opened, opened
    page = ask("page", data=opened["data"], filter={}, first=0)
    return opened["data"], {item["name"]: item for item in page["items"]}


def _wait(ask: Ask, data: str, over: Any) -> dict[str, Any]:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        told = ask("summary", data=data)
        if over(told):
            return told
        time.sleep(0.1)
    raise AssertionError(told)


def test_a_folder_is_opened_with_its_findings(ask: Ask, pictures: Path) -> None:
    data, items = _open(ask, pictures)
    told = ask("summary", data=data)
    assert told["text"] == "6 pictures, 5 with a caption" and told["looked"]
    strip = {each["kind"]: each for each in told["strip"]}
    assert strip["duplicate"]["text"] == "1 duplicate" and strip["too-small"]["text"] == "1 tiny"
    assert strip["duplicate"]["fix"] == "Take out the second copies"
    assert items["copy.png"]["badges"] == ["duplicate"] and items["tiny.png"]["is_bad"]
    assert str(pictures) not in repr(items), "the page gets ids, not paths"


@pytest.mark.parametrize(
    ("filter", "names"),
    [
        ({"query": "number 2"}, ["2.png"]),
        ({"query": "TINY"}, ["tiny.png"]),
        ({"kind": "problems"}, ["copy.png", "tiny.png"]),
        ({"kind": "duplicate"}, ["copy.png"]),
        ({"kind": "no-caption"}, ["tiny.png"]),
        ({"tag": "number 0", "query": "copy"}, ["copy.png"]),
        ({"query": "nothing like it"}, []),
    ],
)
def test_a_filter(ask: Ask, pictures: Path, filter: dict[str, str], names: list[str]) -> None:
    data, _ = _open(ask, pictures)
    page = ask("page", data=data, filter=filter)
    assert [item["name"] for item in page["items"]] == names and page["total"] == len(names)


def test_a_caption_is_saved_and_undone_to_the_byte(ask: Ask, pictures: Path) -> None:
    (pictures / "1.txt").write_bytes("\ufeffein Käfer\r\nund mehr\r\n".encode("utf-16-le"))
    data, items = _open(ask, pictures)
    before = _contents(pictures)
    picked = items["1.png"]["id"]
    shown = ask("detail", data=data, id=picked)
    assert shown["text"] == "ein Käfer\r\nund mehr" and shown["written_to"] == "1.txt"
    told = ask("save", data=data, id=picked, text="ein Hund")
    assert told["saved"] and told["undo"] == "Caption of 1.png"
    assert (pictures / "1.txt").read_bytes() == b"ein Hund\r\n"
    assert ask("save", data=data, id=picked, text="ein Hund")["saved"] is False
    assert ask("undo", data=data)["undone"] == "Caption of 1.png"
    assert _contents(pictures) == before


def test_opening_a_folder_forgets_old_changes(ask: Ask, pictures: Path) -> None:
    history = Changes(pictures)
    for text in (b"one", b"two", b"three"):
        history.make(text.decode(), [Write("odd.txt", text)])
    for number in (1, 2):
        os.utime(pictures / f".studio/undo/{number:06d}.json", (0, 0))
    data, _ = _open(ask, pictures)
    assert [change.title for change in history.made()] == ["three"]
    os.utime(pictures / ".studio/undo/000003.json", (0, 0))
    history.make("four", [Write("odd.txt", b"four")])
    assert _open(ask, pictures)[0] == data
    assert len(history.made()) == 2  # it is open: a page may still take them back
    assert ask("undo", data=data)["undone"] == "four"


def test_a_first_caption_makes_the_file(ask: Ask, pictures: Path) -> None:
    data, items = _open(ask, pictures)
    ask("save", data=data, id=items["tiny.png"]["id"], text="a tiny one")
    assert (pictures / "tiny.txt").read_bytes() == b"a tiny one\n"
    found = scan.find(DataSpec(folder=str(pictures)))
    assert {p.name: p.caption for p in found}["tiny.png"] == "a tiny one"
    ask("undo", data=data)
    assert not (pictures / "tiny.txt").exists()


def test_a_bulk_edit_shows_what_it_does_does_it_and_undoes_it(ask: Ask, pictures: Path) -> None:
    data, _ = _open(ask, pictures)
    before = _contents(pictures)
    edit = {"kind": "replace", "find": r"number (\d)", "text": r"\1 of 4", "is_pattern": True}
    shown = ask("edit", data=data, edit=edit)
    assert (shown["captions"], shown["places"]) == (5, 5)
    assert shown["changes"][0] == {
        "name": "0.png", "before": "a cat, red, number 0\n", "after": "a cat, red, 0 of 4\n"
    }  # fmt: skip
    told = ask("edit_apply", data=data, edit=edit, digest=shown["digest"])
    changed = {n for n, content in _contents(pictures).items() if before.get(n) != content}
    assert told["changed"] == len(changed) == shown["captions"]
    assert told["undo"] == "Replace: 5 captions"
    ask("undo", data=data)
    assert _contents(pictures) == before


def test_a_bulk_edit_of_what_is_shown_only(ask: Ask, pictures: Path) -> None:
    data, _ = _open(ask, pictures)
    edit, shown = {"kind": "prefix", "text": "sks, "}, {"query": "number 2"}
    digest = ask("edit", data=data, edit=edit, filter=shown)["digest"]
    assert ask("edit_apply", data=data, edit=edit, filter=shown, digest=digest)["changed"] == 1
    assert (pictures / "2.txt").read_text() == "sks, a cat, red, number 2\n"
    assert (pictures / "1.txt").read_text() == "a cat, red, number 1\n"


def test_captions_that_changed_since_the_preview_are_not_overwritten(
    ask: Ask, pictures: Path
) -> None:
    data, _ = _open(ask, pictures)
    edit = {"kind": "replace", "find": "cat", "text": "dog"}
    digest = ask("edit", data=data, edit=edit)["digest"]
    (pictures / "1.txt").write_text("another cat")
    assert "have changed since" in ask("edit_apply", data=data, edit=edit, digest=digest)["error"]
    assert (pictures / "1.txt").read_text() == "another cat"


def test_mending_taking_out_and_putting_back(ask: Ask, pictures: Path) -> None:
    data, items = _open(ask, pictures)
    before = _contents(pictures)
    told = ask("fix", data=data, kind="duplicate")
    assert "duplicate" not in {each["kind"] for each in told["strip"]} and told["total"] == 5
    told = ask("exclude", data=data, id=items["tiny.png"]["id"])
    assert told["total"] == 4 and told["excluded"] == 2
    assert (pictures / ".excluded/tiny.png").is_file()
    assert ask("put_back", data=data)["total"] == 6
    assert _contents(pictures) == before
    for _ in range(3):
        ask("undo", data=data)
    assert _contents(pictures) == before
    assert "nothing that can be mended" in ask("fix", data=data, kind="crop-loss")["error"]


def test_the_last_picture_stays(ask: Ask, tmp_path: Path) -> None:
    draw(tmp_path / "one/a.png", 1)
    data, items = _open(ask, tmp_path / "one")
    assert "no picture" in ask("exclude", data=data, id=items["a.png"]["id"])["error"]
    assert (tmp_path / "one/a.png").is_file()


def _png(size: tuple[int, int], white: tuple[int, int, int, int]) -> str:
    mask = Image.new("L", size, 0)
    mask.paste(255, white)
    out = io.BytesIO()
    mask.save(out, "PNG")
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()


def test_a_mask_is_painted_cropped_along_and_removed(ask: Ask, pictures: Path) -> None:
    data, items = _open(ask, pictures)
    before, picked = _contents(pictures), items["0.png"]["id"]
    ask("mask", data=data, id=picked, png=_png((100, 100), (50, 0, 100, 100)))
    found = {p.name: p for p in scan.find_all(DataSpec(folder=str(pictures))).pictures}["0.png"]
    read = masks.read_mask(found.path, found.mask)
    assert read is not None and read.getpixel((10, 5)) == 0 and read.getpixel((90, 5)) == 255
    ask("crop", data=data, id=picked, box=[0.5, 0, 1, 1])
    assert Image.open(pictures / "0.png").size == (300, 600)
    assert Image.open(pictures / "0.mask.png").size == (50, 100)
    told = ask("turn", data=data, id=picked, turn="left")
    assert Image.open(pictures / "0.png").size == (600, 300)
    assert told["undo"] == "Turned 0.png"
    assert ask("mask", data=data, id=picked)["undo"] == "Removed the mask of 0.png"
    assert not (pictures / "0.mask.png").exists()
    for _ in range(4):
        ask("undo", data=data)
    assert _contents(pictures) == before


def test_tags_and_buckets(ask: Ask, pictures: Path) -> None:
    draw(pictures / "wide.png", 20, (1600, 500))
    data, _ = _open(ask, pictures)
    cloud = ask("tags", data=data)["tags"]
    assert {"tag": "a cat", "whole": "a cat", "count": 5} in cloud
    table = ask("buckets", data=data)
    assert table["buckets"][0] == {"width": 512, "height": 512, "pictures": 5, "crop_loss": 0.0}
    assert (table["too_small"], table["unknown"]) == (1, 0)
    assert ask("buckets", data=data, side_px=64)["too_small"] == 0
    kinds = {each["kind"] for each in ask("summary", data=data)["strip"]}
    assert "too-small" not in kinds
    assert "choose one of" in ask("buckets", data=data, side_px=63)["error"]


def test_tokens_are_counted(ask: Ask) -> None:
    told = ask("tokens", text="a cat\non a mat, " + "red " * 80)
    assert told["limit"] == 75
    if told["count"] is not None:  # CLIP's vocabulary is on this machine
        assert told["count"] == 86 and told["beyond"].startswith("red")


async def _parts(content: bytes) -> AsyncIterator[bytes]:
    yield content


def _upload(context: Context, name: str, content: bytes) -> dict[str, str]:
    return {"id": asyncio.run(context.uploads.take(name, _parts(content))), "path": name}


def test_dropped_files_make_a_dataset_and_more_are_added(
    ask: Ask, context: Context, pictures: Path
) -> None:
    content = (pictures / "0.png").read_bytes()
    files = [
        _upload(context, "my cats/a.png", content), _upload(context, "my cats/a.txt", b"a cat"),
        _upload(context, "readme.pdf", b"x"),
    ]  # fmt: skip
    told = ask("add", files=files, name="my cats")
    assert told["total"] == 1 and told["title"] == "my cats"
    assert told["added"] == {
        "pictures": 1, "captions": 1, "left_out": ["readme.pdf"], "left_out_count": 1
    }  # fmt: skip
    assert (context.datasets / "my cats/a.txt").read_text() == "a cat"
    zipped = make_zip(("a.png", (pictures / "1.png").read_bytes()))
    more = ask("add", data=told["data"], files=[_upload(context, "more.zip", zipped)])
    assert more["total"] == 2 and more["undo"] == "Added 1 picture"
    assert ask("undo", data=told["data"])["total"] == 1
    assert "upload is gone" in ask("add", data=told["data"], files=files)["error"]


def test_a_drop_without_pictures_leaves_no_folder(ask: Ask, context: Context) -> None:
    told = ask("add", files=[_upload(context, "a.exe", b"x")], name="x")
    assert "no picture and no caption" in told["error"]
    assert not list(context.datasets.glob("*"))


def test_the_demo_is_copied_once_and_kept(ask: Ask, context: Context) -> None:
    told = ask("open", demo=True)
    assert told["total"] >= 10 and told["captioned"] == told["total"] and told["side_px"] == 64
    assert not [each for each in told["strip"] if each["severity"] == "error"]
    folder = context.datasets / "demo-character"
    (folder / "01.txt").write_text("mine")
    ask("open", demo=True)
    assert (folder / "01.txt").read_text() == "mine"


def test_a_captioner_drafts_and_drafts_are_kept_or_not(ask: Ask, pictures: Path) -> None:
    data, items = _open(ask, pictures)
    before = _contents(pictures)
    told = ask(
        "caption", data=data, captioner="template", which="all", trigger="sks",
        settings={"template": "{trigger} by {stem}"},
    )  # fmt: skip
    assert told["captioning"]["state"] == "running"
    assert "at work here already" in ask("caption", data=data, captioner="template")["error"]
    told = _wait(ask, data, lambda t: t["captioning"]["state"] != "running")
    assert told["captioning"]["state"] == "done", told["captioning"]
    assert told["drafts"] == 6 and _contents(pictures) == before
    page = ask("page", data=data, filter={"kind": "drafts"})
    assert page["items"][0]["caption"] == "sks by 0" and page["items"][0]["is_draft"]
    told = ask("keep", data=data, ids=[items["0.png"]["id"]])
    assert told["drafts"] == 5 and (pictures / "0.txt").read_text() == "sks by 0\n"
    assert ask("discard", data=data, ids=[items["1.png"]["id"]])["drafts"] == 4
    told = ask("keep", data=data, all=True)
    assert told["drafts"] == 0 and told["undo"] == "Kept 4 drafts by template"
    assert (pictures / "tiny.txt").read_text() == "sks by tiny\n"
    assert (pictures / "1.txt").read_text() == "a cat, red, number 1\n"
    assert (pictures / ".captions.jsonl").read_text().count("\n") == 5
    ask("undo", data=data)
    ask("undo", data=data)
    after = _contents(pictures)
    after.pop(".captions.jsonl")
    assert after == before


def test_a_captioner_that_can_not_work_is_one_sentence(ask: Ask, pictures: Path) -> None:
    data, _ = _open(ask, pictures)
    ask("caption", data=data, captioner="template", which="all")
    told = _wait(ask, data, lambda t: t["captioning"]["state"] != "running")
    assert told["captioning"]["state"] == "failed"
    assert "no trigger is given" in told["captioning"]["error"]
    for settings in ({"template": "x", "x y": "z"}, {"; rm -rf": "x"}, ["x"], None):
        assert "error" not in ask("caption", data=data, captioner="template", settings=settings)
        _wait(ask, data, lambda t: t["captioning"]["state"] != "running")


@pytest.mark.parametrize(
    ("name", "request_"),
    [
        ("open", {"folder": "/no/such"}),
        ("open", {"folder": ""}),
        ("open", {"folder": "relative/path"}),
        ("open", {"folder": "\0"}),
        ("open", {"folder": "bundled:../../etc"}),
        ("summary", {"data": "x"}),
        ("page", {}),
        ("save", {"data": None}),
        ("add", {"files": []}),
        ("add", {"files": "x"}),
        ("task", {"task": "x"}),
    ],
)
def test_a_wrong_question_gets_one_sentence(ask: Ask, name: str, request_: dict[str, Any]) -> None:
    told = ask(name, **request_)
    assert set(told) == {"error"} and "\n" not in told["error"]


@pytest.mark.parametrize(
    ("name", "request_"),
    [
        ("detail", {"id": "../../etc/passwd"}),
        ("save", {"id": 5, "text": "x"}),
        ("crop", {"box": [0, 0, "x", 1]}),
        ("crop", {"box": [0, 0, float("nan"), 1]}),
        ("crop", {"box": [0.2, 0, 0.1, 1]}),
        ("turn", {"turn": "up"}),
        ("mask", {"png": "data:text/html;base64,PGI+"}),
        ("mask", {}),
        ("edit", {"edit": {"kind": "rm"}}),
        ("edit", {"edit": {"kind": "replace", "find": 5}}),
        ("edit", {"edit": {"kind": "replace", "find": "(", "is_pattern": True}}),
        ("keep", {"ids": []}),
        ("keep", {"all": True}),
        ("undo", {}),
        ("put_back", {}),
        ("copy", {"folder": "relative"}),
        ("caption", {}),
    ],
)
def test_a_wrong_wish_changes_nothing(
    ask: Ask, pictures: Path, name: str, request_: dict[str, Any]
) -> None:
    data, items = _open(ask, pictures)
    before = _contents(pictures)
    told = ask(name, **{"data": data, "id": items["0.png"]["id"], **request_})
    assert set(told) == {"error"} and "\n" not in told["error"], told
    assert _contents(pictures) == before


def test_a_mended_copy_is_written_apart(ask: Ask, pictures: Path, tmp_path: Path) -> None:
    data, _ = _open(ask, pictures)
    task = ask("copy", data=data, folder=str(tmp_path / "mended"))["task"]
    deadline = time.monotonic() + 60
    while (told := ask("task", task=task))["state"] == "running":
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert sorted(p.name for p in (tmp_path / "mended").glob("*.png")) == [
        "0.png", "1.png", "2.png", "3.png", "tiny.png"
    ], told  # fmt: skip


def test_many_new_pictures_are_looked_at_in_a_process(ask: Ask, tmp_path: Path) -> None:
    folder = tmp_path / "many"
    for number in range(45):
        draw(folder / f"{number:02d}.png", number, (64, 64))
    told = ask("open", folder=str(folder))
    assert not told["looked"] and told["looking"] is not None
    told = _wait(ask, told["data"], lambda t: t["looking"] is None)
    assert told["looked"] and not told["looking_error"]
    assert {each["text"] for each in told["strip"]} == {"45 tiny", "no captions yet"}
