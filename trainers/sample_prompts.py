"""Sample prompts from a file, each with settings of its own. No torch.

A text file has a prompt a line, with the options that users of kohya-ss/sd-scripts know:

    a photo of {trigger} --n blurry, low quality --w 768 --h 512 --d 42 --s 28 --l 7.5

`--n` negative prompt, `--w` and `--h` width and height (px), `--d` seed, `--s` denoising steps,
`--l` guidance scale, `--ss` sampler. Empty lines and lines that begin with # are passed over. A
`.json` file is a list of objects, and a `.toml` file has a `prompt` table with `[[prompt.subset]]`
tables over it, as sd-scripts reads them.
"""

from __future__ import annotations

import difflib
import json
import math
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from lora_diffusion.errors import InputError, printable

MAX_PROMPTS = 64
_MAX_BYTES = 1_000_000
_OPTION = re.compile(r"(?:^|\s)--([A-Za-z]+)(?=\s|$)")
# As sd-scripts writes samplers, beside our own names.
_SAMPLERS = {
    **{name: name for name in ("ddim", "euler", "euler_a", "dpm++")},  # our own
    "k_euler": "euler",
    "k_euler_a": "euler_a",
    "dpmsolver++": "dpm++",
}


@dataclass(frozen=True)
class SamplePrompt:
    """One picture to draw. What is None is as the section `preview` has it.

    Attributes:
        negative: what not to draw.
        seed: of the starting noise.
        cfg: guidance scale.
        sampling_steps: denoising steps.
        width_px, height_px: multiples of 8.
        sampler: as `preview.sampler`.
    """

    prompt: str
    negative: str | None = None
    seed: int | None = None
    cfg: float | None = None
    sampling_steps: int | None = None
    width_px: int | None = None
    height_px: int | None = None
    sampler: str | None = None


def read_prompts(path: Path) -> tuple[SamplePrompt, ...]:
    """The prompts of a file; at least one.

    Raises:
        InputError: no such file, not text, or a line that can't be understood; names file and line.
    """
    text = _read(path)
    ending = path.suffix.lower()
    if ending in (".json", ".toml"):
        found = tuple(_of_tables(text, path, ending))
    else:
        lines = ((number, line.strip()) for number, line in enumerate(text.splitlines(), 1))
        found = tuple(
            _of_line(line, f"{printable(path)}, line {number}")
            for number, line in lines
            if line and not line.startswith("#")
        )
    if not found:
        raise InputError(f"{printable(path)}: has no prompts. Write one a line.")
    if len(found) > MAX_PROMPTS:
        raise InputError(
            f"{printable(path)}: has {len(found)} prompts, more than {MAX_PROMPTS}. Each is drawn "
            "again and again: keep those that tell most."
        )
    return found


def _read(path: Path) -> str:
    try:
        if path.is_file() and path.stat().st_size > _MAX_BYTES:
            raise InputError(
                f"{printable(path)}: is no file of prompts, it has over {_MAX_BYTES:,} bytes. "
                "Check preview.prompts_file."
            )
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(
            f"{printable(path)}: can't be read ({error.strerror}). Check preview.prompts_file."
        ) from None
    except UnicodeDecodeError:
        raise InputError(f"{printable(path)}: is not UTF-8 text. Save it as UTF-8.") from None


def _of_line(line: str, where: str) -> SamplePrompt:
    prompt, *rest = _OPTION.split(line)
    sample = SamplePrompt(prompt.strip())
    if not sample.prompt:
        raise InputError(f"{where}: has no prompt. Write one before the options.")
    for given, value in zip(rest[::2], rest[1::2], strict=True):
        option = given.lower()
        if option not in _OPTIONS:
            known = " ".join(f"--{name}" for name in _OPTIONS)
            raise InputError(f"{where}: there is no option --{printable(option)}. Known: {known}.")
        sample = _with(sample, _OPTIONS[option], value.strip(), f"{where}: --{option}")
    return sample


def _of_tables(text: str, path: Path, ending: str) -> Iterator[SamplePrompt]:
    try:
        whole = json.loads(text) if ending == ".json" else tomllib.loads(text)
    except (json.JSONDecodeError, tomllib.TOMLDecodeError) as error:
        kind = ending[1:].upper()
        raise InputError(f"{printable(path)}: is not valid {kind} ({error}). Mend that.") from None
    for number, table in enumerate(_tables(whole, path), 1):
        where = f"{printable(path)}, prompt {number}"
        prompt = table.get("prompt")
        if not isinstance(prompt, str) or not prompt.strip():
            raise InputError(f"{where}: has no 'prompt'. Give it one.")
        sample = SamplePrompt(prompt.strip())
        for key, value in table.items():
            if key == "prompt":
                continue
            if key not in _KEYS:
                near = difflib.get_close_matches(key, _KEYS, n=1)
                hint = f"Did you mean '{near[0]}'?" if near else f"Known: {', '.join(_KEYS)}."
                raise InputError(f"{where}: there is no '{printable(key)}'. {hint}")
            sample = _with(sample, _KEYS[key], value, f"{where}: {key}")
        yield sample


def _tables(whole: Any, path: Path) -> list[Mapping[str, Any]]:
    """The prompts of a JSON or TOML file, each with what is said for all of them filled in."""
    shared: Mapping[str, Any] = {}
    if isinstance(whole, dict) and isinstance(whole.get("prompt"), dict):
        shared = {name: value for name, value in whole["prompt"].items() if name != "subset"}
        whole = whole["prompt"].get("subset", [{}])
    if not isinstance(whole, list) or not all(isinstance(table, dict) for table in whole):
        raise InputError(
            f"{printable(path)}: is no list of prompts. Use a JSON list of objects, or "
            "[[prompt.subset]] tables in TOML, each with a 'prompt'."
        )
    return [{**shared, **table} for table in whole]


def _with(sample: SamplePrompt, field: str, value: object, where: str) -> SamplePrompt:
    """`sample` with one more setting; `value` as it stands in the file."""
    try:
        return replace(sample, **{field: _READERS[field](value)})
    except (ValueError, TypeError, OverflowError) as error:
        raise InputError(f"{where} = '{printable(value, 60)}': {error}.") from None


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("must be text")
    return value


def _whole(low: int, high: int, multiple: int = 1) -> Callable[[object], int]:
    steps = f", a multiple of {multiple}" if multiple > 1 else ""
    wanted = f"must be a whole number from {low:,} to {high:,}{steps}"

    def read(value: object) -> int:
        text = str(value)
        if not re.fullmatch(r"\d{1,20}", text) or isinstance(value, bool):
            raise ValueError(wanted)
        number = int(text)
        if not low <= number <= high or number % multiple:
            raise ValueError(wanted)
        return number

    return read


def _guidance(value: object) -> float:
    try:
        number = float(str(value))
    except ValueError:
        number = math.nan
    if not 0 <= number <= 50:
        raise ValueError("must be a number from 0 to 50")
    return number


def _sampler(value: object) -> str:
    if value not in _SAMPLERS:
        raise ValueError(f"is not known; use {', '.join(dict.fromkeys(_SAMPLERS.values()))}")
    return _SAMPLERS[str(value)]


_side = _whole(32, 4096, 8)
_READERS: Mapping[str, Callable[[object], Any]] = {
    "negative": _text,
    "seed": _whole(0, 2**63 - 1),
    "cfg": _guidance,
    "sampling_steps": _whole(1, 1000),
    "width_px": _side,
    "height_px": _side,
    "sampler": _sampler,
}
_OPTIONS = {
    "n": "negative",
    "w": "width_px",
    "h": "height_px",
    "d": "seed",
    "s": "sampling_steps",
    "l": "cfg",
    "ss": "sampler",
}
# sd-scripts' names of keys, and our own
_KEYS = {
    "negative_prompt": "negative",
    "width": "width_px",
    "height": "height_px",
    "sample_steps": "sampling_steps",
    "scale": "cfg",
    "sample_sampler": "sampler",
    **{field.name: field.name for field in fields(SamplePrompt) if field.name != "prompt"},
}
