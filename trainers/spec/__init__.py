"""`JobSpec`: everything a run needs, declared once, for command line, TOML file and form.

No torch here. Each field carries its help (`description`) and bounds; `--help`, the studio's form
and the error messages are made from them. A section is a file; `job` puts them together.
"""

from trainers.spec.adapter import MAX_RANK, AdapterSpec
from trainers.spec.course import PreviewSpec, SaveSpec, ScheduleSpec
from trainers.spec.data import DataSpec, SubsetSpec
from trainers.spec.job import DEFAULT_STEPS, SECTION_NAMES, JobSpec
from trainers.spec.model import ModelSpec
from trainers.spec.objective import ObjectiveSpec
from trainers.spec.optim import OPTIMIZER_DEFAULTS, OptimizerKind, OptimSpec
from trainers.spec.section import Section
from trainers.spec.tracking import TrackingSpec
from trainers.spec.validation import ValidationSpec

__all__ = [
    "DEFAULT_STEPS",
    "MAX_RANK",
    "OPTIMIZER_DEFAULTS",
    "SECTION_NAMES",
    "AdapterSpec",
    "DataSpec",
    "JobSpec",
    "ModelSpec",
    "ObjectiveSpec",
    "OptimSpec",
    "OptimizerKind",
    "PreviewSpec",
    "SaveSpec",
    "ScheduleSpec",
    "Section",
    "SubsetSpec",
    "TrackingSpec",
    "ValidationSpec",
]
