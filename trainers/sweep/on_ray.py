"""A sweep whose runs are tasks of a Ray cluster: on several GPUs, on several machines.

Each task starts the command of a single run in that run's folder, so the folder of the sweep lies
where every machine sees it under the same path, and the project is installed on each. Source:
Moritz et al., "Ray: A Distributed Framework for Emerging AI Applications" (arXiv:1712.05889).
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lora_diffusion.errors import InputError
from trainers.jobs import RunDir, last_event
from trainers.run import Outcome
from trainers.stopping import StopSignal
from trainers.sweep.members import Member
from trainers.sweep.outcome import SweepOutcome

_LOOK_SECONDS = 1.0


def train_on_ray(
    members: Sequence[Member], stop: StopSignal, resuming: bool, fork: bool
) -> SweepOutcome:
    """Train members as Ray tasks: a GPU each where the cluster has any, else a CPU core.

    `RAY_ADDRESS` names the cluster; without it one is started on this machine.

    Raises:
        InputError: Ray is not installed, or can't be started or reached.
    """
    ray = _ray()
    starts = not ray.is_initialized()
    if starts:
        try:
            ray.init(log_to_driver=False)
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            raise InputError(
                f"--sweep_on ray: the cluster can't be used ({_first_line(error)}). Check "
                "RAY_ADDRESS."
            ) from None
    try:
        return _wait(ray, _start(ray, members, resuming, fork), stop)
    finally:
        if starts:
            ray.shutdown()


def _start(ray: Any, members: Sequence[Member], resuming: bool, fork: bool) -> dict[Any, Member]:
    """A task for each member."""
    gpus = ray.cluster_resources().get("GPU", 0)
    options = [*(["--resume"] if resuming else []), *(["--fork"] if fork else [])]
    train = ray.remote(_train)
    return {
        train.options(
            num_cpus=1, num_gpus=1 if gpus and m.spec.model.device != "cpu" else 0, max_retries=0
        ).remote(str(m.run_dir.path.resolve()), str(Path.cwd()), options): m
        for m in members
    }


def _wait(ray: Any, tasks: dict[Any, Member], stop: StopSignal) -> SweepOutcome:
    """How the tasks ended; a signal is passed on to them."""
    ended = SweepOutcome()
    asked = False
    while tasks:
        if stop.requested is not None and not asked:
            asked = True
            for task in tasks:
                ray.cancel(task)  # as Ctrl-C in the task, which passes it on to the run
        done, _ = ray.wait(list(tasks), timeout=_LOOK_SECONDS)
        for task in done:
            member = tasks.pop(task)
            try:
                code = ray.get(task)
            except ray.exceptions.RayError as error:  # cancelled before it began, or lost
                if not asked:
                    told = f"Its task was lost ({_first_line(error)}). Resume the sweep."
                    ended.problems[member.name] = told
                    continue
                code = stop.exit_code
            _note(ended, member, code)
    return ended


def _note(ended: SweepOutcome, member: Member, code: int) -> None:
    """Tell how a run ended, from its exit code and its last event."""
    event = last_event(member.run_dir)
    adapter = member.run_dir.adapter_file(member.spec)
    if code == 0:
        ended.outcomes[member.name] = Outcome(0, adapter if adapter.is_file() else None)
    elif code in (130, 143):
        ended.outcomes[member.name] = Outcome(code)
    else:
        told = event.body.get("text") if event is not None and event.kind == "failed" else None
        log = member.run_dir.log_file
        ended.problems[member.name] = str(told or f"It ended with code {code}; see {log}.")


def _train(folder: str, started_in: str, options: Sequence[str]) -> int:
    """One run in a process of its own; a task's cancellation becomes its Ctrl-C."""
    command = [sys.executable, "-m", "trainers.dreambooth_lora", "--run", folder, *options]
    with RunDir(Path(folder)).log_file.open("ab") as log:
        process = subprocess.Popen(
            command, cwd=started_in, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
        )
        while True:
            try:
                return process.wait()
            except KeyboardInterrupt:
                process.terminate()


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        raise InputError(
            "--sweep_on ray needs Ray, which is not installed: pip install 'lora-diffusion[ray]'. "
            "Without it a sweep trains in one process (--sweep_on process)."
        ) from None
    return ray
