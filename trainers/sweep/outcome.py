"""How the runs of a sweep ended."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from trainers.run import Outcome


@dataclass
class SweepOutcome:
    """How the runs of a sweep ended, by name.

    Attributes:
        outcomes: of those that ended by themselves or by a signal.
        problems: what was wrong with the others.
    """

    outcomes: dict[str, Outcome] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)

    @property
    def adapters(self) -> dict[str, Path]:
        """The finished runs' files."""
        return {name: o.adapter for name, o in self.outcomes.items() if o.adapter is not None}

    @property
    def exit_code(self) -> int:
        """2 if something was wrong, else a signal's code, else 0."""
        if self.problems:
            return 2
        return max((outcome.exit_code for outcome in self.outcomes.values()), default=0)
