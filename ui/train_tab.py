"""The Train tab: a short form on the left, what will be made on the right."""

from __future__ import annotations

import html
import itertools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from lora_diffusion.errors import InputError, printable
from trainers import jobs
from ui import datasets, form, models, words
from ui.context import Context
from ui.form import Answers
from ui.runs_tab import DEMO_PRESET, refuse_second_run

SHOWN_PICTURES = 16
_THUMBNAIL_PX = 160
_NUMBERS = itertools.count()
_FIELDS = ("preset", "pictures", "folder", "base", "name", "trigger", "steps", "rank", "lr")


@dataclass(frozen=True)
class TrainTab:
    """The parts that other tabs speak to."""

    pictures: gr.Radio
    folder: gr.Textbox


def build(context: Context) -> TrainTab:
    """Build the tab and wire its own events."""
    first = form.start_of(DEMO_PRESET)
    with gr.Row(elem_classes="st-train"):
        with gr.Column(elem_classes="st-form", scale=3, min_width=320):
            preset = gr.Dropdown(
                form.preset_choices(),
                value=DEMO_PRESET,
                label="What are you teaching?",
                info="Picks settings known to suit it; everything below can still be changed.",
                elem_id="st-preset",
            )
            pictures = gr.Radio(
                [*form.DEMO_FOLDERS, form.OWN_PICTURES],
                value=first.pictures,
                label="Pictures",
                info="The pictures and captions to learn from.",
                elem_id="st-pictures",
            )
            folder = gr.Textbox(
                "",
                label="Folder",
                info="On this studio's computer. A .txt beside a picture is its caption.",
                placeholder="/home/me/pictures/my-cat",
                visible=first.pictures == form.OWN_PICTURES,
                elem_id="st-folder",
            )
            base = gr.Dropdown(
                models.offered(context.models),
                value=first.base,
                label="Base model",
                info="The model your LoRA will work with; choose what you draw with.",
                allow_custom_value=True,
                elem_id="st-base",
            )
            with gr.Row(elem_classes="st-pair"):
                name = gr.Textbox(
                    first.name, label="Name", info="Becomes the file name.", elem_id="st-name"
                )
                trigger = gr.Textbox(
                    first.trigger,
                    label="Trigger word",
                    info="The word that calls your subject up in a prompt.",
                    elem_id="st-trigger",
                )
            with gr.Row(elem_classes="st-pair"):
                steps = gr.Textbox(
                    first.steps,
                    label="Training steps",
                    info="More steps learn more and, past some point, memorise.",
                    elem_id="st-steps",
                )
                rank = gr.Textbox(
                    first.rank,
                    label="Detail (rank)",
                    info="How much the LoRA can hold; higher makes larger files.",
                    elem_id="st-rank",
                )
                lr = gr.Textbox(
                    first.lr,
                    label="Learning rate",
                    info="How far each step moves; halve it if pictures look burnt.",
                    elem_id="st-lr",
                )
        with gr.Column(elem_classes="st-side", scale=2, min_width=300):
            preview = gr.HTML(
                _dataset_card(context, form.DEMO_FOLDERS.get(first.pictures, "")),
                elem_classes="st-block",
                apply_default_css=False,
            )
            with gr.Row(elem_classes="st-actions"):
                start = gr.Button("Start training", variant="primary", elem_id="st-start")
                copy = gr.Button("Copy command", elem_id="st-copy")
            said = gr.HTML(
                "",
                js_on_load="Studio.mountSaid(element, watch)",
                elem_id="st-said",
                elem_classes="st-block",
                apply_default_css=False,
            )
            marks = gr.HTML(
                "",
                js_on_load="Studio.mountMarks(element, watch)",
                elem_id="st-marks",
                elem_classes="st-block",
                apply_default_css=False,
            )
    fields = [preset, pictures, folder, base, name, trigger, steps, rank, lr]

    def fill(chosen: str) -> list[Any]:
        try:
            at = form.start_of(chosen)
        except InputError:
            return [gr.skip()] * 8
        shown = gr.update(visible=at.pictures == form.OWN_PICTURES)
        return [at.pictures, shown, at.base, at.name, at.trigger, at.steps, at.rank, at.lr]

    def show_folder(kind: str) -> Any:
        return gr.update(visible=kind == form.OWN_PICTURES)

    def look(kind: str, typed: str) -> str:
        return _dataset_card(context, form.DEMO_FOLDERS.get(kind, typed))

    def begin(*given: Any) -> tuple[str, str]:
        answers = _answers(*given)
        wrong = form.problems(answers)
        said = "" if wrong else _begin(context, answers)
        return said, _marks(answers, wrong, focus=True)

    def show_command(*given: Any) -> tuple[str, str]:
        answers = _answers(*given)
        wrong = form.problems(answers)
        if wrong:
            return "", _marks(answers, wrong, focus=True)
        return _told(answers, "copy", form.command(answers, _runs_folder(context.runs))), _marks(
            answers, {}
        )

    def check(*given: Any) -> str:
        answers = _answers(*given)
        wrong = form.problems(answers)
        if not answers.location.strip():
            wrong.pop("folder", None)  # nothing typed yet is no mistake yet
        return _marks(answers, wrong)

    preset.input(
        fill, preset, [pictures, folder, base, name, trigger, steps, rank, lr],
        api_visibility="private", show_progress="hidden",
    )  # fmt: skip
    pictures.change(show_folder, pictures, folder, api_visibility="private", show_progress="hidden")
    # An event of its own for each: one for both drops what is typed while it answers the other.
    for changed in (pictures.change, folder.change, folder.blur):
        changed(
            look, [pictures, folder], preview,
            api_visibility="private", show_progress="hidden", trigger_mode="always_last",
            concurrency_id="look", concurrency_limit=1,
        )  # fmt: skip
    gr.on(
        [field.change for field in fields], check, fields, marks,
        api_visibility="private", show_progress="hidden", trigger_mode="always_last",
    )  # fmt: skip
    start.click(
        begin, fields, [said, marks],
        api_visibility="private", show_progress="hidden", trigger_mode="once",
    )  # fmt: skip
    copy.click(
        show_command, fields, [said, marks], api_visibility="private", show_progress="hidden"
    )
    return TrainTab(pictures, folder)


def connect(tab: TrainTab, runs: gr.HTML) -> None:
    """`Use my own pictures` on the Runs tab opens the folder box here."""
    runs.own(
        lambda: form.OWN_PICTURES, None, tab.pictures,
        api_visibility="private", show_progress="hidden",
    )  # fmt: skip


def _answers(*given: Any) -> Answers:
    texts = ["" if value is None else str(value) for value in given]
    return Answers(**dict(zip(_FIELDS, texts, strict=True)))


def _begin(context: Context, answers: Answers) -> str:
    try:
        spec = form.to_spec(answers)
        refuse_second_run(context)
        run = jobs.prepare(context.runs, answers.name or "run", spec)
        jobs.start(run)
    except InputError as error:
        return _note(answers, "bad", str(error))
    except OSError as error:
        return _note(answers, "bad", f"The disk refused: {error.strerror or error}.")
    return _told(answers, "run", run.path.name)


def _told(answers: Answers, what: str, value: str) -> str:
    """A message to the page's script about this state of the form."""
    return (
        f'<div class="st" data-{what}="{html.escape(value, quote=True)}" {_about(answers)}></div>'
    )


def _about(answers: Answers) -> str:
    """Which state of the form a message is about; the number makes two equal messages differ."""
    return f'data-form="{hash(answers):x}" data-number="{next(_NUMBERS)}"'


def _marks(answers: Answers, wrong: dict[str, str], *, focus: bool = False) -> str:
    """What is wrong, by field, for the page to write beside the fields."""
    told = html.escape(json.dumps({"wrong": wrong, "focus": focus}), quote=True)
    return f'<i data-marks="{told}" {_about(answers)}></i>'


def _note(answers: Answers, kind: str, text: str) -> str:
    shown = html.escape(printable(text, 500))
    return f'<p class="st st-note st-{kind}" role="alert" {_about(answers)}>{shown}</p>'


def _runs_folder(runs: Path) -> str:
    """The folder of runs as one types it beside app.py; in full where it lies elsewhere."""
    beside = Path(__file__).resolve().parent.parent
    return runs.relative_to(beside).as_posix() if runs.is_relative_to(beside) else str(runs)


def _dataset_card(context: Context, location: str) -> str:
    """How many pictures, the first of them, and their captions."""
    try:
        found = datasets.look(location)
    except InputError as error:
        text = html.escape(printable(error, 300)) if location.strip() else (
            "Type the folder that holds your pictures: 10 to 40 suit a character, more a style."
        )  # fmt: skip
        return f'<section class="st st-card st-dataset"><h2>Pictures</h2><p>{text}</p></section>'
    figures = []
    for path in found.pictures[:SHOWN_PICTURES]:
        url = context.shelf.picture(path, _THUMBNAIL_PX)
        caption = html.escape(found.caption(path) or "no caption file", quote=True)
        figures.append(
            f'<figure title="{caption}"><img src="{url}" alt="{caption}" loading="lazy">'
            f"<figcaption>{caption}</figcaption></figure>"
        )
    count = words.counted(len(found.pictures), "picture")
    captions = (
        "all with captions"
        if found.captioned == len(found.pictures)
        else f"{found.captioned:,} with a caption"
    )
    more = len(found.pictures) - len(figures)
    rest = f'<p class="st-muted">and {more:,} more</p>' if more else ""
    return (
        '<section class="st st-card st-dataset"><div class="st-card-head"><h2>'
        f'{html.escape(words.place(location))}</h2><span class="st-muted">{count}, {captions}'
        f'</span></div><div class="st-thumbs">{"".join(figures)}</div>{rest}</section>'
    )
