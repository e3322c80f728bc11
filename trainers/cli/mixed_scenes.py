"""Scenes whose adapters differ, drawn in common batches; adapters come and go as needed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from lora_diffusion.errors import InputError, printable
from lora_diffusion.families.base import DiffusionBase
from lora_diffusion.generate import PictureSpec, StepCallback
from lora_diffusion.multi.batch import PerSample
from lora_diffusion.multi.drawing import draw_mixed
from lora_diffusion.multi.pages import AdapterPages
from trainers.cli.scenes import Scene

_RAM_SHARE = 2  # times as many bytes for adapters that wait in RAM as for those on a GPU


class MixedCast:
    """The adapters of some scenes for one base, in memory as a budget allows.

    Args:
        adapter_bytes: most for adapters on the device.
    """

    def __init__(self, base: DiffusionBase, scenes: Sequence[Scene], adapter_bytes: int) -> None:
        self._base = base
        on_cpu = base.device.type == "cpu"
        pages = AdapterPages(
            base.parts,
            device_bytes=adapter_bytes,
            ram_bytes=0 if on_cpu else _RAM_SHARE * adapter_bytes,
        )
        for path in dict.fromkeys(used.path for scene in scenes for used in scene.adapters):
            pages.add(str(path), path)
        self._per_sample = PerSample(base.parts, pages)

    def draw(
        self,
        scenes: Sequence[Scene],
        pictures: Sequence[PictureSpec],
        on_step: StepCallback,
        at_once: int,
    ) -> list[Image.Image]:
        """Draw each picture with the adapters of its scene."""
        mixes = [[(str(used.path), used.weights) for used in scene.adapters] for scene in scenes]
        return draw_mixed(
            self._base, self._per_sample, pictures, mixes, on_step=on_step, at_once=at_once
        )


def read_batch(path: Path) -> list[str]:
    """The prompts of a text file, one a line; empty lines and those that begin with # are not.

    Raises:
        InputError: it can't be read, or has none.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise InputError(
            f"--batch {printable(path)}: can't be read ({error.strerror}). Check the path."
        ) from None
    except UnicodeDecodeError:
        raise InputError(f"--batch {printable(path)}: is not UTF-8 text. Save it so.") from None
    prompts = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if not prompts:
        raise InputError(f"--batch {printable(path)}: has no prompts. Write one a line.")
    return prompts
