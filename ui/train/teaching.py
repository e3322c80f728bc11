"""What one is teaching, to which kind of base: the two halves of a preset's name."""

from __future__ import annotations

from typing import Any

from lora_diffusion.errors import InputError
from lora_diffusion.families.outline import outline
from trainers import layering
from trainers.layering import read_preset
from ui import models

# The second half of a preset's name, and what it is called.
SUBJECTS = (
    ("character", "A character or object"),
    ("style", "A style"),
    ("low-vram", "Either, in little memory"),
)
# The first half, in the order in which they are offered.
FAMILIES = (
    ("demo", "Demo base"),
    ("sd15", "SD 1.5"),
    ("sd21", "SD 2.1"),
    ("sdxl", "SDXL"),
    ("illustrious", "Illustrious"),
    ("noobai", "NoobAI"),
    ("pony", "Pony"),
)
# Bases of SDXL's architecture that want settings of their own say so in their names.
_NAMED = (("noob", "noobai"), ("illustrious", "illustrious"), ("ilxl", "illustrious"),
          ("pony", "pony"))  # fmt: skip


def choices() -> dict[str, Any]:
    """`{subjects, families, presets}` as the page shows them."""
    return {
        "subjects": [list(pair) for pair in SUBJECTS],
        "families": [list(pair) for pair in FAMILIES],
        "presets": layering.preset_names(),
    }


def family_of(base: str) -> str:
    """The family whose presets suit a base; "" where that can't be told."""
    location = base.strip()
    if not location:
        return ""
    if location == models.DEMO_BASE:
        return "demo"
    name = location.replace("\\", "/").rstrip("/").rpartition("/")[2].lower()
    for word, family in _NAMED:
        if word in name:
            return family
    for family, _ in FAMILIES:
        if family != "demo" and read_preset(f"{family}-style")["model"]["base"] == location:
            return family
    try:
        arch = outline(location).arch
    except (InputError, OSError):
        return ""
    return arch if any(arch == family for family, _ in FAMILIES) else ""
