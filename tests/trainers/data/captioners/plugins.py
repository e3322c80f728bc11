"""Installed plug-in packages, as the packaging tools would leave them."""

from __future__ import annotations

from pathlib import Path

_WORKING = """
from pydantic import Field
from trainers.data.captioners.plugin import Plugin
from trainers.spec import Section

class Settings(Section):
    greeting: str = Field("hello", description="What it says.")
    times: int = Field(1, ge=1, le=3, description="How often.")
    tags: tuple[str, ...] = Field((), description="Said after it.")
    loud: bool = Field(False, description="In capitals.")

class Captioner:
    model = "made here"
    def __init__(self, settings):
        self.settings = settings
    def caption(self, shots):
        {act}
        said = " ".join([self.settings.greeting] * self.settings.times + list(self.settings.tags))
        return [(said.upper() if self.settings.loud else said) + " " + s.name for s in shots]

PLUGIN = Plugin("Says hello.", Settings, lambda settings, context: Captioner(settings))
"""


def install(root: Path, package: str, captioner: str, *, act: str = "pass") -> Path:
    """A package under `root` that adds `captioner`; `act` is what it does at every call.

    Returns the package's module file, to be changed.
    """
    module = root / f"{package}.py"
    module.write_text(_WORKING.replace("{act}", act))
    info = root / f"{package}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        f"[lora_diffusion.captioners]\n{captioner} = {package}:PLUGIN\n"
    )
    return module
