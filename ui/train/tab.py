"""The Train tab: a form of the one schema, short or whole; beside it what the run will take."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import gradio as gr

from lora_diffusion.errors import InputError, printable
from lora_diffusion.files import write_text
from trainers import jobs
from trainers.importing import read_config
from trainers.layering import build_spec, to_toml
from trainers.spec import JobSpec
from ui import datasets, models, words
from ui.answers import answered
from ui.context import Context
from ui.element import element
from ui.runs.tab import DEMO_PRESET
from ui.train import estimates, form, simple_form, teaching

SHOWN_PICTURES = 16
_THUMBNAIL_PX = 160
_SETTINGS_ENDINGS = (".toml", ".json", ".safetensors")

Json = dict[str, Any]


def build(context: Context) -> gr.HTML:
    """The tab's only element."""
    return element("train", "mountTrain", server_functions(context))


def server_functions(context: Context) -> list[Callable[[Any], Json]]:
    """What the page may ask. Each takes one JSON object and answers with one."""
    functions = (*_filling(context), *_using(context), *_measuring(context))
    return [answered(function) for function in functions]


def _filling(context: Context) -> tuple[Callable[[Any], Json], ...]:
    def studio_form(_request: Any) -> Json:
        """Every field, what the choices are, and what the form begins with."""
        return {
            "simple": [asdict(field) for field in simple_form.FIELDS],
            "sections": form.section_titles(),
            "fields": [asdict(field) for field in form.fields()],
            "teaching": teaching.choices(),
            "folders": list(simple_form.DEMO_FOLDERS.items()),
            "bases": models.offered(context.models),
            "preset": DEMO_PRESET,
            "values": simple_form.begin(DEMO_PRESET),
        }

    def studio_load(request: Any) -> Json:
        """Settings of a `preset`, a `run`, an `upload` or the file at a `path`."""
        asked = request if isinstance(request, dict) else {}
        notes: tuple[str, ...] = ()
        if isinstance(asked.get("preset"), str):
            return {"values": simple_form.begin(asked["preset"]), "notes": []}
        if asked.get("run") is not None:
            follower = context.followers.get(asked["run"])
            if follower is None:
                raise InputError("That run is gone. Choose another one.")
            spec = follower.run.spec()
        elif asked.get("upload") is not None:
            spec, notes = _read_upload(context, asked["upload"])
        elif isinstance(asked.get("path"), str):
            path = Path(asked["path"].strip()).expanduser()
            _ending(path.name)
            spec, notes = _read(path)
        else:
            raise InputError("Say what to load: a preset, a run or a file.")
        return {"values": form.to_texts(spec), "notes": [printable(n, 300) for n in notes]}

    def studio_afresh(request: Any) -> Json:
        """`{values, name}`: the section of a kind that was chosen anew, at its defaults."""
        return {"values": simple_form.afresh(_texts(request), str(request.get("name", "")))}

    def studio_family(request: Any) -> Json:
        """`{family}` of presets that suits a `base`; "" where that can't be told."""
        base = request.get("base") if isinstance(request, dict) else None
        return {"family": teaching.family_of(base if isinstance(base, str) else "")}

    return studio_form, studio_load, studio_afresh, studio_family


def _using(context: Context) -> tuple[Callable[[Any], Json], ...]:
    def studio_check(request: Any) -> Json:
        """What is wrong by field, the pictures, what the run will take, whether it has to wait."""
        texts = _texts(request)
        wrong = simple_form.problems(texts)
        answer: Json = {
            "problems": wrong,
            "pictures": _pictures(context, texts.get("data.folder", "")),
            "waits": _has_to_wait(context),
            "memory": None,
            "duration": None,
        }
        if not wrong:
            spec = simple_form.to_spec(texts)
            answer["memory"] = estimates.memory(spec, context.hardware.total_bytes())
            answer["duration"] = estimates.duration(spec, context.followers.glance())
        return answer

    def studio_submit(request: Any) -> Json:
        """Put the run in line, or give a waiting run (`edit`) these settings."""
        texts = _texts(request)
        wrong = simple_form.problems(texts)
        if wrong:
            return {"problems": wrong}
        spec = simple_form.to_spec(texts)
        if request.get("edit"):
            return {"run": _edit(context, request["edit"], spec)}
        run = jobs.prepare(context.runs, spec.save.name or "run", spec)
        context.queue.add(run)
        context.scheduler.wake()
        return {"run": run.path.name}

    def studio_command(request: Any) -> Json:
        """The same run as a command line."""
        spec = simple_form.to_spec(_texts(request))
        preset = str(request.get("preset") or "")
        return {"text": simple_form.command(spec, preset, _runs_folder(context.runs))}

    def studio_toml(request: Any) -> Json:
        """The settings as a TOML file's text, and a name for it."""
        spec = simple_form.to_spec(_texts(request))
        name = re.sub(r"[^\w.-]+", "-", spec.save.name or "settings")
        return {"text": to_toml(spec), "name": f"{name}.toml"}

    return studio_check, studio_submit, studio_command, studio_toml


def _measuring(context: Context) -> tuple[Callable[[Any], Json], ...]:
    def studio_measure(request: Any) -> Json:
        """Do two steps with these settings and measure them; `studio_measured` tells."""
        spec = simple_form.to_spec(_texts(request))
        if any(f.status() in {"running", "paused"} for f in context.followers.glance()):
            raise InputError("A run is working: what is measured beside it would be wrong. Wait.")
        context.measuring.start(spec)
        return context.measuring.look().as_json()

    def studio_measured(_request: Any) -> Json:
        """`state`, `text`, and `seconds` of the whole run once it is known."""
        return context.measuring.look().as_json()

    def studio_measure_no_more(_request: Any) -> Json:
        """Cancel what is being measured."""
        context.measuring.cancel()
        return {}

    return studio_measure, studio_measured, studio_measure_no_more


def _texts(request: Any) -> Mapping[str, str]:
    values = request.get("values") if isinstance(request, dict) else None
    if not isinstance(values, dict) or not all(isinstance(v, str) for v in values.values()):
        raise InputError("The form did not arrive whole. Reload the page.")
    return values


def _edit(context: Context, name: object, spec: JobSpec) -> str:
    follower = context.followers.get(name)
    if follower is None or follower.status() != "prepared":
        raise InputError("That run has begun, so its settings stay. Start a new one instead.")
    write_text(follower.run.spec_file, to_toml(spec))
    return follower.name


def _read(path: Path) -> tuple[JobSpec, tuple[str, ...]]:
    """The settings in a file of any known dialect, and what could not be carried over."""
    imported = read_config(path)
    return build_spec([imported.layer]), imported.notes


def _read_upload(context: Context, picked: object) -> tuple[JobSpec, tuple[str, ...]]:
    """The same of an upload, which is dropped; it has no ending, so it gets its name's."""
    upload = context.uploads.find(picked)
    ended = upload.path.with_name(upload.path.name + _ending(upload.name))
    try:
        ended.symlink_to(upload.path)
        return _read(ended)
    except InputError as error:
        told = str(error).replace(str(ended), upload.name).replace(ended.name, upload.name)
        raise InputError(told) from None
    finally:
        ended.unlink(missing_ok=True)
        context.uploads.drop(str(picked))


def _ending(name: str) -> str:
    ending = Path(name).suffix.lower()
    if ending not in _SETTINGS_ENDINGS:
        raise InputError(
            f"{printable(name, 80)}: is not a settings file. Choose a .toml, a kohya .json, or an "
            "adapter's .safetensors."
        )
    return ending


def _has_to_wait(context: Context) -> bool:
    return bool(context.queue.names()) or any(
        follower.status() in {"running", "paused"} for follower in context.followers.glance()
    )


def _runs_folder(runs: Path) -> str:
    """The folder of runs as one types it beside app.py; in full where it lies elsewhere."""
    beside = Path(__file__).resolve().parents[2]
    return runs.relative_to(beside).as_posix() if runs.is_relative_to(beside) else str(runs)


def _pictures(context: Context, location: str) -> Json:
    """How many pictures, the first of them, and their captions."""
    try:
        found = datasets.look(location)
    except InputError as error:
        text = printable(error, 300) if location.strip() else (
            "Type the folder that holds your pictures: 10 to 40 suit a character, more a style."
        )  # fmt: skip
        return {"title": "Pictures", "text": text, "shown": [], "more": 0}
    shown = found.pictures[:SHOWN_PICTURES]
    count = words.counted(len(found.pictures), "picture")
    captions = (
        "all with captions"
        if found.captioned == len(found.pictures)
        else f"{found.captioned:,} with a caption"
    )
    return {
        "title": words.place(location),
        "text": f"{count}, {captions}",
        "shown": [
            {
                "url": context.shelf.picture(path, _THUMBNAIL_PX),
                "caption": found.caption(path) or "no caption file",
            }
            for path in shown
        ],
        "more": len(found.pictures) - len(shown),
    }
