"""The sheets of the Compose tab: fold and export, interference, the XY grid, the demo adapters.

Each is a verb of the command in a process of its own (`ui.tasks`); a page asks for its task.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_diffusion import bundled
from lora_diffusion.errors import InputError, printable
from lora_diffusion.files import replace_atomically
from trainers.library import sidecars
from ui import words
from ui.compose.cards import Cards
from ui.compose.drawings import Drawings
from ui.compose.request import Chosen, read_chosen, read_wanted
from ui.context import Context
from ui.tasks import Task

METHODS = ("exact", "svd", "ties", "dare", "prune", "orthogonal")
FORMATS = ("kohya", "diffusers", "lycoris")
AXES = ("seed", "prompt", "steps", "cfg")
DEMO_ADAPTERS = "bundled:demo_adapters"
_GRID_PX = 2048
_NAME = re.compile(r"[^\W_][\w .()+-]{0,79}")
_WORST_LAYERS = 12
_MAX_VALUES = 12

Json = dict[str, Any]


@dataclass(frozen=True)
class _Made:
    """What a task writes: the file, and which sheet asked."""

    kind: str
    out: Path


def sheet_functions(
    context: Context, cards: Cards, drawings: Drawings
) -> tuple[Callable[[Any], Json], ...]:
    """What the sheets may ask."""
    made: dict[str, _Made] = {}

    def start(kind: str, title: str, out: Path, verb: list[str]) -> Json:
        task = context.tasks.start(title, verb)
        made[task.id] = _Made(kind, out)
        return {"task": task.id}

    def compose_fold(request: Any) -> Json:
        """One file out of the mix."""
        asked = _object(request)
        chosen = read_chosen(asked.get("chosen"), cards)
        if not chosen:
            raise InputError("Choose the adapters to fold first.")
        name = _file_name(asked.get("name"))
        method = _one_of(asked.get("method"), METHODS, "Method")
        out = _fresh(context) / f"{name}.safetensors"
        verb = ["merge", *map(_weighted, chosen), "--out", str(out), "--method", method]
        if method != "exact":
            verb += ["--rank", str(_whole(asked.get("rank"), "Rank", 1, 1024))]
        base = str(asked.get("base") or "")
        verb += [*(["--base", base] if base else []), "--json"]
        return start("fold", f"Folding into {name}", out, verb)

    def compose_convert(request: Any) -> Json:
        """The folded file in another dialect."""
        out = _made_by(made, request, "fold").out
        format = _one_of(_object(request).get("format"), FORMATS, "Format")
        written = _fresh(context) / out.name
        verb = ["convert", str(out), str(written), "--to", format, "--json"]
        return start("fold", f"Writing it for {format}", written, verb)

    def compose_verify(request: Any) -> Json:
        """Which programs read the folded file."""
        out = _made_by(made, request, "fold").out
        base = str(_object(request).get("base") or "")
        verb = ["verify", str(out), *(["--base", base] if base else []), "--json"]
        return start("verify", "Who reads it", out, verb)

    def compose_keep(request: Any) -> Json:
        """Put the folded file into the library, with the picture last drawn beside it."""
        out = _made_by(made, request, "fold").out
        context.adapters.mkdir(parents=True, exist_ok=True)
        kept = _free(context.adapters / out.name)
        replace_atomically(kept, lambda beside: _copy(out, beside))
        job = _object(request).get("job")
        if job:
            picture = drawings.get(job).after
            if picture is not None:
                sidecars.write_preview(kept, picture)
        return {"name": kept.name}

    def compose_interference(request: Any) -> Json:
        """Where the adapters of the mix work against each other."""
        chosen = read_chosen(_object(request).get("chosen"), cards)
        if len(chosen) < 2:
            raise InputError("Choose two adapters or more to compare.")
        out = _fresh(context)
        verb = ["analyse", *map(_weighted, chosen), "--json"]
        return start("interference", "Comparing layer by layer", out, verb)

    def compose_grid(request: Any) -> Json:
        """A sheet of pictures over two of weight, seed, prompt, steps and guidance."""
        asked = _object(request)
        wanted = read_wanted(asked, cards)
        out = _fresh(context) / "grid.png"
        verb = ["grid", "--base", wanted.base, "--prompt", wanted.prompt]
        verb += ["--negative", wanted.negative] if wanted.negative else []
        verb += ["--seed", str(wanted.seed), "--steps", str(wanted.steps)]
        verb += ["--cfg", f"{wanted.cfg:g}", "--size", f"{wanted.width_px}x{wanted.height_px}"]
        for one in wanted.chosen:
            verb += ["--adapter", _weighted(one)]
        for flag in ("x", "y"):
            verb += [f"--{flag}", *_axis(asked, flag, wanted.chosen)]
        return start("grid", "Drawing the grid", out, [*verb, "--out", str(out)])

    def compose_task(request: Any) -> Json:
        """How a sheet's task goes, and what it made."""
        task = context.tasks.get(_object(request).get("task"))
        found = made.get(task.id)
        told = task.as_json()
        if task.state == "done" and found is not None:
            told |= _result(context, found, task)
        return told

    def compose_cancel(request: Any) -> Json:
        """Stop a sheet's task."""
        context.tasks.cancel(_object(request).get("task"))
        return {}

    def compose_demo(_request: Any) -> Json:
        """Put the demo's character and style into the library."""
        context.adapters.mkdir(parents=True, exist_ok=True)
        for file in sorted(bundled.resolve(DEMO_ADAPTERS).glob("*.safetensors")):
            kept = context.adapters / file.name
            if not kept.exists():
                shutil.copyfile(file, kept)
            picture = file.with_suffix(".preview.png")
            if picture.is_file() and not (context.adapters / picture.name).exists():
                shutil.copyfile(picture, context.adapters / picture.name)
        return {}

    return (
        compose_fold, compose_convert, compose_verify, compose_keep, compose_interference,
        compose_grid, compose_task, compose_cancel, compose_demo,
    )  # fmt: skip


def _axis(asked: Json, flag: str, chosen: Sequence[Chosen]) -> list[str]:
    """What varies along an axis and its values, as the verb takes them."""
    label = f"{flag.upper()} axis"
    kind = str(asked.get(f"{flag}_kind") or "")
    weights = {f"weight/{one.adapter.id}": one for one in chosen}
    if kind in weights:
        verb = f"weight.{weights[kind].adapter.path.name.removesuffix('.safetensors')}"
    else:
        verb = _one_of(kind, AXES, label)
    sign = "|" if kind == "prompt" else ","
    typed = str(asked.get(f"{flag}_values") or "")[:4000]
    values = [value.strip() for value in typed.split(sign) if value.strip()]
    if not 0 < len(values) <= _MAX_VALUES or any(value.startswith("--") for value in values):
        raise InputError(f"{label}: type up to {_MAX_VALUES} values, separated by '{sign}'.")
    return [verb, *values]


def _result(context: Context, found: _Made, task: Task) -> Json:
    if found.kind == "fold":
        told = task.result.get("layers")  # a number where it was only written anew
        layers = [one for one in told if isinstance(one, dict)] if isinstance(told, list) else []
        worst = sorted(layers, key=lambda one: -float(one.get("error") or 0))[:_WORST_LAYERS]
        return {
            "result": {
                "max_error": task.result.get("max_error"),
                "layers": len(layers),
                "worst": [
                    {"key": printable(str(one.get("key")), 120), "error": one.get("error")}
                    for one in worst
                ],
                "url": context.shelf.adapter(found.out),
                "name": found.out.name,
                "size": words.file_size(found.out.stat().st_size),
            }
        }
    if found.kind == "verify":
        return {"result": {"consumers": task.result.get("consumers", {})}}
    if found.kind == "grid":
        return {"result": {"picture": context.shelf.picture(found.out, _GRID_PX)}}
    return {"result": {"pairs": [_pair(one) for one in task.result.get("pairs", [])]}}


def _pair(one: Json) -> Json:
    """How two adapters meet, without the layers."""
    kept = {name: one.get(name) for name in ("overlap", "chance", "blocks")}
    names = {name: printable(str(one.get(name)), 60) for name in ("first", "second")}
    return {**kept, **names, "advice": [printable(text, 300) for text in one.get("advice", [])]}


def _made_by(made: dict[str, _Made], request: Any, kind: str) -> _Made:
    name = _object(request).get("task")
    found = made.get(name) if isinstance(name, str) else None
    if found is None or found.kind != kind or not found.out.is_file():
        raise InputError("That file is gone. Fold it again.")
    return found


def _weighted(one: Chosen) -> str:
    return f"{one.adapter.path}:{one.weights}"


def _copy(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)


def _fresh(context: Context) -> Path:
    """An empty folder among the studio's scratch files."""
    scratch = context.drawer.scratch()
    number = 1
    while True:
        folder = scratch / f"sheet-{number}"
        try:
            folder.mkdir()
        except FileExistsError:
            number += 1
            continue
        return folder


def _free(path: Path) -> Path:
    """`path`, or the same with a number where there is a file of that name."""
    number, found = 2, path
    while found.exists():
        found = path.with_stem(f"{path.stem}-{number}")
        number += 1
    return found


def _object(request: Any) -> Json:
    return request if isinstance(request, dict) else {}


def _file_name(typed: object) -> str:
    name = str(typed or "").strip().removesuffix(".safetensors").strip()
    if not _NAME.fullmatch(name):
        raise InputError("Name: letters, digits, spaces and . _ - + ( ), up to 80, no folder.")
    return name


def _one_of(typed: object, known: tuple[str, ...], label: str) -> str:
    if typed not in known:
        raise InputError(f"{label}: choose one of {', '.join(known)}.")
    return str(typed)


def _whole(typed: object, label: str, low: int, high: int) -> int:
    text = str(typed if typed is not None else "").strip()
    if not re.fullmatch(r"[0-9]{1,6}", text) or not low <= int(text) <= high:
        raise InputError(f"{label}: type a whole number from {low} to {high}.")
    return int(text)
