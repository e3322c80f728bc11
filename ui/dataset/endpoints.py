"""What scripts may call by name: the questions of the Dataset tab, with named arguments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr

from ui.answers import Json

Ask = Callable[..., Json]
Filter = dict[str, str]


def build(functions: Sequence[Callable[[Any], Json]]) -> None:
    """Add the endpoints to the page that is being built."""
    known = {function.__name__: function for function in functions}

    def ask(name: str, /, **request: Any) -> Json:
        answer = known[f"dataset_{name}"](request)
        # a task has an `error` of its own, which is its end and not this call's
        if answer.get("error") and "state" not in answer:
            raise gr.Error(answer["error"], print_exception=False)
        return answer

    for endpoint in (*_looking(ask), *_changing(ask), *_captioning(ask)):
        gr.api(endpoint, api_name=endpoint.__name__, queue=False)


def _looking(ask: Ask) -> tuple[Callable[..., Json], ...]:
    def dataset_open(folder: str = "", demo: bool = False) -> Json:
        """Open a folder on the studio's computer, or the demo's pictures."""
        return ask("open", folder=folder, demo=demo)

    def dataset_summary(data: str) -> Json:
        """A folder's numbers and findings, and what is under way."""
        return ask("summary", data=data)

    def dataset_page(data: str, filter: Filter | None = None, first: int = 0) -> Json:
        """Up to 120 pictures that the filter (`query`, `tag`, `kind`) shows."""
        return ask("page", data=data, filter=filter, first=first)

    def dataset_detail(data: str, id: str) -> Json:
        """All about a picture."""
        return ask("detail", data=data, id=id)

    def dataset_tokens(text: str) -> Json:
        """How many of CLIP's tokens a text has."""
        return ask("tokens", text=text)

    def dataset_tags(data: str, filter: Filter | None = None) -> Json:
        """The most frequent tags, and in how many captions each is."""
        return ask("tags", data=data, filter=filter)

    def dataset_buckets(data: str, side_px: int | None = None) -> Json:
        """The training sizes, how many pictures each has, and what is cropped away."""
        return ask("buckets", data=data, side_px=side_px)

    def dataset_task(task: str) -> Json:
        """How a task goes: `state`, `share`, `text`, `result`, `error`."""
        return ask("task", task=task)

    return (
        dataset_open, dataset_summary, dataset_page, dataset_detail, dataset_tokens, dataset_tags,
        dataset_buckets, dataset_task,
    )  # fmt: skip


def _changing(ask: Ask) -> tuple[Callable[..., Json], ...]:
    def dataset_add(files: list[dict[str, str]], data: str = "", name: str = "") -> Json:
        """Take uploads (`id`, `path`) into an open folder, or into a new one."""
        return ask("add", files=files, data=data, name=name)

    def dataset_save(data: str, id: str, text: str) -> Json:
        """Write a picture's caption."""
        return ask("save", data=data, id=id, text=text)

    def dataset_exclude(data: str, id: str) -> Json:
        """Take a picture out of the dataset; its file is kept."""
        return ask("exclude", data=data, id=id)

    def dataset_put_back(data: str) -> Json:
        """Bring back what was taken out."""
        return ask("put_back", data=data)

    def dataset_crop(data: str, id: str, box: list[float]) -> Json:
        """Crop a picture and its mask; the box is left, top, right, bottom in shares."""
        return ask("crop", data=data, id=id, box=box)

    def dataset_turn(data: str, id: str, turn: str) -> Json:
        """Turn a picture and its mask `left` or `right`."""
        return ask("turn", data=data, id=id, turn=turn)

    def dataset_mask(data: str, id: str, png: str | None = None) -> Json:
        """Give a picture a mask, a PNG as a data URL; without one its mask goes."""
        return ask("mask", data=data, id=id, png=png)

    def dataset_edit(data: str, edit: dict[str, Any], filter: Filter | None = None) -> Json:
        """What an edit would do: counts, the first 20 changes, and a digest."""
        return ask("edit", data=data, edit=edit, filter=filter)

    def dataset_edit_apply(
        data: str, edit: dict[str, Any], digest: str, filter: Filter | None = None
    ) -> Json:
        """Do what `dataset_edit` showed, by its digest."""
        return ask("edit_apply", data=data, edit=edit, digest=digest, filter=filter)

    def dataset_undo(data: str) -> Json:
        """Take the newest change back, to the byte."""
        return ask("undo", data=data)

    def dataset_fix(data: str, kind: str) -> Json:
        """Mend every problem of a kind."""
        return ask("fix", data=data, kind=kind)

    def dataset_copy(data: str, folder: str) -> Json:
        """Write a mended copy to a new folder: a task."""
        return ask("copy", data=data, folder=folder)

    return (
        dataset_add, dataset_save, dataset_exclude, dataset_put_back, dataset_crop, dataset_turn,
        dataset_mask, dataset_edit, dataset_edit_apply, dataset_undo, dataset_fix, dataset_copy,
    )  # fmt: skip


def _captioning(ask: Ask) -> tuple[Callable[..., Json], ...]:
    def dataset_captioners() -> Json:
        """Every captioner and its settings: a task."""
        return ask("captioners")

    def dataset_caption(
        data: str,
        captioner: str,
        which: str = "missing",
        trigger: str = "",
        settings: dict[str, Any] | None = None,
    ) -> Json:
        """Begin captioning `missing` or `all`; what it writes waits as drafts."""
        return ask(
            "caption", data=data, captioner=captioner, which=which, trigger=trigger,
            settings=settings,
        )  # fmt: skip

    def dataset_caption_cancel(data: str) -> Json:
        """Stop the captioner."""
        return ask("caption_cancel", data=data)

    def dataset_keep(data: str, ids: list[str] | None = None, all: bool = False) -> Json:
        """Write drafts as captions."""
        return ask("keep", data=data, ids=ids, all=all)

    def dataset_discard(data: str, ids: list[str] | None = None, all: bool = False) -> Json:
        """Give drafts up."""
        return ask("discard", data=data, ids=ids, all=all)

    return (
        dataset_captioners, dataset_caption, dataset_caption_cancel, dataset_keep, dataset_discard
    )  # fmt: skip
