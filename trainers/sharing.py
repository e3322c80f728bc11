"""What a run has of its process: all of it here, part of it in a sweep (`sweep.sharing`)."""

from __future__ import annotations

from lora_diffusion.families import DiffusionBase
from lora_diffusion.injection import AdapterHandle
from trainers import setup
from trainers.data.prepare import Records
from trainers.machine.devices import Placement
from trainers.machine.team import ALONE, Team
from trainers.progress import Reporter
from trainers.spec import JobSpec
from trainers.teller import Teller


class Share:
    """The share of a run that is alone: a base of its own, and whatever it frees is freed.

    Attributes:
        name: of the run's adapter on the base.
        team: the processes that do the run together.
        records: what was encoded and is kept in memory.
        reporter: speaks to the person at the terminal.
    """

    name = "default"

    def __init__(self, team: Team = ALONE) -> None:
        self.team = team
        self.records: Records = {}
        self.reporter = Reporter(quiet=not team.is_main)

    def open_base(self, spec: JobSpec, placement: Placement, teller: Teller) -> DiffusionBase:
        """The base model where and how the settings want it."""
        return setup.open_base(spec, placement, teller.phase)

    def adapted(self, handle: AdapterHandle) -> None:
        """The run's adapter is on the base."""

    def free_vae_encoder(self, base: DiffusionBase) -> None:
        """The run needs no more pictures encoded."""
        base.free_vae_encoder()

    def free_text_encoders(self, base: DiffusionBase) -> None:
        """The run needs no more captions encoded."""
        base.free_text_encoders()
