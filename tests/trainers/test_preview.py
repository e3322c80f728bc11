"""Which prompts the previews draw."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainers.data.scan import Picture
from trainers.layering import build_spec
from trainers.preview import preview_prompts


@pytest.mark.parametrize(
    ("trigger", "expected"),
    [
        ("sks", ("score_9, sks, solo", "score_9, solo", "solo, sks", "sks")),
        (None, ("score_9, solo", "score_9, solo", "solo", "")),
    ],
)
def test_the_trigger_is_filled_in(trigger: str | None, expected: tuple[str, ...]) -> None:
    prompts = ["score_9, {trigger}, solo", "score_9, solo", "solo, {trigger}", "{trigger}"]
    spec = build_spec([{"data": {"trigger": trigger}, "preview": {"prompts": prompts}}])
    assert tuple(p.prompt for p in preview_prompts(spec, [])) == expected


def test_unset_prompts_are_captions_and_one_without_the_trigger() -> None:
    pictures = [Picture(Path(f"{n}.png"), (f"sks, {n}",)) for n in range(3)]
    spec = build_spec([{"data": {"trigger": "sks"}}])
    assert [p.prompt for p in preview_prompts(spec, pictures)] == ["sks, 0", "sks, 1", "0"]
