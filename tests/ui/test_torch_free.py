"""The studio lives without torch: it must open fast, and outlive a trainer's crash."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]
_HEAVY = ("torch", "diffusers", "transformers", "accelerate")


def test_building_the_whole_page_imports_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys, json, pathlib\n"
        "import app\n"
        "from ui.context import open_context\n"
        "from ui.gate.security import Access\n"
        "from ui.server import secured\n"
        f"secured(open_context(pathlib.Path({str(tmp_path)!r}), None), Access('127.0.0.1', 1))\n"
        "print(json.dumps(sorted(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=_ROOT, capture_output=True, text=True, check=True
    )
    loaded = set(json.loads(done.stdout.splitlines()[-1]))
    assert "ui.studio" in loaded and "gradio" in loaded
    assert not loaded & set(_HEAVY)


def test_options_are_checked_before_gradio_is_imported() -> None:
    code = (
        "import sys, app\n"
        "code = app.main(['--host', '0.0.0.0'])\n"
        "print(code, 'gradio' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=_ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["2", "False"]
