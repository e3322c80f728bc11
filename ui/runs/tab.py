"""The Runs tab: one page element that asks about once a second and draws what it is told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr

from lora_diffusion.errors import InputError, printable
from lora_diffusion.files import write_text
from trainers import control, jobs, layering
from trainers.explain import explain
from trainers.layering import build_spec, to_toml
from ui.answers import answered
from ui.context import Context
from ui.element import element
from ui.follow import Follower
from ui.runs import comparison, view

_ENDING_SECONDS = 15.0
DEMO_PRESET = "demo-character"
_LESS_MEMORY = {"model": {"low_memory": True, "gradient_checkpointing": True}}

Json = dict[str, Any]


def build(context: Context) -> gr.HTML:
    """The tab's only element."""
    return element("runs", "mountRuns", server_functions(context))


def server_functions(context: Context) -> list[Callable[[Any], Json]]:
    """What the page may ask. Each takes one JSON object and answers with one."""
    functions = (*_looking(context), *_steering(context), *_queueing(context))
    return [answered(function) for function in functions]


def _looking(context: Context) -> tuple[Callable[[Any], Json], ...]:
    def studio_poll(request: Any) -> Json:
        """The rail and the chosen run; `same` instead of the run where nothing is new."""
        asked = request if isinstance(request, dict) else {}
        every = context.followers.glance()
        waiting = context.queue.names()
        cards = [_card(context, follower, waiting) for follower in every]
        cards.sort(key=lambda c: waiting.index(c["id"]) if c["status"] == "waiting" else -1)
        answer: Json = {"cards": cards, "machine": context.hardware.line(), "run": None, "seen": ""}
        chosen = _chosen(every, cards, asked.get("run"))
        if chosen is None:
            return answer
        chosen.catch_up()
        name = chosen.name
        why = _waits_for(cards, waiting, name) if name in waiting else None
        answer["seen"] = f"{name}:{chosen.offset}:{chosen.status()}:{why}"
        if asked.get("seen") == answer["seen"]:
            return {**answer, "same": True}
        shown = view.view(chosen, context.shelf, why)
        return {**answer, "run": {**shown, "together": _together(chosen, every)}}

    def studio_log(request: Any) -> Json:
        """The end of the log, as text."""
        return {"text": view.log_tail(_asked(context, request).run)}

    def studio_settings(request: Any) -> Json:
        """The run's settings as TOML."""
        return {"text": view.settings_text(_asked(context, request).run)}

    def studio_compare(request: Any) -> Json:
        """`{runs}`: curves, newest previews, and the settings that differ."""
        names = request.get("runs") if isinstance(request, dict) else None
        every = [_asked(context, {"run": name}) for name in names or []]
        return comparison.compare(every, context.shelf)

    def studio_explain(request: Any) -> Json:
        """What the run tells: the verdict, its figures, and what to change next."""
        told = explain(_asked(context, request).run)
        return {
            "headline": printable(told.headline, 400),
            "says": [printable(sentence, 500) for sentence in told.says],
            "advice": [
                {
                    "setting": each.setting,
                    "before": printable(each.before, 60),
                    "after": printable(each.after, 60),
                    "text": printable(each.text, 400),
                }
                for each in told.advice
            ],
        }

    return studio_poll, studio_log, studio_settings, studio_compare, studio_explain


def _steering(context: Context) -> tuple[Callable[[Any], Json], ...]:
    def studio_stop(request: Any) -> Json:
        """Ask a run to save and stop."""
        jobs.stop(_working(context, request).run)
        return {}

    def studio_pause(request: Any) -> Json:
        """Hold a run after its current step."""
        control.pause(_working(context, request).run.control)
        return {}

    def studio_unpause(request: Any) -> Json:
        """Let a paused run go on."""
        control.unpause(_working(context, request).run.control)
        return {}

    def studio_save(request: Any) -> Json:
        """Save a checkpoint and an adapter after the current step."""
        control.ask(_working(context, request).run.control, "save")
        return {}

    def studio_sample(request: Any) -> Json:
        """Draw previews after the current step."""
        control.ask(_working(context, request).run.control, "sample")
        return {}

    return studio_stop, studio_pause, studio_unpause, studio_save, studio_sample


def _queueing(context: Context) -> tuple[Callable[[Any], Json], ...]:
    def studio_resume(request: Any) -> Json:
        """Go on from the last checkpoint, with `less_memory` where asked; in its turn."""
        follower = _asked(context, request)
        if not jobs.wait(follower.run, _ENDING_SECONDS):
            raise InputError("The run is still ending. Try again in a moment.")
        if request.get("less_memory"):
            spec = build_spec([layering.read_toml(follower.run.spec_file), _LESS_MEMORY])
            write_text(follower.run.spec_file, to_toml(spec))
        context.queue.add(follower.run, resume=follower.status() != "prepared")
        context.scheduler.wake()
        return {}

    def studio_demo(_request: Any) -> Json:
        """Put the demo run in line."""
        spec = build_spec([layering.read_preset(DEMO_PRESET)])
        run = jobs.prepare(context.runs, "demo-character", spec)
        context.queue.add(run)
        context.scheduler.wake()
        return {"run": run.path.name}

    def studio_move(request: Any) -> Json:
        """`{run, place}`: put a waiting run elsewhere in line, 0 being the next."""
        place = request.get("place") if isinstance(request, dict) else None
        if not isinstance(place, int):
            raise InputError("That place is not a number. Drag the run again.")
        context.queue.move(_asked(context, request).name, place)
        return {"waiting": context.queue.names()}

    def studio_unqueue(request: Any) -> Json:
        """Take a waiting run out of the line; its settings stay."""
        context.queue.remove(_asked(context, request).name)
        return {"waiting": context.queue.names()}

    return studio_resume, studio_demo, studio_move, studio_unqueue


def _card(context: Context, follower: Follower, waiting: list[str]) -> Json:
    return view.card(follower, context.shelf, follower.name in waiting)


def _waits_for(cards: list[Json], waiting: list[str], name: str) -> str:
    place = waiting.index(name)
    if place:
        return f"It is number {place + 1} in line. Drag it, or press Alt+↑, to move it up."
    for card in cards:
        if card["status"] == "paused":
            return f"It starts when '{card['title']}', which is paused, has gone on and ended."
        if card["status"] == "running":
            return f"It starts by itself when '{card['title']}' has ended."
    return "It starts in a moment."


def _together(chosen: Follower, every: list[Follower]) -> int:
    """How many runs its process trains by turns: pausing or stopping one does it to all."""
    own = jobs.process_id(chosen.run)
    if not chosen.sweep or own is None:
        return 1
    sharing = [f for f in every if f.sweep == chosen.sweep and jobs.process_id(f.run) == own]
    return max(1, sum(follower.status() in {"running", "paused"} for follower in sharing))


def _asked(context: Context, request: Any) -> Follower:
    name = request.get("run") if isinstance(request, dict) else None
    follower = context.followers.get(name)
    if follower is None:
        raise InputError("That run is gone. Choose another one.")
    return follower


def _working(context: Context, request: Any) -> Follower:
    follower = _asked(context, request)
    if follower.status() not in {"running", "paused"}:
        raise InputError("That run has ended already.")
    return follower


def _chosen(every: list[Follower], cards: list[Json], name: object) -> Follower | None:
    """The run asked for, else the one that is training, else the newest."""
    by_name = {follower.name: follower for follower in every}
    if isinstance(name, str) and name in by_name:
        return by_name[name]
    for card in cards:
        if card["status"] in {"running", "paused"}:
            return by_name[card["id"]]
    return every[0] if every else None
