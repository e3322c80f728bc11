"""The Compose tab: one page element and what it may ask."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr

from lora_diffusion.errors import InputError, printable
from ui import words
from ui.answers import answered
from ui.compose.cards import Cards
from ui.compose.drawings import Drawings, Job
from ui.compose.offer import offer
from ui.compose.places import write_place
from ui.compose.request import Wanted, drawn_as, read_wanted
from ui.compose.sheets import sheet_functions
from ui.context import Context
from ui.drawing import Drawing, WeightedFile
from ui.element import element

_SHOWN_PX = 1024

Json = dict[str, Any]


def build(context: Context) -> gr.HTML:
    """The tab's only element; its questions are named endpoints too."""
    asked = server_functions(context)
    for function in asked:
        gr.api(function, api_name=function.__name__, concurrency_limit=4)
    return element("compose", "mountCompose", asked)


def server_functions(context: Context) -> list[Callable[[Any], Json]]:
    """What the page may ask. Each takes one JSON object and answers with one."""
    cards, drawings = Cards(context), Drawings(context.drawer)

    def compose_offer(request: Any) -> Json:
        """Bases, adapters, and the names of what has a weight."""
        wanted = request.get("base") if isinstance(request, dict) else ""
        return offer(context, cards, str(wanted or ""))

    def compose_draw(request: Any) -> Json:
        """Draw a mix; answers at once with the job that `compose_job` tells of."""
        drawing = _drawing(context, read_wanted(request, cards))
        return {"job": drawings.ask(drawing).id}

    def compose_job(request: Any) -> Json:
        """How a drawing goes, and the pictures once it is done."""
        job = drawings.get(request.get("job") if isinstance(request, dict) else None)
        if job.state == "failed":
            raise InputError(job.error)
        if job.state != "done":
            return {"state": job.state, "text": job.text, "share": job.share}
        return _shown(context, job)

    functions = (compose_offer, compose_draw, compose_job)
    return [answered(f) for f in (*functions, *sheet_functions(context, cards, drawings))]


def _drawing(context: Context, wanted: Wanted) -> Drawing:
    spec = next((c.adapter.spec for c in wanted.chosen if c.adapter.spec), None)
    return Drawing(
        base=wanted.base,
        adapters=tuple(
            WeightedFile(
                file=str(one.adapter.path),
                weights=str(one.weights),
                modified_ns=_modified(one.adapter.path, one.adapter.title),
                mask=str(write_place(context.drawer.scratch(), one.cells)) if one.cells else None,
                prompt=one.there or None,
                window=bool(one.cells),
            )
            for one in wanted.chosen
        ),
        prompt=wanted.prompt,
        negative=wanted.negative,
        seed=wanted.seed,
        sampling_steps=wanted.steps,
        cfg=wanted.cfg,
        size_px=wanted.height_px,
        width_px=wanted.width_px,
        **drawn_as(spec, wanted.base),
    )


def _modified(path: Any, title: str) -> int:
    try:
        modified: int = path.stat().st_mtime_ns
    except OSError:
        raise InputError(f"{printable(title, 60)}: is gone. Take it off the mix.") from None
    return modified


def _shown(context: Context, job: Job) -> Json:
    drawing, shelf = job.drawing, context.shelf
    assert job.before is not None and job.after is not None
    return {
        "state": "done",
        "before": shelf.picture(job.before, _SHOWN_PX),
        "after": shelf.picture(job.after, _SHOWN_PX),
        "prompt": printable(drawing.prompt, 300),
        "label": "The mix" if drawing.adapters else "Base alone",
        "parameters": (
            f"seed {drawing.seed} · {words.counted(drawing.sampling_steps, 'step')} · "
            f"{drawing.sampler} · guidance {drawing.cfg:g} · {words.place(drawing.base)}"
        ),
    }
