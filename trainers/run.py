"""A training run as a visible straight line: prepare, train, finish."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from lora_diffusion import bundled
from lora_diffusion.errors import InputError
from lora_diffusion.families import Conditioning, DiffusionBase, load_base
from lora_diffusion.files import write_text
from lora_diffusion.inject import AdapterConfig, AdapterHandle, inject
from lora_diffusion.keys import UNET
from lora_diffusion.layers import Dropout
from lora_diffusion.targets import NONE
from trainers import checkpoint, devices, jobs, resume
from trainers.contact_sheet import Column, draw_sheet
from trainers.data.dataset import Dataset, encode_dataset
from trainers.data.order import Order
from trainers.data.scan import Picture, scan
from trainers.events import EventLog
from trainers.export import Exporter, base_weights_hash
from trainers.jobs import RunDir
from trainers.layering import to_toml
from trainers.loop import Trainer
from trainers.optim import make_optimizer
from trainers.preview import Previewer, preview_prompts
from trainers.prior import class_pictures
from trainers.progress import Reporter, duration
from trainers.resume import Start
from trainers.spec import JobSpec
from trainers.stopping import StopRequested, StopSignal


@dataclass(frozen=True)
class Outcome:
    """How a run ended: the adapter's path where it finished, and the process's exit code."""

    exit_code: int
    adapter: Path | None = None


def run(spec: JobSpec, run_dir: RunDir, *, resuming: bool = False, fork: bool = False) -> Outcome:
    """Train as `spec` says, in the folder `run_dir`.

    Args:
        resuming: go on from the newest checkpoint, if there is one.
        fork: let the resumed run change settings that change what is learned.

    Raises:
        InputError: a setting or a file is wrong; also written as the run's last event.
    """
    run_dir.path.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(run_dir.lock_file, timeout=0):
            return _run_locked(spec, run_dir, resuming, fork)
    except Timeout:
        raise InputError(
            f"{run_dir.path}: another run is working in this folder. Stop it, or choose another "
            "--output_dir."
        ) from None


def _run_locked(spec: JobSpec, run_dir: RunDir, resuming: bool, fork: bool) -> Outcome:
    start = resume.find(spec, run_dir, resuming=resuming, fork=fork)
    write_text(run_dir.spec_file, to_toml(spec))
    jobs.record_own_process(run_dir)
    events = EventLog(run_dir.events_file)
    try:
        with StopSignal() as stop:
            try:
                return _Run(spec, run_dir, events, stop, resuming).go(start)
            except StopRequested:
                assert stop.requested is not None
                events.write("stopped", step=0, signal=stop.requested.name, checkpoint=None)
                return Outcome(stop.exit_code)
    except InputError as error:
        events.write("failed", text=str(error), defect=False)
        raise
    except Exception as error:
        events.write("failed", text=f"{type(error).__name__}: {error}", defect=True)
        raise
    finally:
        events.close()


class _Run:
    """The parts of a run that its steps share."""

    def __init__(
        self,
        spec: JobSpec,
        run_dir: RunDir,
        events: EventLog,
        stop: StopSignal,
        resuming: bool,
    ) -> None:
        self.spec = spec
        self.resuming = resuming
        self.dir = run_dir
        self.events = events
        self.stop = stop
        self.reporter = Reporter()
        self.started = time.time()

    def go(self, start: Start) -> Outcome:
        spec = self.spec
        if self.resuming and not start.point:
            self._note("There is no checkpoint to resume from: starting at step 0.")
        if spec.model.threads:
            torch.set_num_threads(spec.model.threads)
        instances = self._scan()
        placement = devices.choose(spec.model)
        self.accelerator = devices.make_accelerator(placement, spec.schedule.accumulate)
        if placement.device.type == "cpu":
            self._note("No GPU is used: training runs on the CPU.")
        self.base = self._load_base(placement)
        self.side_px = spec.data.resolution_px or self.base.native_size_px
        base_hash = base_weights_hash(bundled.resolve(spec.model.base))
        self.previewer = self._previewer(instances)
        classes = self._class_pictures()
        self.dataset = self._encode(instances, classes)
        start.check_dataset(self.dataset.fingerprint)
        self.handle = self._inject()
        if spec.model.gradient_checkpointing:
            self._checkpoint_gradients()
        self.optimizer = make_optimizer(spec.optim, self.handle)
        if start.point:
            checkpoint.restore(start.point, self.handle, self.optimizer)
        order = Order(len(instances), len(classes), spec.data.class_fraction, spec.schedule.seed)
        places_per_step = spec.schedule.batch_size * spec.schedule.accumulate
        total = spec.schedule.steps or order.steps_in_epochs(
            spec.schedule.epochs or 1, places_per_step
        )
        trainer = Trainer(
            spec,
            total,
            self.base,
            self.handle,
            self.dataset,
            order,
            self.accelerator,
            self.optimizer,
            self._cache_prompts(),
        )
        if start.point and start.point.scaler and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(start.point.scaler)
        self.exporter = Exporter(
            spec=spec,
            base=self.base,
            base_hash=base_hash,
            pictures=instances,
            class_pictures=len(classes),
            precision=placement.precision,
            resolution_px=self.side_px,
            started=self.started,
            steps_per_epoch=order.steps_in_epochs(1, places_per_step),
        )
        self.events.write(
            "started",
            total_steps=total,
            pictures=len(instances),
            class_pictures=len(classes),
            trainable=self.handle.trainable,
            base=self.base.name,
            arch=self.base.arch,
            resumed_at=start.step,
        )
        self.reporter.say(
            f"{len(instances)} pictures, {len(classes)} class pictures; "
            f"{self.handle.trainable:,} trainable numbers in {len(self.handle.layers)} layers; "
            f"{total - start.step} of {total} steps to go"
        )
        stopped = self._train(trainer, start.step, total)
        return stopped or self._finish(total)

    def _train(self, trainer: Trainer, start: int, total: int) -> Outcome | None:
        if start == 0:
            self._preview(0)
        self.stop.check()
        self._mode(training=True)
        self.reporter.begin(start, total)
        for step in range(start, total):
            result = trainer.step(step)
            done = result.step
            self.events.write(
                "step",
                step=done,
                loss=_json_number(result.loss),
                lr=result.lr,
                grad_norm=_json_number(result.grad_norm),
                seconds=round(result.seconds, 4),
                peak_bytes=result.peak_bytes,
            )
            self.reporter.step(done, result.loss)
            if self.stop.requested is None and done < total:
                self._after_step(trainer.order, done)
            if self.stop.requested is not None and done < total:
                return self._stop(done)
        self.reporter.end()
        return None

    def _after_step(self, order: Order, done: int) -> None:
        spec = self.spec
        if _is_due(done, spec.preview.every_steps):
            self._preview(done)
        if _is_due(done, spec.save.checkpoint_every_steps):
            self._checkpoint(done)
        if _is_due(done, spec.save.every_steps) or self._epoch_export_due(order, done):
            self._export(self.dir.exports / f"{self._name}-step{done:08d}.safetensors", done)

    def _finish(self, total: int) -> Outcome:
        self._preview(total)
        adapter = self.dir.adapter_file(self.spec)
        self._export(adapter, total, final=True)
        if self.spec.save.checkpoint_every_steps:
            self._checkpoint(total)
        sheet = self._contact_sheet(total)
        seconds = time.time() - self.started
        self.events.write(
            "finished",
            step=total,
            file=adapter.name,
            contact_sheet=sheet.name if sheet else None,
            seconds=round(seconds, 1),
        )
        self.reporter.say(f"done in {duration(seconds)}")
        return Outcome(0, adapter)

    def _stop(self, done: int) -> Outcome:
        self.reporter.end()
        path = self._checkpoint(done)
        assert self.stop.requested is not None
        self.events.write(
            "stopped", step=done, signal=self.stop.requested.name, checkpoint=path.name
        )
        self.reporter.say(f"stopped after step {done}; go on with --resume")
        return Outcome(self.stop.exit_code)

    # Preparing

    def _scan(self) -> list[Picture]:
        data = self.spec.data
        prompt = data.instance_prompt
        if "{trigger}" in prompt:
            prompt = prompt.replace("{trigger}", data.trigger) if data.trigger else ""
        return scan(
            bundled.resolve(data.folder), default_caption=prompt or None, trigger=data.trigger
        )

    def _load_base(self, placement: devices.Placement) -> DiffusionBase:
        model = self.spec.model
        self._phase("load", f"loading {model.base}")
        base = load_base(
            model.base,
            device=placement.device,
            dtype=placement.dtype,
            tokenizer=model.tokenizer,
            prediction=model.prediction,
            clip_skip=model.clip_skip,
            on_progress=lambda text: self._phase("load", text),
        )
        if model.attention == "xformers":
            devices.use_xformers(base.unet, placement.device)
        return base

    def _previewer(self, instances: list[Picture]) -> Previewer | None:
        if not self.spec.preview.enabled:
            return None
        prompts = preview_prompts(self.spec, instances)
        return Previewer(self.base, self.spec, prompts, self.side_px, self.dir.previews)

    def _class_pictures(self) -> list[Picture]:
        data = self.spec.data
        if not data.class_pictures:
            return []
        folder = Path(data.class_folder) if data.class_folder else self.dir.path / "class_pictures"
        return class_pictures(
            self.base,
            self.spec,
            folder,
            self.side_px,
            self._counter("class", "drawing class pictures"),
        )

    def _encode(self, instances: list[Picture], classes: list[Picture]) -> Dataset:
        return encode_dataset(
            self.base,
            instances,
            classes,
            self.side_px,
            self._counter("encode", "encoding pictures"),
        )

    def _inject(self) -> AdapterHandle:
        spec = self.spec.adapter
        trains_text = self.spec.optim.lr_text > 0
        config = AdapterConfig(
            targets=spec.targets if self.spec.optim.lr_unet > 0 else NONE,
            text_targets=spec.text_targets if trains_text else NONE,
            rank=spec.rank,
            alpha=spec.alpha,
            ranks=spec.ranks,
            alphas=spec.alphas,
            init=spec.init,
            dropout=Dropout(spec.rank_dropout, spec.module_dropout, spec.neuron_dropout),
            seed=self.spec.schedule.seed,
        )
        return inject(self.base.parts, config)

    def _checkpoint_gradients(self) -> None:
        for part in self.base.parts.values():
            model: Any = part
            if hasattr(model, "enable_gradient_checkpointing"):
                model.enable_gradient_checkpointing()
            else:
                model.gradient_checkpointing_enable()

    def _cache_prompts(self) -> dict[str, Conditioning] | None:
        """Every caption encoded once and the text encoder freed, unless it is being trained."""
        if any(key.part != UNET for key in self.handle.layers):
            return None
        captions = [*self.dataset.captions, ""]
        chunks = max(self.base.prompt_chunks(caption) for caption in captions)
        with torch.no_grad():
            cached = {c: self.base.encode_prompts([c], chunks=chunks) for c in captions}
        if self.previewer:
            self.previewer.keep_prompts()
        self.base.free_text_encoders()
        return cached

    # On the way

    @property
    def _name(self) -> str:
        return jobs.adapter_name(self.spec, self.dir)

    def _mode(self, *, training: bool) -> None:
        for part in self.base.parts.values():
            part.train(training)

    def _epoch_export_due(self, order: Order, done: int) -> bool:
        every = self.spec.save.every_epochs
        if every is None:
            return False
        per_step = self.spec.schedule.batch_size * self.spec.schedule.accumulate
        now, before = order.epoch_of(done * per_step), order.epoch_of((done - 1) * per_step)
        return now // every > before // every

    def _preview(self, step: int) -> None:
        if self.previewer is None:
            return
        self._mode(training=False)
        with self.accelerator.autocast():
            files, problem = self.previewer.try_draw(step, self.stop.check)
        self._mode(training=True)
        if problem:
            self._note(problem)
            return
        self.events.write(
            "preview",
            step=step,
            pictures=[{"prompt": f.prompt, "file": self._relative(f.path)} for f in files],
        )

    def _checkpoint(self, done: int) -> Path:
        scaler = self.accelerator.scaler
        path = checkpoint.save(
            self.dir.checkpoints,
            step=done,
            spec=self.spec.model_dump(mode="json"),
            dataset=self.dataset.fingerprint,
            scaler=scaler.state_dict() if scaler is not None else {},
            handle=self.handle,
            optimizer=self.optimizer,
            keep=self.spec.save.keep_checkpoints,
        )
        self.events.write("checkpoint", step=done, file=self._relative(path))
        return path

    def _export(self, path: Path, step: int, *, final: bool = False) -> None:
        self.exporter.write(self.handle, path, step, time.time(), self._cover(step))
        self.events.write("export", step=step, file=self._relative(path), final=final)

    def _cover(self, step: int) -> Path | None:
        """The newest preview by `step`, of the first prompt with the trigger."""
        for at in sorted(self._preview_steps(), reverse=True):
            if self.previewer and 0 < at <= step:
                files = self.previewer.files_at(at)
                trigger = self.spec.data.trigger
                return next(
                    (f.path for f in files if trigger and trigger in f.prompt), files[0].path
                )
        return None

    def _contact_sheet(self, total: int) -> Path | None:
        if self.previewer is None:
            return None
        columns = [
            Column(step, [file.path for file in self.previewer.files_at(step)])
            for step in sorted(self._preview_steps())
        ]
        if not columns:
            return None
        spec = self.spec
        draw_sheet(
            self._name,
            f"{self.base.name}, {len(self.dataset.instances)} pictures, rank {spec.adapter.rank}, "
            f"{total:,} steps; the same noise along each row",
            [picture.prompt for picture in self.previewer.pictures],
            spec.data.trigger,
            columns,
            self.dir.contact_sheet,
        )
        return self.dir.contact_sheet

    def _preview_steps(self) -> list[int]:
        """Steps whose previews are all there."""
        if self.previewer is None:
            return []
        steps = [int(p.name.removeprefix("step-")) for p in self.dir.previews.glob("step-*")]
        return [s for s in steps if all(f.path.is_file() for f in self.previewer.files_at(s))]

    # Telling

    def _phase(self, name: str, text: str) -> None:
        self.events.write("phase", name=name, text=text)
        self.reporter.say(text)

    def _counter(self, name: str, text: str) -> Callable[[int, int], None]:
        def count(done: int, total: int) -> None:
            self.stop.check()
            self.events.write("phase", name=name, text=text, done=done, total=total)
            if done == total:
                self.reporter.say(f"{text}: {total} done")

        return count

    def _note(self, text: str) -> None:
        self.events.write("note", text=text)
        self.reporter.say(text)

    def _relative(self, path: Path) -> str:
        return path.relative_to(self.dir.path).as_posix()


def _is_due(done: int, every: int | None) -> bool:
    return bool(every) and done % (every or 1) == 0


def _json_number(value: float) -> float | None:
    return value if value - value == 0 else None
