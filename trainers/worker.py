"""A warm process that draws for the studio: `python -m trainers.worker`.

It reads one JSON object a line from standard input and answers on standard output:

| it reads | fields |
| --- | --- |
| `draw` | `base`, `adapters`: `[{file, weights, mask, prompt, window}]` (`mask`: a PNG, white |
| | where it acts; `prompt`: what is drawn there; `window`: whether as a picture of its own), |
| | `prompt`, `negative`, `seed`, `sampler`, |
| | `sampling_steps`, `cfg`, `size_px` (null: the base's own), `width_px` (null: as high), |
| | `out`: the PNG to write; how the base is read, as in a run's settings: `tokenizer`, |
| | `prediction`, `zero_snr`, `clip_skip` |

| it writes | fields |
| --- | --- |
| `progress` | `text`, `share` in 0..1 |
| `done` | `files` |
| `error` | `text`: one sentence |

The base and its adapters stay loaded between requests. It ends when its input closes.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections import OrderedDict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal, TextIO

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lora_diffusion import load_base
from lora_diffusion.composition.live import Composition, compose
from lora_diffusion.composition.regions import Region, read_mask
from lora_diffusion.errors import InputError, printable
from lora_diffusion.families import DiffusionBase
from lora_diffusion.files import replace_atomically
from lora_diffusion.generate import PictureSpec
from trainers.machine.devices import choose
from trainers.spec import ModelSpec

MAX_ATTACHED = 8

Reply = Callable[[dict[str, Any]], None]


class Weighted(BaseModel):
    """An adapter file, its weights as `Weights.parse` takes them, and where it acts."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    file: str
    weights: str = Field("1", max_length=2_000)
    mask: Path | None = None
    prompt: str | None = Field(None, max_length=10_000)
    window: bool = False

    @property
    def place(self) -> str | None:
        """A name for where it acts; adapters with equal masks, prompts and windows share one."""
        if self.mask is None:
            return None
        return json.dumps([str(self.mask), self.prompt, self.window])


class DrawRequest(BaseModel):
    """One picture to draw; see the module's table."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    base: str
    adapters: tuple[Weighted, ...] = ()
    prompt: str = Field(max_length=10_000)
    negative: str = Field("", max_length=10_000)
    seed: int = Field(0, ge=0, lt=2**63)
    sampler: str = "ddim"
    sampling_steps: int = Field(25, ge=1, le=1000)
    cfg: float = Field(7.0, ge=0, le=50, allow_inf_nan=False)
    size_px: int | None = Field(None, ge=32, le=4096, multiple_of=8)
    width_px: int | None = Field(None, ge=32, le=4096, multiple_of=8)
    out: Path
    tokenizer: str | None = None
    prediction: Literal["auto", "epsilon", "v_prediction"] = "auto"
    zero_snr: bool | None = None
    clip_skip: int = Field(1, ge=1, le=4)

    def model(self) -> ModelSpec:
        """The base and how it is read."""
        return ModelSpec(
            base=self.base,
            tokenizer=self.tokenizer,
            prediction=self.prediction,
            zero_snr=self.zero_snr,
            clip_skip=self.clip_skip,
        )


class Studio:
    """What stays in memory: one base, and the adapters last used on it."""

    def __init__(self) -> None:
        self._base: DiffusionBase | None = None
        self._model = ModelSpec()
        self._composition: Composition | None = None
        self._names: OrderedDict[tuple[str, int], str] = OrderedDict()

    def draw(self, request: DrawRequest, reply: Reply) -> list[str]:
        """Draw and write one picture.

        Raises:
            InputError: a base, an adapter or a setting that can't be used.
        """
        base, composition = self._open(request.model(), reply)
        self._weigh(composition, request.adapters)
        side_px = request.size_px or base.native_size_px
        picture = PictureSpec(
            prompt=request.prompt,
            negative=request.negative,
            seed=request.seed,
            sampling_steps=request.sampling_steps,
            cfg=request.cfg,
            width_px=request.width_px or side_px,
            height_px=side_px,
            sampler=request.sampler,
        )

        def on_step(done: int, total: int) -> None:
            reply({"event": "progress", "text": "Drawing", "share": done / max(1, total)})

        image = composition.draw([picture], on_step=on_step)[0]
        replace_atomically(request.out, lambda path: image.save(path, "PNG"))
        return [str(request.out)]

    def _open(self, model: ModelSpec, reply: Reply) -> tuple[DiffusionBase, Composition]:
        if self._base is not None and self._composition is not None and self._model == model:
            return self._base, self._composition
        reply({"event": "progress", "text": "Opening the base model", "share": 0.0})
        self._names.clear()
        self._base = self._composition = None  # freed before the next one is read
        placement = choose(model)
        self._base = load_base(
            model.base,
            device=placement.device,
            dtype=placement.dtype,
            tokenizer=model.tokenizer,
            prediction=model.prediction,
            zero_snr=model.zero_snr,
            clip_skip=model.clip_skip,
        )
        self._model, self._composition = model, compose(self._base)
        return self._base, self._composition

    def _weigh(self, composition: Composition, wanted: Iterable[Weighted]) -> None:
        """Put on what is new, weigh and place it, and let the rest rest."""
        for name in composition.names:
            composition.set_region(name, None)
            composition.set_weights(name, 0.0)
        for adapter in wanted:
            name = self._name_of(composition, Path(adapter.file))
            composition.set_weights(name, adapter.weights)
            if adapter.mask is not None and adapter.place is not None:
                mask = read_mask(adapter.mask)
                region = Region(adapter.place, mask, adapter.prompt, adapter.window)
                composition.set_region(name, region)
        while len(self._names) > MAX_ATTACHED:
            _, oldest = self._names.popitem(last=False)
            composition.remove(oldest)

    def _name_of(self, composition: Composition, file: Path) -> str:
        """What the composition calls an adapter; one that is not on it is put on at 0."""
        try:
            key = (str(file), file.stat().st_mtime_ns)
        except OSError:
            raise InputError(f"{printable(file.name)}: is gone. Choose another adapter.") from None
        if key not in self._names:
            self._names[key] = composition.add(file, 0.0)
        self._names.move_to_end(key)
        return self._names[key]


def serve(requests: TextIO, replies: TextIO) -> None:
    """Answer requests until the input closes."""

    def reply(body: dict[str, Any]) -> None:
        replies.write(json.dumps(body) + "\n")
        replies.flush()

    studio = Studio()
    for line in requests:
        if line.strip():
            reply(_answer(studio, line, reply))


def _answer(studio: Studio, line: str, reply: Reply) -> dict[str, Any]:
    try:
        request = DrawRequest.model_validate(json.loads(line))
        return {"event": "done", "files": studio.draw(request, reply)}
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in problem["loc"])
        text = f"{printable(where)}: {printable(problem['msg'])}."
    except json.JSONDecodeError as error:
        text = f"The request is not JSON: {printable(error)}."
    except InputError as error:
        text = str(error)
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        text = "There is not enough memory for this picture. Draw a smaller one."
    except Exception as error:  # the studio shows one sentence, the trace goes to the log
        traceback.print_exc()
        text = f"Drawing failed by our own defect ({type(error).__name__}: {printable(error)})."
    return {"event": "error", "text": text}


def main() -> int:
    """Keep standard output for replies only; whatever libraries print goes to standard error."""
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    serve(sys.stdin, replies)
    return 0


if __name__ == "__main__":
    sys.exit(main())
