"""The share of its process that each run of a sweep has, beside the others.

Runs that share a process take turns at one frozen base. Each has an adapter of its own on it, an
optimizer, and its files; pictures and captions that several of them use are encoded once.
"""

from __future__ import annotations

from collections.abc import Sequence

from lora_diffusion.families import DiffusionBase
from lora_diffusion.injection import AdapterHandle
from trainers import setup
from trainers.data.prepare import Records
from trainers.machine.devices import Placement
from trainers.machine.team import ALONE
from trainers.progress import Reporter
from trainers.sharing import Share
from trainers.spec import JobSpec
from trainers.teller import Teller


class Together:
    """One base, and the adapters of several runs on it, of which one acts at a time.

    Args:
        specs: of all runs; their `model` sections are equal.
    """

    def __init__(self, specs: Sequence[JobSpec]) -> None:
        self.records: Records = {}
        self.frees_vae_encoder = all(spec.data.cache != "off" for spec in specs)
        self.frees_text_encoders = all(
            spec.data.cache != "off" and not spec.trains_text for spec in specs
        )
        self._base: DiffusionBase | None = None
        self._handles: dict[str, AdapterHandle] = {}

    def base(self, spec: JobSpec, placement: Placement, teller: Teller) -> DiffusionBase:
        """The base that all share, opened by the first that asks."""
        if self._base is None:
            self._base = setup.open_base(spec, placement, teller.phase)
        return self._base

    def put(self, name: str, handle: AdapterHandle) -> None:
        self._handles[name] = handle

    def turn_to(self, name: str) -> None:
        """Let the adapter of one run act, and no other."""
        for other, handle in self._handles.items():
            handle.enabled = other == name

    def leave(self, name: str) -> None:
        """A run is over: take its adapter off the base."""
        handle = self._handles.pop(name, None)
        if handle is not None:
            handle.remove()


class SweepShare(Share):
    """The share of one run of a sweep."""

    def __init__(self, name: str, together: Together) -> None:
        self.name = name
        self.team = ALONE
        self.records = together.records
        self.reporter = Reporter(prefix=f"{name}: ")
        self._together = together

    def open_base(self, spec: JobSpec, placement: Placement, teller: Teller) -> DiffusionBase:
        return self._together.base(spec, placement, teller)

    def adapted(self, handle: AdapterHandle) -> None:
        self._together.put(self.name, handle)

    def free_vae_encoder(self, base: DiffusionBase) -> None:
        if self._together.frees_vae_encoder:
            base.free_vae_encoder()

    def free_text_encoders(self, base: DiffusionBase) -> None:
        if self._together.frees_text_encoders:
            base.free_text_encoders()
