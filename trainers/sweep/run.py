"""Several adapters trained in one process on one base: a sweep over settings.

The runs take turns: each does a step, then the next. One forward pass for all of them, with
grouped products, would hold the activations of as many batches at once as there are runs; taking
turns holds those of one, and what each run adds is its adapter and its optimizer. It is also exact:
a run's numbers are those that it would have alone, bit for bit. (LoRAFusion, arXiv:2510.00206,
batches the adapters of one language model, whose base is large beside its activations.)
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from lora_diffusion.errors import InputError
from lora_diffusion.files import write_text
from trainers.jobs import SWEEP_FILE, last_event
from trainers.layering import to_toml
from trainers.machine.team import size_here
from trainers.run import Outcome, Passage, passes
from trainers.stopping import StopSignal
from trainers.sweep.members import Member
from trainers.sweep.on_ray import train_on_ray
from trainers.sweep.outcome import SweepOutcome
from trainers.sweep.sharing import SweepShare, Together


def sweep(
    members: Sequence[Member],
    folder: Path,
    stop: StopSignal,
    *,
    on: str = "process",
    resuming: bool = False,
    fork: bool = False,
) -> SweepOutcome:
    """Train every member, and tell of it in the folder's `sweep.json`.

    A member that fails does not end the others.

    Args:
        folder: of the sweep; the members' folders are in it.
        stop: entered by the caller; a signal lets every member save and stop.
        on: where, a key of `_PLACES`.
        resuming: each goes on from its own newest checkpoint; those that have finished stay.
        fork: let resumed runs change settings that change what is learned.

    Raises:
        InputError: the members can't be trained there.
    """
    ended = SweepOutcome()
    for member in members:
        adapter = _finished(member) if resuming else None
        if adapter is not None:
            ended.outcomes[member.name] = Outcome(0, adapter)
    left = [member for member in members if member.name not in ended.outcomes]
    _check(left, on)
    for member in left:
        if not member.run_dir.spec_file.exists():  # so that a sweep cut short can be resumed
            member.run_dir.path.mkdir(parents=True, exist_ok=True)
            write_text(member.run_dir.spec_file, to_toml(member.spec))
    _write(folder, members, ended)
    if left:
        trained = _PLACES[on](left, stop, resuming, fork)
        ended.outcomes |= trained.outcomes
        ended.problems |= trained.problems
    _write(folder, members, ended)
    return ended


def take_turns(
    members: Sequence[Member], stop: StopSignal, resuming: bool, fork: bool
) -> SweepOutcome:
    """Train members step by step in turns, on one base in this process."""
    ended = SweepOutcome()
    together = Together([member.spec for member in members])
    passages: dict[str, Passage] = {
        m.name: passes(
            m.spec, m.run_dir, stop, SweepShare(m.name, together), resuming=resuming, fork=fork
        )
        for m in members
    }
    defect: Exception | None = None
    while passages:
        for name, passage in list(passages.items()):
            together.turn_to(name)
            try:
                next(passage)
                continue
            except StopIteration as end:
                ended.outcomes[name] = end.value
            except InputError as error:
                ended.problems[name] = str(error)
            except Exception as error:  # told in its events; the others go on first
                defect = error
            del passages[name]
            together.leave(name)
    if defect is not None:
        raise defect
    return ended


Place = Callable[[Sequence[Member], StopSignal, bool, bool], SweepOutcome]
_PLACES: Mapping[str, Place] = MappingProxyType({"process": take_turns, "ray": train_on_ray})


def _check(members: Sequence[Member], on: str) -> None:
    """Raise `InputError` unless one base does for all members that take turns."""
    if size_here() > 1:
        raise InputError(
            "A sweep is not split among processes: start it without accelerate launch and "
            "torchrun. On several GPUs use --sweep_on ray."
        )
    if on != "process" or len(members) < 2:
        return
    first = members[0].spec.model
    if first.compile:
        raise InputError(
            "model.compile can't be used in a sweep, where adapters take turns. Leave it out."
        )
    for member in members[1:]:
        own = member.spec.model
        for name in type(own).model_fields:
            if getattr(own, name) != getattr(first, name):
                raise InputError(
                    f"model.{name} differs between the runs of the sweep, which share one base. "
                    "Start a sweep for each, or train them on Ray (--sweep_on ray)."
                )


def _finished(member: Member) -> Path | None:
    """The adapter of a member that has finished before."""
    event = last_event(member.run_dir)
    adapter = member.run_dir.adapter_file(member.spec)
    return adapter if event and event.kind == "finished" and adapter.is_file() else None


def _write(folder: Path, members: Sequence[Member], ended: SweepOutcome) -> None:
    runs = []
    for member in members:
        adapter = ended.adapters.get(member.name)
        runs.append(
            {
                "name": member.name,
                "folder": member.run_dir.path.name,
                "settings": member.settings,
                "adapter": adapter.name if adapter else None,
                "problem": ended.problems.get(member.name),
            }
        )
    text = json.dumps({"runs": runs}, indent=2, ensure_ascii=False)
    write_text(folder / SWEEP_FILE, text + "\n")
