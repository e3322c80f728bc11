"""What a captioner is: the interface of the built-in ones and of plug-ins. No torch.

A plug-in package names a `Plugin` object under the entry-point group `lora_diffusion.captioners`:

    [project.entry-points."lora_diffusion.captioners"]
    mine = "my_package:PLUGIN"
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from PIL import Image

from trainers.spec import Section

SettingsT = TypeVar("SettingsT", bound=Section)


@dataclass(frozen=True, eq=False)
class Shot:
    """A decoded picture on its way to a captioner.

    Attributes:
        image: RGB, upright, at full size.
        name: the picture's file name.
        folder: the name of the folder it is in.
    """

    image: Image.Image
    name: str
    folder: str


@dataclass(frozen=True)
class Context:
    """What a captioner is told besides its settings.

    Attributes:
        trigger: the word for the subject, maybe empty. It is put before captions that lack it.
        device: auto, cpu, cuda, cuda:1 or mps.
        precision: auto, fp32, bf16 or fp16.
        say: called with a line of text when something slow begins or is odd.
    """

    trigger: str
    device: str
    precision: str
    say: Callable[[str], None]


class Captioner(Protocol):
    """A captioner that is ready: its model is loaded."""

    @property
    def model(self) -> str:
        """What made the caption, for the record: a path, a hub id, or empty."""

    def caption(self, shots: Sequence[Shot]) -> list[str]:
        """One caption a shot, in order; an empty one if there is nothing to say.

        Raises:
            InputError: the machine can't do it (out of memory, say); names the fix.
        """


@dataclass(frozen=True)
class Plugin(Generic[SettingsT]):
    """How a captioner is chosen, set and opened.

    Attributes:
        summary: one line for `--help` and the studio.
        settings: its settings, each with help and bounds; flags and forms are made from it.
        open: loads the model; raises InputError if that can't be done.
        batch: pictures a call, unless the user says otherwise.
    """

    summary: str
    settings: type[SettingsT]
    open: Callable[[SettingsT, Context], Captioner]
    batch: int = 1
