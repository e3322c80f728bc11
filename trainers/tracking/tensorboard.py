"""TensorBoard: event files in the run's folder, `tensorboard --logdir RUNS` shows all runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from trainers.export import without_paths
from trainers.jobs import RunDir
from trainers.layering import to_toml
from trainers.spec import JobSpec
from trainers.tracking.mirror import Picture


class TensorBoard:
    """Writes into `RUN/tensorboard`. What a resumed run does again takes the old figures' place."""

    def __init__(self, spec: JobSpec, run_dir: RunDir, start: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(
            str(run_dir.path / "tensorboard"), purge_step=start + 1 if start else None
        )
        self._writer.add_text("settings", f"```toml\n{to_toml(without_paths(spec))}\n```", start)

    def figures(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def pictures(self, step: int, pictures: Sequence[Picture]) -> None:
        for picture in pictures:
            with Image.open(picture.path) as image:
                pixels = np.asarray(image.convert("RGB"))  # [h, w, 3]
            self._writer.add_image(picture.label, pixels, step, dataformats="HWC")
        self._writer.flush()

    def close(self, outcome: str) -> None:
        self._writer.close()
