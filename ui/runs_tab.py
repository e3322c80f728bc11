"""The Runs tab: one page element that asks about once a second and draws what it is told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr

from lora_diffusion.errors import InputError, printable
from trainers import jobs, layering
from trainers.layering import build_spec
from ui import run_view
from ui.answers import answered
from ui.context import Context
from ui.follow import Follower

_ENDING_SECONDS = 15.0
DEMO_PRESET = "demo-character"
_MOUNT = "Studio.mountRuns(element, server, trigger, {own: 'own'})"

Json = dict[str, Any]


def build(context: Context) -> gr.HTML:
    """The tab's only element. It fires `own`: train on own pictures."""
    return gr.HTML(
        html_template='<div class="st st-runs"></div>',
        js_on_load=_MOUNT,
        server_functions=server_functions(context),
        apply_default_css=False,
        elem_id="st-runs",
    )


def server_functions(context: Context) -> list[Callable[[Any], Json]]:
    """What the page may ask. Each takes one JSON object and answers with one."""

    def studio_poll(request: Any) -> Json:
        """The rail and the chosen run; `same` instead of the run where nothing is new."""
        asked = request if isinstance(request, dict) else {}
        every = context.followers.glance()
        cards = [run_view.card(follower, context.shelf) for follower in every]
        chosen = _chosen(every, cards, asked.get("run"))
        machine = context.hardware.line()
        if chosen is None:
            return {"cards": cards, "machine": machine, "run": None, "seen": ""}
        chosen.catch_up()
        seen = f"{chosen.run.path.name}:{chosen.offset}:{chosen.status()}"
        if asked.get("seen") == seen:
            return {"cards": cards, "machine": machine, "same": True, "seen": seen}
        shown = run_view.view(chosen, context.shelf)
        return {"cards": cards, "machine": machine, "run": shown, "seen": seen}

    def studio_stop(request: Any) -> Json:
        """Ask a run to save and stop."""
        follower = _asked(context, request)
        jobs.stop(follower.run)
        return {}

    def studio_resume(request: Any) -> Json:
        """Go on from the last checkpoint."""
        follower = _asked(context, request)
        refuse_second_run(context)
        if not jobs.wait(follower.run, _ENDING_SECONDS):
            raise InputError("The run is still ending. Try again in a moment.")
        jobs.start(follower.run, resume=follower.status() != "prepared")
        return {}

    def studio_demo(_request: Any) -> Json:
        """Start the demo run."""
        refuse_second_run(context)
        spec = build_spec([layering.read_preset(DEMO_PRESET)])
        run = jobs.prepare(context.runs, "demo-character", spec)
        jobs.start(run)
        return {"run": run.path.name}

    def studio_log(request: Any) -> Json:
        """The end of the log, as text."""
        return {"text": run_view.log_tail(_asked(context, request).run)}

    def studio_settings(request: Any) -> Json:
        """The run's settings as TOML."""
        return {"text": run_view.settings_text(_asked(context, request).run)}

    functions = (
        studio_poll, studio_stop, studio_resume, studio_demo, studio_log, studio_settings
    )  # fmt: skip
    return [answered(function) for function in functions]


def refuse_second_run(context: Context) -> None:
    """Two runs at once would share one memory and one processor.

    Raises:
        InputError: a run is training now.
    """
    for follower in context.followers.glance():
        if follower.status() == "running":
            name = printable(follower.run.path.name, 80)
            raise InputError(f"'{name}' is training now. Stop it or wait until it has finished.")


def _asked(context: Context, request: Any) -> Follower:
    name = request.get("run") if isinstance(request, dict) else None
    follower = context.followers.get(name)
    if follower is None:
        raise InputError("That run is gone. Choose another one.")
    return follower


def _chosen(every: list[Follower], cards: list[Json], name: object) -> Follower | None:
    """The run asked for, else the one that is training, else the newest."""
    for follower in every:
        if follower.run.path.name == name:
            return follower
    for follower, shown in zip(every, cards, strict=True):
        if shown["status"] == "running":
            return follower
    return every[0] if every else None
