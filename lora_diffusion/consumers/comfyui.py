"""ComfyUI's *Load LoRA* node. No torch."""

from __future__ import annotations

from lora_diffusion.consumers import comfy_lora
from lora_diffusion.consumers.report import Reading, Report
from lora_diffusion.consumers.target import Target
from lora_diffusion.consumers.view import FileView

NAME = "comfyui"


def read(view: FileView, target: Target) -> Report:
    """What ComfyUI takes of the file."""
    reading = Reading(NAME, view)
    comfy_lora.apply(reading, view, target)
    return reading.report()
