"""What a run writes on its way: previews, checkpoints, adapters, the contact sheet."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from torch.optim import Optimizer

from lora_diffusion.families import DiffusionBase
from lora_diffusion.formats.metadata import public_name
from lora_diffusion.injection import AdapterHandle
from trainers import checkpoint, control
from trainers.contact_sheet import Column, draw_sheet
from trainers.data.dataset import Dataset
from trainers.data.order import Order
from trainers.export import Exporter
from trainers.jobs import RunDir, adapter_name
from trainers.machine.memory import MEMORY_ERRORS, Ladder, is_out_of_memory, release
from trainers.optim.averaging import ShownWeights
from trainers.preview import Previewer
from trainers.spec import JobSpec
from trainers.stopping import StopSignal
from trainers.teller import Teller
from trainers.validation.validator import Validator

_HOLD_SECONDS = 0.2


@dataclass
class Outputs:
    """Writes into the run folder, and tells of each file.

    Attributes:
        previewer: None where previews are off; there is no contact sheet then.
        validator: None where nothing is measured.
    """

    spec: JobSpec
    dir: RunDir
    teller: Teller
    stop: StopSignal
    base: DiffusionBase
    handle: AdapterHandle
    optimizer: Optimizer
    shown: ShownWeights
    accelerator: Accelerator
    dataset: Dataset
    order: Order
    exporter: Exporter
    previewer: Previewer | None
    ladder: Ladder
    validator: Validator | None

    @property
    def name(self) -> str:
        return adapter_name(self.spec, self.dir)

    def begin(self, step: int) -> None:
        """What there is to be seen before the first step of a run that begins after `step`.

        Raises:
            StopRequested: the run was asked to stop.
        """
        if step == 0:
            self.preview(0)
        if self.validator is None:
            return
        if not self._spared("The base", self.validator.look_at_base):
            self.validator = None  # there is nothing to compare with
            return
        if step == 0 or (self.validator.is_due(step) and not self.validator.measured(step)):
            self.validate(step)

    def after_step(self, done: int) -> None:
        """Whatever is due after `done` steps, short of the end."""
        save = self.spec.save
        if self.validator is not None and self.validator.is_due(done):
            self.validate(done)
        if _is_due(done, self.spec.preview.every_steps):
            self.preview(done)
        if _is_due(done, save.checkpoint_every_steps):
            self.checkpoint(done)
        if _is_due(done, save.every_steps) or self._epoch_export_due(done):
            self.export(self.export_file(done), done)

    def obey(self, done: int) -> None:
        """Do what was asked of this process since the last step, see `control`; hold if asked."""
        held = False
        while True:
            wanted = control.take(self.dir.control)
            if "sample" in wanted and done not in self._preview_steps():
                self.preview(done)
            if "save" in wanted:
                self.checkpoint(done)
                self.export(self.export_file(done), done)
            if not control.is_paused(self.dir.control) or self.stop.requested is not None:
                break
            if not held:
                held = True
                path = self.checkpoint(done)
                self.teller.events.write("paused", step=done, checkpoint=path.name)
                self.teller.reporter.say(f"paused after step {done}")
            time.sleep(_HOLD_SECONDS)
        if held:
            self.teller.events.write("unpaused", step=done)

    def why_stop(self) -> str:
        """Why training ends before its last step; empty where it goes on."""
        return self.validator.why_stop() if self.validator is not None else ""

    def finish(self, total: int, stopped_early: str = "") -> Path:
        """The last previews, the adapter, the contact sheet; returns the adapter's path.

        stopped_early: why the run ends before its last step, if it does.
        """
        if self.spec.save.checkpoint_every_steps:
            self.checkpoint(total)  # first, because drawing takes long on a slow machine
        if self.validator is not None:
            self.validate(total)
        self.preview(total)
        adapter = self.dir.adapter_file(self.spec)
        self.export(adapter, total, final=True)
        sheet = self.contact_sheet(total)
        self.teller.events.write(
            "finished",
            step=total,
            file=adapter.name,
            contact_sheet=sheet.name if sheet else None,
            best=self._best(),
            stopped_early=stopped_early or None,
            seconds=round(time.time() - self.exporter.started, 1),
        )
        return adapter

    def export_file(self, step: int) -> Path:
        """Where the adapter as it stands after `step` steps goes."""
        return self.dir.exports / f"{self.name}-step{step:08d}.safetensors"

    def preview(self, step: int) -> None:
        """Draw the previews as the model stands; a failure is told and does not end the run."""
        if self.previewer is None:
            return
        self.teller.phase("preview", f"drawing {len(self.previewer.pictures)} previews")
        with self._as_shown():
            files, problems = self.previewer.try_draw(step, self.stop.check)
        for problem in problems:
            self.teller.note(problem)
        if not files:
            return
        self.teller.events.write(
            "preview",
            step=step,
            pictures=[{"prompt": f.prompt, "file": self._relative(f.path)} for f in files],
        )

    def validate(self, step: int) -> None:
        """Measure the model as it stands; the best so far is kept in `exports/`."""
        assert self.validator is not None
        validator, is_best = self.validator, list[bool]()
        self._spared(f"Step {step}", lambda: is_best.append(validator.measure(step)))
        if any(is_best):
            self.export(self.dir.exports / f"{self.name}-best.safetensors", step)
            self.teller.events.write("best", **(self._best() or {}))

    def _best(self) -> dict[str, Any] | None:
        """The best measurement so far, and the file that has its weights."""
        point = self.validator.history.best if self.validator else None
        if self.validator is None or point is None:
            return None
        path = self.dir.exports / f"{self.name}-best.safetensors"
        return {
            "step": point.step,
            "loss": float(f"{point.smooth:.6g}"),
            "file": self._relative(path) if path.exists() else None,
            "reason": self.validator.history.why_best(),
        }

    def checkpoint(self, done: int) -> Path:
        """Write a checkpoint that `--resume` goes on from."""
        scaler = self.accelerator.scaler
        path = checkpoint.save(
            self.dir.checkpoints,
            step=done,
            spec=self.spec.model_dump(mode="json"),
            dataset=self.dataset.fingerprint,
            scaler=scaler.state_dict() if scaler is not None else {},
            handle=self.handle,
            optimizer=self.optimizer,
            average=self.shown.average,
            memory=self.ladder.savings.as_json(),
            keep=self.spec.save.keep_checkpoints,
            validation=self.validator.history.pairs if self.validator else (),
        )
        self.teller.events.write("checkpoint", step=done, file=self._relative(path))
        return path

    def export(self, path: Path, step: int, *, final: bool = False) -> None:
        """Write the adapter as it stands, and tell which programs read it."""
        with self.shown.in_place():
            found = self.exporter.write(self.handle, path, step, time.time(), self._cover(step))
        self.teller.events.write(
            "export",
            step=step,
            file=self._relative(path),
            final=final,
            portable=found.portable,
            readers=list(found.readers),
            unread=found.unread,
        )
        if final:
            self.teller.reporter.say(f"{path.name} is {found.line}")

    def contact_sheet(self, total: int) -> Path | None:
        """Draw the sheet of all previews; None if there are none."""
        steps = self._preview_steps()
        if self.previewer is None or not steps:
            return None
        draw_sheet(
            self.name,
            f"{public_name(self.base.name)}, {len(self.dataset.instances)} pictures, "
            f"rank {self.spec.adapter.rank}, {total:,} steps; the same noise along each row",
            [picture.prompt for picture in self.previewer.pictures],
            self.spec.data.trigger,
            [Column(step, [f.path for f in self.previewer.files_at(step)]) for step in steps],
            self.dir.contact_sheet,
        )
        return self.dir.contact_sheet

    def _cover(self, step: int) -> Path | None:
        """The newest preview by `step`, of the first prompt with the trigger."""
        trained = [at for at in self._preview_steps() if 0 < at <= step]
        if self.previewer is None or not trained:
            return None
        files = self.previewer.files_at(trained[-1])
        trigger = self.spec.data.trigger
        return next((f.path for f in files if trigger and trigger in f.prompt), files[0].path)

    def _preview_steps(self) -> list[int]:
        """Steps whose previews are all there, in order."""
        if self.previewer is None:
            return []
        steps = sorted(int(p.name.removeprefix("step-")) for p in self.dir.previews.glob("step-*"))
        return [s for s in steps if all(f.path.is_file() for f in self.previewer.files_at(s))]

    def _epoch_export_due(self, done: int) -> bool:
        every = self.spec.save.every_epochs
        if every is None:
            return False
        per_step = self.spec.schedule.accumulate
        now, before = (self.order.epoch_of(steps * per_step) for steps in (done, done - 1))
        return now // every > before // every

    def _spared(self, what: str, measure: Callable[[], None]) -> bool:
        """Measure with the weights that are shown; False, and told, where memory runs out."""
        try:
            with self._as_shown():
                measure()
            return True
        except MEMORY_ERRORS as error:
            if not is_out_of_memory(error):
                raise
        release()
        self.teller.note(f"{what} was not measured: memory ran out, one picture at a time.")
        return False

    @contextmanager
    def _as_shown(self) -> Iterator[None]:
        """Inside, the models are as previews and exports show them: averaged, without dropout."""
        self._set_training(False)
        try:
            with self.accelerator.autocast(), self.shown.in_place(), self.ladder.drawing():
                yield
        finally:
            self._set_training(True)

    def _set_training(self, on: bool) -> None:
        for part in self.base.parts.values():
            part.train(on)

    def _relative(self, path: Path) -> str:
        return path.relative_to(self.dir.path).as_posix()


def _is_due(done: int, every: int | None) -> bool:
    return bool(every) and done % (every or 1) == 0
