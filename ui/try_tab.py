"""The Try tab: a run's adapter beside the bare base, drawn from the same noise."""

from __future__ import annotations

import html
import json
import queue
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gradio as gr

from lora_diffusion.errors import InputError, printable
from trainers.spec import JobSpec
from ui import words
from ui.context import Context
from ui.drawing import Drawing, WeightedFile
from ui.follow import Follower
from ui.run_view import inside

_SHOWN_PX = 1024
_MAX_SEED = 2**31 - 1


@dataclass(frozen=True)
class TryTab:
    """The parts that other tabs speak to."""

    adapter: gr.Dropdown
    prompt: gr.Textbox
    seed: gr.Textbox
    result: gr.HTML


def build(context: Context) -> TryTab:
    """Build the tab and wire its own events."""
    with gr.Row(elem_classes="st-try"):
        with gr.Column(elem_classes="st-form", scale=2, min_width=300):
            adapter = gr.Dropdown(
                choices(context),
                value=None,
                label="Adapter",
                info="A finished run, or a copy it saved on the way.",
                elem_id="st-adapter",
            )
            prompt = gr.Textbox(
                "",
                label="Prompt",
                info="Use the trigger word to call your subject up.",
                lines=2,
                max_length=2000,
                elem_id="st-prompt",
            )
            weight = gr.Slider(
                0,
                1.5,
                value=1.0,
                step=0.05,
                label="Weight",
                info="0 is the base alone, 1 as trained.",
                buttons=[],
                elem_id="st-weight",
            )
            seed = gr.Textbox(
                "42", label="Seed", info="The same seed gives the same noise.", elem_id="st-seed"
            )
            draw = gr.Button("Draw", variant="primary", elem_id="st-draw")
        with gr.Column(elem_classes="st-side", scale=5, min_width=320):
            busy = gr.HTML("", elem_id="st-busy", elem_classes="st-block", apply_default_css=False)
            result = gr.HTML(
                _empty(context),
                js_on_load="Studio.mountTry(element)",
                elem_id="st-result",
                elem_classes="st-block",
                apply_default_css=False,
            )
    fields = [adapter, prompt, weight, seed]

    def show(*given: Any) -> Iterator[tuple[Any, Any]]:
        yield from _draw(context, *given)

    def pick(chosen: str | None, typed: str) -> str:
        prompts = _prompts(context, chosen)
        known = {text for f in context.followers.all() for text in _prompts_of(f)}
        return prompts[0] if prompts and (not typed.strip() or typed in known) else typed

    draw.click(
        show, fields, [busy, result], api_visibility="private", show_progress="hidden",
        trigger_mode="once", concurrency_limit=1, concurrency_id="draw",
    )  # fmt: skip
    weight.release(
        show, fields, [busy, result], api_visibility="private", show_progress="hidden",
        trigger_mode="always_last", concurrency_limit=1, concurrency_id="draw",
    )  # fmt: skip
    adapter.input(pick, [adapter, prompt], prompt, api_visibility="private", show_progress="hidden")
    return TryTab(adapter, prompt, seed, result)


def connect(tab: TryTab, opened: gr.Tab, runs: gr.HTML, context: Context) -> None:
    """Opening the tab offers what there is by now; `Try it` on a run brings that run here."""

    def refresh(chosen: str | None, prompt: str) -> tuple[Any, Any, Any]:
        offered = choices(context)
        if chosen in {value for _, value in offered}:
            return gr.update(choices=offered), gr.skip(), gr.skip()
        newest = offered[0][1] if offered else None
        prompts = _prompts(context, newest)
        text = prompt if prompt.strip() or not prompts else prompts[0]
        return gr.update(choices=offered, value=newest), text, _empty(context)

    def bring(event: gr.EventData) -> tuple[Any, Any, Any, Any]:
        follower = context.followers.get(event._data.get("run") if event._data else None)
        spec = follower.spec() if follower else None
        if follower is None or spec is None:
            return gr.skip(), gr.skip(), gr.skip(), gr.skip()
        prompts = _prompts_of(follower)
        chosen = gr.update(choices=choices(context), value=_value(follower, None))
        return chosen, prompts[0] if prompts else "", str(spec.preview.seed), _empty(context)

    opened.select(
        refresh, [tab.adapter, tab.prompt], [tab.adapter, tab.prompt, tab.result],
        api_visibility="private", show_progress="hidden",
    )  # fmt: skip
    runs.tryit(
        bring, None, [tab.adapter, tab.prompt, tab.seed, tab.result],
        api_visibility="private", show_progress="hidden",
    )  # fmt: skip


def choices(context: Context) -> list[tuple[str, str]]:
    """(label, value) of everything that can be tried: final adapters, then what lies between."""
    found = []
    for follower in context.followers.all():
        name = printable(follower.run.path.name, 60)
        if _file_of(follower, None) is not None:
            found.append((name, _value(follower, None)))
        for step in sorted(follower.progress.exports, reverse=True):
            path = inside(follower.run, follower.progress.exports[step])
            if path is not None and path.parent.name == "exports":
                found.append((f"{name}, step {step:,}", _value(follower, step)))
    return found


def _value(follower: Follower, step: int | None) -> str:
    return json.dumps([follower.run.path.name, step])


def _find(context: Context, value: object) -> tuple[Follower, Path, str]:
    """The run, the file and the label behind a choice.

    Raises:
        InputError: nothing chosen, or it is gone.
    """
    if not isinstance(value, str) or not value:
        raise InputError("Choose an adapter first.")
    try:
        name, step = json.loads(value)
        step = None if step is None else int(step)
    except (ValueError, TypeError):
        raise InputError("Choose an adapter from the list.") from None
    follower = context.followers.get(name)
    path = _file_of(follower, step) if follower else None
    if follower is None or path is None:
        raise InputError("That adapter is gone. Choose another one.")
    label = printable(follower.run.path.name, 60)
    return follower, path, label if step is None else f"{label}, step {step:,}"


def _file_of(follower: Follower, step: int | None) -> Path | None:
    if step is not None:
        return inside(follower.run, follower.progress.exports.get(step))
    spec = follower.spec()
    if spec is None:
        return None
    path = follower.run.adapter_file(spec)
    return path if path.is_file() and not path.is_symlink() else None


def _prompts(context: Context, value: object) -> list[str]:
    try:
        follower, _, _ = _find(context, value)
    except InputError:
        return []
    return _prompts_of(follower)


def _prompts_of(follower: Follower) -> list[str]:
    pictures = next(iter(follower.progress.previews.values()), [])
    return [printable(p["prompt"], 300) for p in pictures if isinstance(p.get("prompt"), str)]


def _draw(
    context: Context, chosen: object, prompt: object, weight: object, seed: object
) -> Iterator[tuple[Any, Any]]:
    """(what goes on, what is shown): progress above the last pictures, then the new ones."""
    try:
        follower, path, label = _find(context, chosen)
        spec = follower.spec() or follower.run.spec()
        before = _drawing(spec, str(prompt or ""), _seed(seed))
        strength = float(weight) if isinstance(weight, int | float) else 1.0
        file = WeightedFile(str(path), strength, path.stat().st_mtime_ns)
        after = replace(before, adapters=(file,))
        shown: list[str] = []
        for number, drawing in enumerate((before, after)):
            for step in _steps(context, drawing):
                if isinstance(step, Path):
                    shown.append(context.shelf.picture(step, _SHOWN_PX) or "")
                else:
                    yield _busy(step[0], (number + step[1]) / 2), gr.skip()
    except InputError as error:
        text = html.escape(printable(error, 500))
        yield f'<p class="st st-note st-bad" role="alert">{text}</p>', gr.skip()
        return
    yield "", _pictures(shown[0], shown[1], after, label)


def _steps(context: Context, drawing: Drawing) -> Iterator[tuple[str, float] | Path]:
    """The drawer's progress as it comes, then the picture."""
    told: queue.Queue[tuple[str, float] | Path | InputError] = queue.Queue()

    def work() -> None:
        try:
            told.put(context.drawer.draw(drawing, lambda text, share: told.put((text, share))))
        except InputError as error:
            told.put(error)
        except OSError as error:
            told.put(InputError(f"The disk refused: {printable(error.strerror or error)}."))

    threading.Thread(target=work, daemon=True).start()
    while True:
        item = told.get()
        if isinstance(item, InputError):
            raise item
        yield item
        if isinstance(item, Path):
            return


def _drawing(spec: JobSpec, prompt: str, seed: int) -> Drawing:
    """Drawn as the run drew its previews."""
    if not prompt.strip():
        raise InputError("Type what to draw.")
    preview = spec.preview
    return Drawing(
        base=spec.model.base,
        adapters=(),
        prompt=prompt.strip(),
        negative=preview.negative,
        seed=seed,
        sampler=preview.sampler,
        sampling_steps=preview.sampling_steps,
        cfg=preview.cfg,
        size_px=preview.size_px or spec.data.resolution_px,
        tokenizer=spec.model.tokenizer,
        prediction=spec.model.prediction,
        zero_snr=spec.model.zero_snr,
        clip_skip=spec.model.clip_skip,
    )


def _seed(typed: object) -> int:
    text = str(typed if typed is not None else "").strip()
    if not re.fullmatch(r"[0-9]{1,10}", text) or int(text) > _MAX_SEED:
        raise InputError(f"Seed: type a whole number from 0 to {_MAX_SEED:,}.")
    return int(text)


def _busy(text: str, share: float) -> str:
    return (
        f'<div class="st st-busy" role="status"><span>{html.escape(text)}</span>'
        f'<span class="st-bar"><i style="width:{share * 100:.1f}%"></i></span></div>'
    )


def _pictures(before: str, after: str, drawing: Drawing, label: str) -> str:
    weight = drawing.adapters[0].weight
    prompt = html.escape(printable(drawing.prompt, 300), quote=True)
    name = html.escape(label)
    parameters = (
        f"seed {drawing.seed} · {drawing.sampling_steps} steps · {drawing.sampler} · "
        f"guidance {drawing.cfg:g} · {words.place(drawing.base)}"
    )
    return (
        '<div class="st st-pair-pictures">'
        f'<figure><img src="{before}" alt="Base alone: {prompt}">'
        "<figcaption><b>Before</b> base alone</figcaption></figure>"
        f'<figure class="st-after"><img src="{after}" data-before="{before}" '
        f'alt="With {name} at {weight:g}: {prompt}">'
        f"<figcaption><b>With {name}</b> at {weight:g}</figcaption></figure>"
        f'<p class="st-muted">“{prompt}”<br>{html.escape(parameters)}'
        '<span class="st-keys" aria-hidden="true"><kbd>B</kbd> hold for before</span></p></div>'
    )


def _empty(context: Context) -> str:
    text = (
        "Choose an adapter, type a prompt, and see what it changes."
        if choices(context)
        else "Train a LoRA first; it can be tried here as soon as a run has finished."
    )
    return (
        '<div class="st st-empty"><span class="st-two" aria-hidden="true"><i></i><i></i></span>'
        f"<h1>Before and after</h1><p>{text}</p></div>"
    )
