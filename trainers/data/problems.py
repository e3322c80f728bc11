"""What can be wrong with a dataset, one finding each. No torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from lora_diffusion.errors import InputError, printable

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
_MAX_NAMED = 20


@dataclass(frozen=True, slots=True)
class Problem:
    """One finding.

    Attributes:
        file: name within the dataset; empty where it is about the whole.
        severity: error can't be used; warning is used and probably not as meant; note is
            something to know.
        kind: a word or two with hyphens, such as `near-duplicate`, to sort and count by.
        cause: what is so, without the file's name.
        fix: what to do about it, a sentence.
    """

    file: str
    severity: Severity
    kind: str
    cause: str
    fix: str

    def as_json(self) -> dict[str, str]:
        """The fields, with no control characters left."""
        return {
            "file": printable(self.file, 4_096),
            "severity": self.severity,
            "kind": self.kind,
            "cause": printable(self.cause, 400),
            "fix": printable(self.fix, 400),
        }

    def __str__(self) -> str:
        where = f"{printable(self.file)}: " if self.file else ""
        return f"{where}{printable(self.cause, 400)}. {printable(self.fix, 400)}"


def refuse_errors(problems: Iterable[Problem]) -> None:
    """Raise one `InputError` that names everything that can't be used, a line each."""
    errors = [problem for problem in problems if problem.severity == "error"]
    if errors:
        more = len(errors) - _MAX_NAMED
        rest = [f"… and {more} more."] if more > 0 else []
        raise InputError("\n".join([*map(str, errors[:_MAX_NAMED]), *rest]))


def count_kinds(problems: Sequence[Problem]) -> dict[str, int]:
    """Kind -> how many, the gravest and then the most frequent first."""
    order = Counter((SEVERITIES.index(problem.severity), problem.kind) for problem in problems)
    ranked = sorted(order.items(), key=lambda item: (item[0][0], -item[1], item[0][1]))
    counts: dict[str, int] = {}
    for (_, kind), number in ranked:
        counts[kind] = counts.get(kind, 0) + number
    return counts
