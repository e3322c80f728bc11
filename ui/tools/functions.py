"""What the Tools and Settings tabs may ask: a file is named by the key that `tools_open` gives.

Each tool is a verb of the command in a process of its own; the page asks for its task. What a tool
writes lies in a scratch folder until it is downloaded or kept.
"""

from __future__ import annotations

import re
import secrets
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lora_diffusion.errors import InputError, printable
from lora_diffusion.files import replace_atomically
from lora_diffusion.formats.header import read_header
from lora_diffusion.formats.relabel import SHARED_KEYS
from ui import words
from ui.answers import Json, answered
from ui.context import Context
from ui.train.form import fields

FORMATS = ("kohya", "diffusers", "lycoris")
DTYPES = ("fp16", "bf16", "fp32")
_NAME = re.compile(r"[^\W_][\w .()+-]{0,79}")
_ODD = re.compile(r"[^\w .()+-]")
_MAX_ENTRIES = 500
# Settings of a computer rather than of a run.
_DEFAULTS = ("model.device", "model.precision", "model.attention", "save.dtype")


@dataclass(frozen=True)
class _File:
    """A file that was opened or made: where it lies and what it is called."""

    path: Path
    name: str


def functions(context: Context) -> list[Callable[[Any], Json]]:
    """Every function, with bad input answered as one sentence."""
    files: dict[str, _File] = {}
    made: dict[str, _File] = {}  # task -> what it writes

    def tools_open(request: Any) -> Json:
        """Look at an `upload` or the file at a `path`: its key, and the task that inspects it."""
        asked = _object(request)
        if asked.get("upload"):
            upload = context.uploads.find(asked["upload"])
            file = _File(upload.path, upload.name)
        else:
            typed = str(asked.get("path") or "").strip()
            if not typed:
                raise InputError("Drop a file, or type its path.")
            path = Path(typed).expanduser()
            file = _File(path, path.name)
        header = read_header(file.path)
        key = _kept(files, file)
        task = context.tasks.start("Inspecting", ["inspect", str(file.path), "--json"])
        return {
            "file": key,
            "name": printable(file.name, 120),
            "size": words.file_size(header.file_bytes),
            "task": task.id,
            "private": sorted(printable(k, 120) for k in header.metadata if k not in SHARED_KEYS),
        }

    def tools_verify(request: Any) -> Json:
        """A task: which programs read the `file`."""
        return _begin("Who reads it", ["verify", str(_file(request).path), "--json"])

    def tools_convert(request: Any) -> Json:
        """A task: the `file` in another dialect, `to` kohya, diffusers or lycoris."""
        to = _one_of(_object(request).get("to"), FORMATS, "Format")
        out = _out(request, to)
        verb = ["convert", str(_file(request).path), str(out.path), "--to", to, "--json"]
        return _begin(f"Writing it for {to}", verb, out)

    def tools_resize(request: Any) -> Json:
        """A task: the `file` with at most `rank` ranks, or the share `energy` of each layer."""
        out = _out(request, "resized")
        verb = ["resize", str(_file(request).path), "--out", str(out.path), *_limit(request)]
        return _begin("Resizing", [*verb, *_dtype(request), "--json"], out)

    def tools_extract(request: Any) -> Json:
        """A task: the difference of the checkpoints `tuned` and `base`, by path, as a LoRA."""
        asked = _object(request)
        tuned, base = (str(asked.get(key) or "").strip() for key in ("tuned", "base"))
        if not tuned or not base:
            raise InputError("Give the paths of the tuned model and of its base.")
        out = _File(_folder(context) / "extracted.safetensors", "extracted.safetensors")
        verb = ["extract", "--out", str(out.path), *_limit(request), *_dtype(request), "--json"]
        return _begin("Extracting", [*verb, "--", tuned, base], out)

    def tools_relabel(request: Any) -> Json:
        """A task: the `file` with entries `set` ({key: text}) and `remove` ([key]) changed."""
        asked = _object(request)
        values, removed = asked.get("set") or {}, asked.get("remove") or []
        if not isinstance(values, dict) or not isinstance(removed, list):
            raise InputError("The question was not understood. Reload the page.")
        if not values and not removed:
            raise InputError("Change an entry first.")
        if len(values) + len(removed) > _MAX_ENTRIES:
            raise InputError(f"Change at most {_MAX_ENTRIES} entries at a time.")
        out = _out(request, "edited")
        verb = ["relabel", str(_file(request).path), "--out", str(out.path), "--json"]
        verb += [f"--set={key}={value}" for key, value in values.items()]
        verb += [f"--remove={key}" for key in removed]
        return _begin("Writing the metadata", verb, out)

    def tools_clean(request: Any) -> Json:
        """A task: the `file` without what tells of you: captions, folders, times, the machine."""
        out = _out(request, "clean")
        verb = ["relabel", str(_file(request).path), "--out", str(out.path), "--clean", "--json"]
        return _begin("Cleaning", verb, out)

    def tools_task(request: Any) -> Json:
        """How a `task` goes; once done, the `made` file's key, name, size and address."""
        task = context.tasks.get(_object(request).get("task"))
        told = task.as_json()
        out = made.get(task.id)
        if task.state == "done" and out is not None and out.path.is_file():
            told["made"] = {
                "file": _kept(files, out), "name": printable(out.name, 120),
                "size": words.file_size(out.path.stat().st_size),
                "url": context.shelf.adapter(out.path),
            }  # fmt: skip
        return told

    def tools_cancel(request: Any) -> Json:
        """Stop a `task`."""
        context.tasks.cancel(_object(request).get("task"))
        return {}

    def tools_keep(request: Any) -> Json:
        """Put a `file` into the library under `name`, over nothing."""
        file = _file(request)
        name = str(_object(request).get("name") or Path(file.name).stem).strip()
        if not _NAME.fullmatch(name):
            raise InputError("Name: letters, digits, spaces and . ( ) + - only, at most 80.")
        context.adapters.mkdir(parents=True, exist_ok=True)
        target = context.adapters / f"{name}.safetensors"
        if target.exists():
            raise InputError(f"The library has a '{printable(name)}' already. Choose another name.")
        replace_atomically(target, lambda beside: _copy(file.path, beside))
        return {"name": name}

    def settings_show(_request: Any) -> Json:
        """The folders, a task that looks at the machine, and what new runs may begin with."""
        folders = (
            ("Runs", context.runs, "--runs"),
            ("Datasets", context.datasets, "beside the runs"),
            ("Library", context.adapters, "--adapters"),
            ("Base models", context.models, "--models"),
        )
        return {
            "folders": [
                {
                    "label": label,
                    "path": printable(path, 4_096) if path else "none given",
                    "set_by": how,
                    "free": f"{shutil.disk_usage(path).free / 1e9:,.0f} GB"
                    if path and path.is_dir()
                    else "",
                }
                for label, path, how in folders
            ],
            "defaults": [asdict(field) for field in fields() if field.name in _DEFAULTS],
            "task": context.tasks.start("Machine", ["doctor", "--system", "--json"]).id,
        }

    def _begin(title: str, verb: list[str], out: _File | None = None) -> Json:
        task = context.tasks.start(title, verb)
        if out is not None:
            made[task.id] = out
        return {"task": task.id}

    def _file(request: Any) -> _File:
        key = _object(request).get("file")
        found = files.get(key) if isinstance(key, str) else None
        if found is None or not found.path.exists():
            raise InputError("That file is gone. Open it again.")
        return found

    def _out(request: Any, what: str) -> _File:
        stem = printable(Path(_file(request).name).stem, 60).strip(" .-") or "adapter"
        name = f"{_ODD.sub('_', stem)}-{what}.safetensors"
        return _File(_folder(context) / name, name)

    every = (
        tools_open, tools_verify, tools_convert, tools_resize, tools_extract, tools_relabel,
        tools_clean, tools_task, tools_cancel, tools_keep, settings_show,
    )  # fmt: skip
    return [answered(function) for function in every]


def _limit(request: Any) -> list[str]:
    """`--rank` or `--energy` of a request; what they may be the verb says itself."""
    asked = _object(request)
    if asked.get("energy"):
        return [f"--energy={_number(asked['energy'], 'Share to keep')}"]
    return [f"--rank={_number(asked.get('rank'), 'Rank')}"]


def _dtype(request: Any) -> list[str]:
    return ["--dtype", _one_of(_object(request).get("dtype") or "fp16", DTYPES, "Numbers")]


def _number(value: Any, label: str) -> str:
    text = str(value if value is not None else "").strip()
    if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,6})?", text):
        raise InputError(f"{label}: type a number.")
    return text


def _one_of(value: Any, known: tuple[str, ...], label: str) -> str:
    if value not in known:
        raise InputError(f"{label}: choose one of {', '.join(known)}.")
    return str(value)


def _kept(files: dict[str, _File], file: _File) -> str:
    key = secrets.token_urlsafe(12)
    files[key] = file
    return key


def _folder(context: Context) -> Path:
    """An empty scratch folder; it goes when the studio closes."""
    folder = context.drawer.scratch() / f"tool-{secrets.token_hex(6)}"
    folder.mkdir()
    return folder


def _copy(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)


def _object(request: Any) -> dict[str, Any]:
    return request if isinstance(request, dict) else {}
