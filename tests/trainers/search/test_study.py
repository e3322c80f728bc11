"""The search itself, on a score whose maximum is known."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from lora_diffusion.errors import InputError
from trainers.search.knobs import Knob
from trainers.search.study import Found, search

ONE, TWO = Knob("fox"), Knob("ink")
PEAK = {ONE: 0.72, TWO: 0.31}


def hill(numbers: Mapping[Knob, float]) -> float:
    return 1 - sum((numbers[knob] - best) ** 2 for knob, best in PEAK.items())


def run(folder: Path, score: Any = hill, trials: int = 40, **changes: Any) -> Found:
    told: dict[str, Any] = {
        "low": 0.0,
        "high": 1.5,
        "regulariser": 0.0,
        "starts": [{ONE: 1.0, TWO: 1.0}],
        "file": folder / "trials.log",
        "identity": {"adapters": ["a", "b"]},
    }
    return search([ONE, TWO], score, trials=trials, **(told | changes))


def test_it_finds_the_peak_and_is_never_worse_than_where_it_starts(tmp_path):
    found = run(tmp_path)
    assert found.trials == 40
    assert found.score > 0.99 > hill({ONE: 1.0, TWO: 1.0})
    assert found.numbers[ONE] == pytest.approx(0.72, abs=0.1)
    few = run(tmp_path / "few", trials=1)
    assert few.numbers == {ONE: 1.0, TWO: 1.0}


def test_stopped_at_any_trial_it_goes_on_to_the_same_weights(tmp_path):
    class Stop(Exception):
        pass

    tried: list[float] = []

    def stops(numbers: Mapping[Knob, float]) -> float:
        if len(tried) == 7:
            raise Stop
        tried.append(hill(numbers))
        return tried[-1]

    with pytest.raises(Stop):
        run(tmp_path / "a", stops, trials=15)
    resumed = run(tmp_path / "a", trials=15)
    assert resumed.trials == 15
    assert resumed == run(tmp_path / "b", trials=15)


def test_a_start_that_was_killed_is_tried_again(tmp_path):
    def dies(numbers: Mapping[Knob, float]) -> float:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, dies, trials=1)
    assert run(tmp_path, trials=1).numbers == {ONE: 1.0, TWO: 1.0}


def test_a_line_that_was_half_written_is_left_out(tmp_path):
    run(tmp_path, trials=3)
    with (tmp_path / "trials.log").open("ab") as file:
        file.write(b'{"op_code": 4, "wor')
    assert run(tmp_path, trials=4) == run(tmp_path / "whole", trials=4)
    assert run(tmp_path, trials=4).trials == 4


def test_done_trials_are_not_done_again(tmp_path):
    run(tmp_path, trials=5)
    assert run(tmp_path, lambda numbers: pytest.fail("tried again"), trials=5).trials == 5


def test_the_regulariser_prefers_small_weights_and_is_not_in_the_score(tmp_path):
    found = run(tmp_path, lambda numbers: 0.5, regulariser=0.1, trials=25)
    assert found.score == 0.5
    assert sum(found.numbers.values()) < 0.6


def test_a_file_of_another_search_is_refused(tmp_path):
    run(tmp_path, trials=2)
    with pytest.raises(InputError, match="holds a search over other adapters"):
        run(tmp_path, identity={"adapters": ["a", "c"]})
    (tmp_path / "trials.log").write_text("nothing\n")
    with pytest.raises(InputError, match=r"trials\.log: is not a search's file"):
        run(tmp_path)
