"""What the Dataset tab's page may ask; `endpoints` gives the same to scripts.

Each function takes one JSON object and answers with one; `data` is the key from
`dataset_open`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

from lora_diffusion.errors import InputError, printable
from trainers.data import mends, picture_edits
from trainers.data.caption_edits import KINDS, Edit, Edited, compiled
from trainers.data.changes import Move, Write
from trainers.data.picture_edits import mask_name
from ui import words
from ui.answers import Json, answered
from ui.context import Context
from ui.dataset import cards, counting
from ui.dataset.folder import OpenFolder, read_filter
from ui.dataset.opening import DEMO, Opened, Opening

PREVIEWED = 20
_MAX_FILES = 5_000
_PNG = "data:image/png;base64,"


def functions(context: Context, opening: Opening) -> list[Callable[[Any], Json]]:
    """Every function, with bad input answered as one sentence."""
    shelf = context.shelf

    def dataset_open(request: Any) -> Json:
        """Open `folder` on this computer, or the demo's pictures with `demo`."""
        asked = _object(request)
        return _told(opening.open(DEMO if asked.get("demo") else str(asked.get("folder") or "")))

    def dataset_add(request: Any) -> Json:
        """Take uploaded `files` ({id, path}) into `data`, or into a new folder called `name`."""
        asked = _object(request)
        given = asked.get("files")
        if not isinstance(given, list) or not given or len(given) > _MAX_FILES:
            raise InputError(f"Add between 1 and {_MAX_FILES:,} files at a time.")
        files = [(str(_object(f).get("id")), str(_object(f).get("path") or "")) for f in given]
        opened, taken = opening.add(asked.get("data"), files, str(asked.get("name") or ""))
        return _told(opened) | {
            "added": {
                "pictures": taken.pictures, "captions": taken.captions,
                "left_out": taken.left_out, "left_out_count": taken.left_out_count,
            }
        }  # fmt: skip

    def dataset_summary(request: Any) -> Json:
        """The folder's numbers, findings, and what is under way."""
        return _told(_opened(request))

    def dataset_page(request: Any) -> Json:
        """Up to 120 pictures of those that `filter` shows, from `first` on."""
        opened = _opened(request)
        asked = _object(request)
        first = asked.get("first")
        return cards.page(
            opened.folder, shelf, read_filter(asked.get("filter")), opened.drafting.waiting(),
            first if isinstance(first, int) else 0,
        )  # fmt: skip

    def dataset_detail(request: Any) -> Json:
        """All about the picture `id`, and its `place` among those that `filter` shows."""
        opened = _opened(request)
        drafts = opened.drafting.waiting()
        name = opened.folder.name_of(_object(request).get("id"))
        wanted = read_filter(_object(request).get("filter"))
        found = cards.detail(opened.folder, shelf, name, drafts)
        return found | {"place": cards.place(opened.folder, wanted, drafts, name)}

    def dataset_tokens(request: Any) -> Json:
        """How many of CLIP's tokens `text` has."""
        return counting.told(str(_object(request).get("text") or "")[:100_000])

    def dataset_save(request: Any) -> Json:
        """Write `text` as the caption of the picture `id`."""
        opened, name = _picture(request)
        text = str(_object(request).get("text") or "")
        if len(text) > 100_000:
            raise InputError("A caption has at most 100,000 letters. Shorten it.")
        steps = opened.folder.caption_steps({name: text})
        if steps:
            opened.folder.change(f"Caption of {printable(name, 60)}", steps)
        if name in opened.drafting.waiting():
            opened.drafting.discard([name])
        return _told(opened) | {"saved": bool(steps)}

    def dataset_exclude(request: Any) -> Json:
        """Take the picture `id` out of the dataset; its file is kept in `.excluded`."""
        opened, name = _picture(request)
        opened.folder.exclude([name])
        return _told(opened)

    def dataset_put_back(request: Any) -> Json:
        """Bring back everything that was taken out."""
        opened = _opened(request)
        steps = []
        taken: set[str] = set()
        for name in mends.excluded(opened.folder.path):
            first, _, rest = name.partition("/")
            home = rest if first.isdecimal() and rest else name
            if not (opened.folder.path / home).exists() and home not in taken:
                taken.add(home)
                steps.append(Move(f"{mends.EXCLUDED}/{name}", home))
        if not steps:
            raise InputError("Nothing can be put back: files of these names are in the folder.")
        opened.folder.change(f"Put back {words.counted(len(steps), 'file')}", steps)
        return _told(opened)

    def dataset_crop(request: Any) -> Json:
        """Crop the picture `id`, and its mask, to `box`: left, top, right, bottom in shares."""
        box = _object(request).get("box")
        if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
            raise InputError("Draw a box on the picture first.")
        sides = (float(box[0]), float(box[1]), float(box[2]), float(box[3]))
        return _redraw(request, "Cropped", lambda path: picture_edits.cropped(path, sides))

    def dataset_turn(request: Any) -> Json:
        """Turn the picture `id`, and its mask, by a quarter to the `left` or `right`."""
        turn = _object(request).get("turn")
        if turn not in ("left", "right"):
            raise InputError("Turn it left or right.")
        return _redraw(request, "Turned", lambda path: picture_edits.turned(path, turn))

    def dataset_mask(request: Any) -> Json:
        """Keep `png`, a data URL, as the mask of the picture `id`; without it the mask goes."""
        opened, name = _picture(request)
        folder = opened.folder
        folder.file_of(name)
        sent = _object(request).get("png")
        mask = folder.snapshot.pictures[name].mask
        beside = mends.within(mask, folder.path) or mask_name(name)
        if sent is None:
            if not (folder.path / beside).is_file():
                raise InputError("This picture has no mask.")
            step = Move(beside, mends.free_place([beside], folder.path) + beside)
            folder.change(f"Removed the mask of {printable(name, 60)}", [step])
            return _told(opened)
        try:
            painted = base64.b64decode(str(sent).removeprefix(_PNG), validate=True)
        except (binascii.Error, ValueError):
            painted = b""
        content = picture_edits.mask_content(painted)
        folder.change(f"Mask of {printable(name, 60)}", [Write(beside, content)])
        return _told(opened)

    def dataset_edit(request: Any) -> Json:
        """What `edit` would change in the captions that `filter` shows: counts and the first 20."""
        opened = _opened(request)
        changed, left_out = _edited(opened, request)
        first = list(changed.items())[:PREVIEWED]
        return {
            "captions": len(changed),
            "places": sum(each.places for each in changed.values()),
            "changes": [
                {"name": printable(name, 80), "before": each.before, "after": each.after}
                for name, each in first
            ],
            "digest": _digest(changed),
            "left_out": left_out,
        }

    def dataset_edit_apply(request: Any) -> Json:
        """Make the changes that `dataset_edit` showed, by its `digest`."""
        opened = _opened(request)
        changed, _ = _edited(opened, request)
        if _digest(changed) != _object(request).get("digest"):
            raise InputError("The captions have changed since. Look at the preview again.")
        steps = [
            Write(opened.folder.target_of(name).name, each.after.encode())
            for name, each in changed.items()
        ]
        kind = _read_edit(request).kind.replace("drop-repeats", "dropped repeats").capitalize()
        opened.folder.change(f"{kind}: {words.counted(len(steps), 'caption')}", steps)
        return _told(opened) | {"changed": len(steps)}

    def dataset_undo(request: Any) -> Json:
        """Take the newest change back, to the byte."""
        opened = _opened(request)
        undone = opened.folder.undo()
        return _told(opened) | {"undone": printable(undone.title, 200)}

    def dataset_fix(request: Any) -> Json:
        """Mend every problem of `kind` in the folder; can be undone."""
        opened = _opened(request)
        kind = str(_object(request).get("kind") or "")
        report = opened.folder.snapshot.report
        if report is None:
            raise InputError("The pictures are still being looked at. Wait a moment.")
        steps = mends.steps_for(kind, report, opened.folder.path)
        if not steps:
            raise InputError("There is nothing that can be mended by itself. Look at each one.")
        excluded = {
            s.name for s in steps if isinstance(s, Move)
        } & opened.folder.snapshot.pictures.keys()
        if len(excluded) >= len(opened.folder.snapshot.pictures) and kind != "wrong-ending":
            raise InputError("That would leave no picture. Look at them one by one.")
        opened.folder.change(f"{mends.mended(kind)} ({words.counted(len(steps), 'file')})", steps)
        return _told(opened)

    def dataset_copy(request: Any) -> Json:
        """Write a copy with all safe fixes to `folder`, in a process of its own; gives its task."""
        opened = _opened(request)
        typed = str(_object(request).get("folder") or "").strip()
        out = Path(typed).expanduser()
        if not typed or not out.is_absolute():
            raise InputError("Type the whole path of a new folder, from / on.")
        verb = ["doctor", str(opened.folder.path), f"--fix={out}", "--json"]
        return {"task": context.tasks.start("Writing a mended copy", verb).id}

    def dataset_task(request: Any) -> Json:
        """How a task goes."""
        return context.tasks.get(_object(request).get("task")).as_json()

    def dataset_tags(request: Any) -> Json:
        """The tags of the pictures that `filter` shows, the most frequent first."""
        wanted = read_filter(_object(request).get("filter"))
        return cards.tag_cloud(_opened(request).folder, wanted)

    def dataset_buckets(request: Any) -> Json:
        """The training sizes at `side_px`, which is kept for this folder."""
        opened = _opened(request)
        side = _object(request).get("side_px")
        if isinstance(side, int) and side != opened.folder.side_px:
            opened.folder.side_px = side
            opened.folder.refresh()
        return cards.bucket_table(opened.folder)

    def dataset_captioners(_request: Any) -> Json:
        """A task whose result names every captioner and its settings."""
        return {"task": context.tasks.start("Captioners", ["caption", "--list", "--json"]).id}

    def dataset_caption(request: Any) -> Json:
        """Begin captioning with `captioner`; what it writes waits as drafts."""
        opened = _opened(request)
        opened.drafting.start(_object(request))
        return _told(opened)

    def dataset_caption_cancel(request: Any) -> Json:
        """Stop the captioner; its drafts so far stay."""
        opened = _opened(request)
        opened.drafting.cancel()
        return _told(opened)

    def dataset_keep(request: Any) -> Json:
        """Write the drafts of the pictures `ids`, or `all`, as captions."""
        opened, names = _drafts(request)
        opened.drafting.keep(names)
        return _told(opened)

    def dataset_discard(request: Any) -> Json:
        """Give up the drafts of the pictures `ids`, or `all`."""
        opened, names = _drafts(request)
        opened.drafting.discard(names)
        return _told(opened)

    def _opened(request: Any) -> Opened:
        return opening.find(_object(request).get("data"))

    def _picture(request: Any) -> tuple[Opened, str]:
        opened = _opened(request)
        return opened, opened.folder.name_of(_object(request).get("id"))

    def _drafts(request: Any) -> tuple[Opened, list[str]]:
        opened, asked = _opened(request), _object(request)
        if asked.get("all"):
            return opened, list(opened.drafting.waiting())
        ids = asked.get("ids")
        return opened, cards.names_of(opened.folder, ids if isinstance(ids, list) else [])

    def _redraw(request: Any, title: str, edit: Callable[[Path], bytes]) -> Json:
        opened, name = _picture(request)
        folder = opened.folder
        steps = [Write(name, edit(folder.file_of(name)))]
        mask = folder.snapshot.pictures[name].mask
        if isinstance(mask, Path) and (beside := mends.within(mask, folder.path)):
            steps.append(Write(beside, edit(mask)))
        folder.change(f"{title} {printable(name, 60)}", steps)
        return _told(opened)

    made = (
        dataset_open, dataset_add, dataset_summary, dataset_page, dataset_detail, dataset_tokens,
        dataset_save, dataset_exclude, dataset_put_back, dataset_crop, dataset_turn, dataset_mask,
        dataset_edit, dataset_edit_apply, dataset_undo, dataset_fix, dataset_copy, dataset_task,
        dataset_tags, dataset_buckets, dataset_captioners, dataset_caption,
        dataset_caption_cancel, dataset_keep, dataset_discard,
    )  # fmt: skip
    return [answered(function) for function in made]


def _told(opened: Opened) -> Json:
    opened.looking.begin()
    return cards.summary(opened.folder) | {
        "data": opened.key,
        "looking": opened.looking.told(),
        "looking_error": printable(opened.looking.error, 300),
        "captioning": opened.drafting.told(),
        "drafts": len(opened.drafting.waiting()),
    }


def _edited(opened: Opened, request: Any) -> tuple[dict[str, Edited], int]:
    """Picture's name -> how the edit changes its caption, of those that the filter shows.

    The number counts captions that can't be read, or not be written.
    """
    folder: OpenFolder = opened.folder
    change = compiled(_read_edit(request))
    wanted = read_filter(_object(request).get("filter"))
    found: dict[str, Edited] = {}
    left_out = 0
    for name in folder.snapshot.matching(wanted, frozenset(opened.drafting.waiting())):
        if not folder.snapshot.has_caption(name):
            continue
        try:
            folder.file_of(name)
            text = folder.text_of(name)
        except InputError:
            left_out += 1
            continue
        if (edited := change(text)) is not None:
            found[name] = edited
    return found, left_out


def _read_edit(request: Any) -> Edit:
    given = _object(_object(request).get("edit"))
    if given.get("kind") not in KINDS:
        raise InputError("Choose what to change.")
    known = {each.name: given[each.name] for each in fields(Edit) if each.name in given}
    for key, value in known.items():
        if not isinstance(
            value, bool if key in ("is_pattern", "match_case", "whole_words") else str
        ):
            raise InputError("The question was not understood. Reload the page.")
    return Edit(**known)


def _digest(changed: dict[str, Edited]) -> str:
    total = hashlib.sha256()
    for name, each in changed.items():
        total.update(repr((name, each.before, each.after)).encode("utf-8", "surrogateescape"))
    return total.hexdigest()


def _object(request: Any) -> dict[str, Any]:
    return request if isinstance(request, dict) else {}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
