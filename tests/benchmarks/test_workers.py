"""Workers of the demo base's training end with the process that started them."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]
SCRIPT = """
import os, sys, time
from pathlib import Path
from assets.demo_making.workers import run_workers

def work(rank, count, folder):
    (Path(folder) / f"{rank}").write_text(str(os.getpid()))
    time.sleep(120)

if __name__ == "__main__":
    run_workers(work, 2, sys.argv[1])
"""


def test_workers_end_with_their_parent(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT, encoding="utf-8")
    parent = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path)],
        env={"PYTHONPATH": str(ROOT), "PATH": "", "OMP_NUM_THREADS": "1"},
        stderr=subprocess.DEVNULL,
    )
    try:
        _until(lambda: all((tmp_path / name).exists() for name in "01"), 40)
        time.sleep(0.2)
        workers = [int((tmp_path / name).read_text()) for name in "01"]
        assert all(psutil.pid_exists(pid) for pid in workers)
    finally:
        parent.kill()  # what no handler in the parent can answer
        parent.wait(20)
    _until(lambda: not any(_runs(pid) for pid in workers), 10)


def _runs(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def _until(ready: object, seconds: float) -> None:
    assert callable(ready)
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, "took too long"
        time.sleep(0.1)
