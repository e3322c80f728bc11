"""What the studio may use needs no torch: importing it is quick, and a GPU crash can't reach it."""

from __future__ import annotations

import subprocess
import sys

import pytest

TORCH_FREE = [
    "lora_diffusion",
    "lora_diffusion.bundled",
    "lora_diffusion.targets",
    "lora_diffusion.formats",
    "lora_diffusion.formats.header",
    "lora_diffusion.formats.metadata",
    "lora_diffusion.formats.hash",
    "lora_diffusion.formats.relabel",
    "lora_diffusion.base_layers",
    "lora_diffusion.composition.folder",
    "lora_diffusion.composition.prompt_tags",
    "lora_diffusion.composition.weights",
    "lora_diffusion.analyse.results",
    "lora_diffusion.analyse.pictures",
    "trainers.library.index",
    "trainers.library.again",
    "trainers.grid.axes",
    "trainers.grid.sheet",
    "lora_diffusion.consumers",
    "trainers.spec",
    "trainers.layering",
    "trainers.events",
    "trainers.jobs",
    "trainers.planner.plan",
    "trainers.planner.estimate",
    "trainers.planner.savings",
    "trainers.planner.probe",
    "lora_diffusion.families.outline",
    "trainers.dreambooth_lora",
    "trainers.cli.main",
    "trainers.data.scan",
    "trainers.data.captions",
    "trainers.data.source",
    "trainers.data.shards",
    "trainers.data.captioners.registry",
    "trainers.data.captioners.journal",
    "trainers.data.captioners.keeping",
    "trainers.data.captioners.folder",
    "trainers.data.captioners.blip",
    "trainers.data.captioners.florence2",
    "trainers.data.captioners.llava",
    "trainers.data.captioners.template",
    "trainers.data.captioners.wd14",
    "trainers.data.buckets",
    "trainers.data.bucket_settings",
    "trainers.data.caption_choice",
    "trainers.data.decode",
    "trainers.data.archive",
    "trainers.data.caption_edits",
    "trainers.data.caption_targets",
    "trainers.data.changes",
    "trainers.data.intake",
    "trainers.data.mends",
    "trainers.data.picture_edits",
    "trainers.data.doctor",
    "trainers.data.fixes",
    "trainers.machine.examine",
]


@pytest.mark.parametrize("module", TORCH_FREE)
def test_importing_it_loads_no_torch(module):
    code = (
        f"import sys, {module}; heavy = {{'torch', 'diffusers', 'transformers'}}; "
        "sys.exit(', '.join(sorted(heavy & set(sys.modules))) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, f"{module} imports {done.stderr.strip()}"


def test_help_is_torch_free_and_names_every_section():
    from trainers.spec import JobSpec

    code = (
        "import sys; from trainers.dreambooth_lora import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for section in JobSpec.model_fields:
        assert f"--{section}." in done.stdout
