"""A training run as a visible straight line: prepare, train, finish."""

from __future__ import annotations

import sys
import time
from collections.abc import Generator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from lora_diffusion import bundled
from lora_diffusion.errors import InputError
from lora_diffusion.files import make_folder, sweep_rests, write_text
from trainers import checkpoint, control, jobs, preflight, resume, setup
from trainers.batch import Batches
from trainers.data import buckets, prepare
from trainers.events import EventLog, NoEvents
from trainers.export import Exporter, base_weights_hash
from trainers.jobs import RunDir
from trainers.layering import to_toml
from trainers.loop import Trainer
from trainers.machine import devices
from trainers.machine.disk import faults_told
from trainers.machine.memory import Ladder, shortage_told
from trainers.machine.team import Left, Team, joined
from trainers.optim import make_optimizer
from trainers.outputs import Outputs
from trainers.preview import Previewer, preview_prompts
from trainers.progress import duration
from trainers.resume import Start
from trainers.sharing import Share
from trainers.spec import JobSpec
from trainers.stopping import StopRequested, StopSignal
from trainers.teller import Teller
from trainers.tracking import OPENERS
from trainers.tracking.mirror import Mirrors
from trainers.validation.choice import hold_out
from trainers.validation.history import History
from trainers.validation.validator import Validator
from trainers.validation.watched import watch


@dataclass(frozen=True)
class Outcome:
    """How a run ended: the adapter's path where it finished, and the process's exit code."""

    exit_code: int
    adapter: Path | None = None


Passage = Generator[None, None, Outcome]  # a run that pauses, see `passes`


def run(
    spec: JobSpec,
    run_dir: RunDir,
    stop: StopSignal,
    *,
    resuming: bool = False,
    fork: bool = False,
) -> Outcome:
    """Train as `spec` says, in the folder `run_dir`.

    Args:
        stop: entered by the caller, so that a signal is noticed from the first moment.
        resuming: go on from the newest checkpoint, if there is one.
        fork: let the resumed run change settings that change what is learned.

    Raises:
        InputError: a setting or a file is wrong; also written as the run's last event.
    """
    try:
        with joined(stop) as team:
            passage = passes(spec, run_dir, stop, Share(team), resuming=resuming, fork=fork)
            while True:
                try:
                    next(passage)
                except StopIteration as end:
                    outcome: Outcome = end.value
                    return outcome
    except Left as left:
        return Outcome(left.code)


def passes(
    spec: JobSpec, run_dir: RunDir, stop: StopSignal, share: Share, *, resuming: bool, fork: bool
) -> Passage:
    """`run`, with a pause wherever another run of the same process may go on.

    It pauses when its pictures are encoded, when its captions are, and after each step.

    Args:
        share: what it has of the process.
    """
    team = share.team
    with faults_told(run_dir.path), ExitStack() as held:
        with team.told(), faults_told(run_dir.path):
            start = team.share(lambda: _begin(spec, run_dir, held, resuming=resuming, fork=fork))
            events = EventLog(run_dir.events_file) if team.is_main else NoEvents()
        return (yield from _run_told(spec, run_dir, start, events, stop, share))


def _begin(spec: JobSpec, run_dir: RunDir, held: ExitStack, *, resuming: bool, fork: bool) -> Start:
    """Take hold of the run folder, and find where the run begins.

    A folder that the studio has prepared is told of what is wrong by an event, another one not at
    all: nothing is written there.
    """
    if not run_dir.spec_file.exists():
        preflight.check(spec, run_dir)
    make_folder(run_dir.path)
    try:
        held.enter_context(FileLock(run_dir.lock_file, timeout=0))
    except Timeout:
        raise InputError(
            f"{run_dir.path}: another run is working in this folder. Stop it, or choose another "
            "--output_dir."
        ) from None
    start = resume.find(spec, run_dir, resuming=resuming, fork=fork)
    sweep_rests(run_dir.path)
    write_text(run_dir.spec_file, to_toml(spec))
    jobs.record_own_process(run_dir)
    control.clear(run_dir.control)
    return start


def _run_told(
    spec: JobSpec, run_dir: RunDir, start: Start, events: EventLog, stop: StopSignal, share: Share
) -> Passage:
    """Run, and write how it ended as the last event."""
    teller = Teller(events, stop, share.reporter)
    mirrors = Mirrors(spec, run_dir, start.step, OPENERS, teller.note)
    if share.team.is_main:
        events.listeners.append(mirrors)
    try:
        with share.team.told(), faults_told(run_dir.path), shortage_told(run_dir.path):
            return (yield from _run(spec, run_dir, start, teller, stop, share))
    except Left:
        raise
    except StopRequested:
        assert stop.requested is not None
        events.write("stopped", step=start.step, signal=stop.requested.name, checkpoint=None)
        print("stopped before the first step; nothing was to be saved", file=sys.stderr)
        return Outcome(stop.exit_code)
    except InputError as error:
        events.write("failed", text=str(error), defect=False)
        raise
    except Exception as error:
        events.write("failed", text=f"{type(error).__name__}: {error}", defect=True)
        raise
    finally:
        mirrors.close()
        events.close()


def _run(
    spec: JobSpec, run_dir: RunDir, start: Start, teller: Teller, stop: StopSignal, share: Share
) -> Passage:
    started, team = time.time(), share.team
    team.share(lambda: preflight.check(spec, run_dir, begins=start.point is None))
    if start.found_nothing:
        teller.note("There is no checkpoint to resume from: starting at step 0.")
    if spec.model.threads:
        torch.set_num_threads(spec.model.threads)

    # The pictures, and the base that encodes them
    found, classes = team.share(lambda: setup.find_pictures(spec, teller))
    instances, held_out = hold_out(spec.validation, found)
    placement = devices.choose(spec.model, team)
    accelerator = devices.make_accelerator(placement)
    if placement.device.type == "cpu":
        teller.note("No GPU is used: training runs on the CPU.")
    base = share.open_base(spec, placement, teller)
    if spec.data.cache == "disk" and spec.trains_text:
        teller.note("The text encoder trains, so captions are encoded at each step, not cached.")
    begin = None if start.point else setup.read_start(base, spec.adapter)
    side_px = spec.data.resolution_px or base.native_size_px
    classes += setup.find_classes(base, spec, side_px, run_dir, teller, team)
    dataset = prepare.make_dataset(base, spec, instances, classes, records=share.records)
    start.check_dataset(dataset.fingerprint)
    dataset.fill(teller.counter("encode", "encoding pictures"), team)
    watched = watch(base, spec, instances, held_out, classes, teller) if team.is_main else None
    yield
    if spec.data.cache != "off":
        share.free_vae_encoder(base)

    # The adapter, and what trains it
    setup.place_unet(base, placement)
    handle = setup.put_adapter(base, spec, share.name)
    share.adapted(handle)
    if begin:
        setup.start_from(handle, begin, spec.adapter)
    optimizer = make_optimizer(spec.optim, handle)
    if start.point:
        checkpoint.restore(start.point, handle, optimizer, accelerator.scaler)
    previewer = None
    if spec.preview.enabled and team.is_main:
        prompts = preview_prompts(spec, instances)
        previewer = Previewer(base, spec, prompts, side_px, run_dir.previews)
    prompt_cache = setup.cache_prompts(
        base, spec, dataset, previewer, teller.counter("prompts", "encoding captions"), watched,
        share.records, team,
    )  # fmt: skip
    yield
    if prompt_cache is not None:
        share.free_text_encoders(base)
    order = prepare.make_run_order(spec, dataset)
    total = setup.total_steps(spec, order)
    batches = Batches(spec, base, dataset, order, prompt_cache is None, team)
    most_rows = -(-spec.schedule.batch_size // team.size)
    ladder = Ladder(spec, base, most_rows, start.point.memory if start.point else {}, teller.saving)
    trainer = Trainer(
        spec, total, base, handle, batches, accelerator, optimizer, prompt_cache, ladder, team
    )
    if start.point:
        trainer.shown.restore(checkpoint.average(start.point))
    if not team.is_main:
        return _follow(trainer, stop, start.step, total)
    exporter = Exporter(
        spec=spec,
        base=base,
        base_hash=base_weights_hash(bundled.resolve(spec.model.base)),
        pictures=instances,
        class_pictures=len(classes),
        precision=placement.precision,
        resolution_px=side_px,
        started=started,
        buckets=buckets.count(
            [sample.fit for sample in dataset.instances], [p.repeats for p in instances]
        ),
        steps_per_epoch=order.batches_in_epochs(1) / spec.schedule.accumulate,
    )
    validator = None
    if watched:
        history = History.of(start.point.validation if start.point else ())
        validator = Validator(
            spec, run_dir, teller, stop, base, handle, watched, side_px, history
        )  # fmt: skip
    outputs = Outputs(
        spec, run_dir, teller, stop, base, handle, optimizer, trainer.shown,
        accelerator, dataset, order, exporter, previewer, ladder, validator,
    )  # fmt: skip
    teller.events.write(
        "started",
        total_steps=total,
        pictures=len(instances),
        held_out=len(held_out),
        class_pictures=len(classes),
        trainable=handle.trainable,
        base=base.name,
        arch=base.arch,
        resumed_at=start.step,
    )
    teller.reporter.say(
        f"{len(instances)} pictures, {len(classes)} class pictures; {handle.trainable:,} trainable "
        f"numbers in {len(handle.layers)} layers; {total - start.step} of {total} steps to go"
    )
    if team.size > 1:
        teller.reporter.say(_told_of(team, spec))

    # The steps
    outputs.begin(start.step)
    stop.check()
    done = yield from _train(trainer, outputs, teller, stop, start.step, total)
    if done < total and stop.requested is not None:
        path = outputs.checkpoint(done)
        teller.events.write("stopped", step=done, signal=stop.requested.name, checkpoint=path.name)
        teller.reporter.say(
            f"stopped after step {done}; go on with\n"
            f"python -m trainers.dreambooth_lora --output_dir {run_dir.path} --resume"
        )
        team.agree()
        return Outcome(stop.exit_code)
    stopped_early = outputs.why_stop() if done < total else ""
    if stopped_early:
        teller.note(f"Training ends at step {done} of {total}. {stopped_early}")
    adapter = outputs.finish(done, stopped_early)
    team.agree()
    teller.reporter.say(f"done in {duration(time.time() - started)}")
    return Outcome(0, adapter)


def _train(
    trainer: Trainer, outputs: Outputs, teller: Teller, stop: StopSignal, start: int, total: int
) -> Generator[None, None, int]:
    """Do the steps from `start` on; the number done, less than `total` if they were cut short."""
    trainer.set_training()
    teller.reporter.begin(start, total)
    done = start
    try:
        while done < total:
            if trainer.team.agree(ends=stop.requested is not None or bool(outputs.why_stop())):
                break
            result = trainer.step(done)
            teller.step(result)
            done = result.step
            if stop.requested is None and done < total:
                outputs.after_step(done)
                outputs.obey(done)
            yield
    except InputError:
        outputs.checkpoint(done)  # the adapter is finite: a bad step changes nothing
        raise
    finally:
        teller.reporter.end()
    return done


def _follow(trainer: Trainer, stop: StopSignal, start: int, total: int) -> Outcome:
    """Do the same steps as the main process, which alone writes and tells."""
    trainer.set_training()
    done = start
    while done < total and not trainer.team.agree():
        done = trainer.step(done).step
    trainer.team.agree()  # all is written
    return Outcome(stop.exit_code if done < total else 0)


def _told_of(team: Team, spec: JobSpec) -> str:
    batch, accumulate = spec.schedule.batch_size, spec.schedule.accumulate
    if batch * accumulate < team.size:
        return (
            f"{team.size} processes, and {batch * accumulate} pictures in a step, so some have "
            "nothing to do: raise schedule.batch_size"
        )
    return f"{team.size} processes; each batch of {batch} is split among them"
