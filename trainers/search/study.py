"""Find numbers that maximise a score, without gradients; stopped and resumed at any trial.

Huang et al., "LoraHub: Efficient Cross-Task Generalization via Dynamic LoRA Composition"
(arXiv:2307.13269), section 3.3: minimise loss + alpha * sum |w_i| over the weights w alone. There
Nevergrad searches, here Optuna's TPE (Akiba et al., arXiv:1907.10902; Bergstra et al., 2011),
which keeps its trials in a file.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lora_diffusion.errors import InputError, printable
from trainers.search.knobs import Knob

if TYPE_CHECKING:
    import optuna

Numbers = Mapping[Knob, float]
OnTrial = Callable[[int, int, float, float], None]
_STARTUP = 8
_RAW = "score"


@dataclass(frozen=True)
class Found:
    """The best trial.

    Attributes:
        numbers: one for each knob.
        score: without the regulariser.
        trials: how many were done in all.
    """

    numbers: Numbers
    score: float
    trials: int


def search(
    knobs: Sequence[Knob],
    score: Callable[[Numbers], float],
    *,
    low: float,
    high: float,
    trials: int,
    regulariser: float,
    starts: Sequence[Numbers],
    file: Path,
    identity: Mapping[str, object],
    seed: int = 0,
    on_trial: OnTrial = lambda done, total, value, best: None,
) -> Found:
    """Maximise score(w) - regulariser * mean |w_i| with w_i in [low, high].

    Args:
        trials: in all, those of earlier calls with `file` included.
        starts: tried first, so that what is found is never worse than they are.
        file: Optuna's journal. What is in it is gone on with.
        identity: what the scores depend on; a file of other scores is refused.
        seed: of the draws; the same file, seed and scores give the same numbers.
        on_trial: called with trials done and wanted, this one's score and the best.

    Raises:
        InputError: `file` is of another search, or not a journal.
    """
    study = _open(file, identity)
    by_name = {str(knob): knob for knob in knobs}

    def objective(trial: optuna.Trial) -> float:
        numbers = {
            knob: trial.suggest_float(name, low, high, step=0.01) for name, knob in by_name.items()
        }
        value = score(numbers)
        trial.set_user_attr(_RAW, value)
        return value - regulariser * sum(map(abs, numbers.values())) / len(numbers)

    for start in starts:
        inside = {str(knob): min(high, max(low, round(n, 2))) for knob, n in start.items()}
        if not _has(study, inside):
            study.enqueue_trial(inside)
    for done in range(len(_finished(study)), trials):
        # a sampler of its own for each trial: a search gone on with draws what it would have drawn
        study.sampler = _sampler(seed + done)
        study.optimize(objective, n_trials=1)
        on_trial(done + 1, trials, _finished(study)[-1].user_attrs[_RAW], _best(study)[1])
    numbers, best = _best(study)
    return Found({by_name[name]: n for name, n in numbers.items()}, best, len(_finished(study)))


def _open(file: Path, identity: Mapping[str, object]) -> optuna.Study:
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    told = json.dumps(identity, sort_keys=True, default=str)
    name = hashlib.sha256(told.encode()).hexdigest()[:16]
    file.parent.mkdir(parents=True, exist_ok=True)
    _cut_torn_line(file)
    try:
        storage = JournalStorage(JournalFileBackend(str(file)))
        known = optuna.get_all_study_names(storage)
        if known and known != [name]:
            raise InputError(
                f"{printable(file)}: holds a search over other adapters, pictures or settings. "
                "Give another --out, or delete it."
            )
        return optuna.create_study(
            storage=storage, study_name=name, direction="maximize", load_if_exists=True
        )
    except (json.JSONDecodeError, KeyError, OSError) as error:
        raise InputError(
            f"{printable(file.name)}: is not a search's file ({printable(error)}). Give another "
            "--out."
        ) from None


def _cut_torn_line(file: Path) -> None:
    """Take away a last line that a killed search left unfinished; Optuna would trip over it."""
    if file.exists():
        written = file.read_bytes()
        whole = written.rpartition(b"\n")[0]
        if not written.endswith(b"\n"):
            file.write_bytes(whole + b"\n" if whole else b"")


def _sampler(seed: int) -> optuna.samplers.BaseSampler:
    import optuna

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(multivariate=True, n_startup_trials=_STARTUP, seed=seed)


def _has(study: optuna.Study, numbers: Mapping[str, float]) -> bool:
    """Whether those numbers were tried, or wait for it; a trial that was killed does not count."""
    from optuna.trial import TrialState

    states = (TrialState.COMPLETE, TrialState.WAITING)
    trials = study.get_trials(deepcopy=False, states=states)
    return any(numbers in (t.params, t.system_attrs.get("fixed_params")) for t in trials)


def _finished(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    from optuna.trial import TrialState

    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


def _best(study: optuna.Study) -> tuple[dict[str, float], float]:
    """The parameters and the score of the best trial, the regulariser counted."""
    best = study.best_trial
    return best.params, best.user_attrs[_RAW]
