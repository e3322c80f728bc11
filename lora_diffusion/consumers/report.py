"""What a consumer makes of a file, key by key. No torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from lora_diffusion.consumers.view import FileView, Module

EQUAL = "equal"


@dataclass(frozen=True)
class Report:
    """One consumer's reading of one file.

    Attributes:
        name: the consumer: `diffusers`, `a1111-forge`, `comfyui`, `invokeai`, `sd-scripts`.
        total: tensors in the file.
        dropped: tensor that has no effect -> why.
        wrong: stem of a layer whose delta is not what the file means -> how it differs.
    """

    name: str
    total: int
    dropped: Mapping[str, str]
    wrong: Mapping[str, str]

    @property
    def consumed(self) -> int:
        return self.total - len(self.dropped)

    @property
    def reads_it(self) -> bool:
        """Whether every key counts and every delta is alpha / rank * up @ down (or DoRA's)."""
        return not self.dropped and not self.wrong

    @property
    def delta(self) -> str:
        """`equal`, or what is wrong with how many of the layers that are applied."""
        if not self.wrong:
            return EQUAL if self.consumed else "none"
        return "; ".join(f"{why} ({count} layers)" for why, count in counted(self.wrong))

    @property
    def reasons(self) -> tuple[str, ...]:
        """One sentence for each way in which it fails; empty if it reads the file."""
        lost = [f"{why} ({count} of {self.total} keys)" for why, count in counted(self.dropped)]
        return (*lost, *(f"{why} ({count} layers)" for why, count in counted(self.wrong)))


class Reading:
    """A report in the making: what is not dropped counts as consumed."""

    def __init__(self, name: str, view: FileView) -> None:
        self._name = name
        self._view = view
        self._dropped: dict[str, str] = {}
        self._wrong: dict[str, str] = {}

    def drop(self, names: Iterable[str], why: str) -> None:
        """These tensors have no effect; the first reason given stays."""
        for name in names:
            self._dropped.setdefault(name, why)

    def drop_module(self, module: Module, why: str) -> None:
        self.drop(module.names.values(), why)
        self._wrong.pop(module.stem, None)

    def differ(self, module: Module, how: str) -> None:
        """The delta of this layer is another one than the file means."""
        self._wrong.setdefault(module.stem, how)

    def refused(self, why: str) -> Report:
        """The report of a consumer that takes nothing of the file."""
        return Report(self._name, len(self._view.shapes), dict.fromkeys(self._view.shapes, why), {})

    def report(self) -> Report:
        return Report(self._name, len(self._view.shapes), self._dropped, self._wrong)


def counted(reasons: Mapping[str, str]) -> list[tuple[str, int]]:
    """Each reason and how often it occurs, most frequent first."""
    return Counter(reasons.values()).most_common()
