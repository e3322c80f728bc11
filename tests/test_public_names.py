"""The package's public names, in any order of import, and the README's library example."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import lora_diffusion

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("first", ["", "import trainers.run", "import lora_diffusion.families"])
def test_names_are_what_they_say_whatever_was_imported_before(first):
    names = ", ".join(lora_diffusion.__all__)
    code = (
        f"{first}\nimport types\nfrom lora_diffusion import {names}\n"
        f"assert not [v for v in ({names}) if isinstance(v, types.ModuleType)]"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_no_public_name_is_also_a_module():
    modules = {path.stem for path in Path(lora_diffusion.__file__).parent.iterdir()}
    assert not modules & set(lora_diffusion.__all__)


def test_the_readmes_library_example_runs(tmp_path):
    section = (ROOT / "README.md").read_text(encoding="utf-8").split("## As a library")[1]
    example = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    assert example is not None
    done = subprocess.run(
        [sys.executable, "-c", example[1]],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "PATH": ""},
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "mine.safetensors").exists()
