"""What would make a run fit, the cheapest first. No torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lora_diffusion.families.outline import Outline
from trainers.planner.estimate import estimate, size
from trainers.spec import JobSpec

_WORTH_NAMING = 0.01  # of the peak


@dataclass(frozen=True)
class Saving:
    """One change of settings.

    Attributes:
        settings: `section.field` -> value.
        cost: what it costs, for people.
        peak: bytes at the run's peak with it and with all savings before it.
        saved: by how much it lowers the peak, bytes.
    """

    settings: dict[str, object]
    cost: str
    peak: int
    saved: int

    def line(self) -> str:
        flags = " ".join(f"--{name} {_told(value)}" for name, value in self.settings.items())
        return f"{flags}: saves {size(self.saved)}, down to {size(self.peak)} ({self.cost})"


def savings(spec: JobSpec, *, gpu: bool, outline: Outline) -> list[Saving]:
    """Changes that lower the peak, each on top of those before it, the cheapest first.

    One that lowers nothing by itself waits for the next: what checkpointing saves, previews may
    hide. It is named with it only if the two lower more than the next alone.
    """

    def peak_of(changed: JobSpec) -> int:
        return estimate(changed, gpu=gpu, outline=outline).peak

    found: list[Saving] = []
    peak = peak_of(spec)
    waiting: list[_Step] = []
    for step in _LADDER:
        settings = step.change(spec, gpu)
        if not settings:
            continue
        waiting.append(step)
        lower = peak_of(_all(spec, waiting, gpu))
        if peak - lower <= _WORTH_NAMING * peak:
            continue
        if peak_of(with_settings(spec, settings)) == lower:
            waiting = [step]
        named = {k: v for each in waiting for k, v in each.change(spec, gpu).items()}
        cost = "; ".join(each.cost for each in waiting)
        found.append(Saving(named, cost, lower, peak - lower))
        spec, peak, waiting = with_settings(spec, named), lower, []
    return found


def with_settings(spec: JobSpec, settings: dict[str, object]) -> JobSpec:
    """`spec` with some settings changed, by `section.field`."""
    tree = spec.model_dump()
    for name, value in settings.items():
        section, field = name.split(".")
        tree[section][field] = value
    return JobSpec.model_validate(tree)


def _low_memory(spec: JobSpec, gpu: bool) -> dict[str, object]:
    return {} if spec.model.low_memory else {"model.low_memory": True}


def _checkpointing(spec: JobSpec, gpu: bool) -> dict[str, object]:
    return {} if spec.model.gradient_checkpointing else {"model.gradient_checkpointing": True}


def _half(spec: JobSpec, gpu: bool) -> dict[str, object]:
    return {"model.precision": "bf16"} if spec.model.precision == "fp32" else {}


def _fp8(spec: JobSpec, gpu: bool) -> dict[str, object]:
    worth = spec.model.gradient_checkpointing and not spec.model.fp8_base
    halves = spec.model.precision in (("auto", "bf16", "fp16") if gpu else ("bf16", "fp16"))
    return {"model.fp8_base": True} if worth and halves else {}


def _eight_bit(spec: JobSpec, gpu: bool) -> dict[str, object]:
    return {"optim.kind": "adamw8bit"} if spec.optim.kind == "adamw" else {}


def _split_batch(spec: JobSpec, gpu: bool) -> dict[str, object]:
    schedule = spec.schedule
    if schedule.batch_size == 1:
        return {}
    return {
        "schedule.batch_size": 1,
        "schedule.accumulate": schedule.accumulate * schedule.batch_size,
    }


def _no_text(spec: JobSpec, gpu: bool) -> dict[str, object]:
    return {} if spec.adapter.text_targets == "none" else {"adapter.text_targets": "none"}


def _smaller(spec: JobSpec, gpu: bool) -> dict[str, object]:
    side = spec.data.resolution_px
    return {"data.resolution_px": side // 4 * 3 // 64 * 64} if side and side >= 512 else {}


def _told(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


@dataclass(frozen=True)
class _Step:
    change: Callable[[JobSpec, bool], dict[str, object]]
    cost: str


_LADDER = (
    _Step(_low_memory, "previews are drawn one at a time"),
    _Step(_checkpointing, "steps take about a third longer"),
    _Step(_half, "weights are rounded to half precision"),
    _Step(_eight_bit, "needs bitsandbytes"),
    _Step(_fp8, "the base is slightly off"),
    _Step(_split_batch, "the same effective batch in more passes"),
    _Step(_no_text, "the text encoder learns nothing"),
    _Step(_smaller, "less detail is seen"),
)


def _all(spec: JobSpec, steps: list[_Step], gpu: bool) -> JobSpec:
    for step in steps:
        spec = with_settings(spec, step.change(spec, gpu))
    return spec
