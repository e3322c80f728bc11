"""The header's line about the machine."""

from __future__ import annotations

import re
import subprocess
import threading

import pytest

from ui import hardware
from ui.hardware import Hardware, gpu_line


@pytest.mark.parametrize(
    ("told", "shown"),
    [
        ("NVIDIA GeForce RTX 4070, 7577, 12282\n", "RTX 4070 · 7.4 of 12 GB"),
        ("NVIDIA H100 80GB HBM3, 0, 81559\nNVIDIA H100, 1, 2", "H100 80GB HBM3 · 0.0 of 80 GB"),
        ("NVIDIA Jetson, [N/A], [N/A]", ""),
        ("No devices were found", ""),
        ("", ""),
    ],
)
def test_the_drivers_line(told: str, shown: str) -> None:
    assert gpu_line(told) == shown


def test_a_page_never_waits_for_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    answered = threading.Event()

    def slow(*_: object, **__: object) -> subprocess.CompletedProcess[str]:
        answered.wait(5)
        return subprocess.CompletedProcess([], 0, "NVIDIA GeForce RTX 4070, 1024, 12288")

    monkeypatch.setattr(hardware.shutil, "which", lambda _: "/usr/bin/nvidia-smi")
    monkeypatch.setattr(hardware.subprocess, "run", slow)
    machine = Hardware()
    assert machine.line() == ""
    answered.set()
    for _ in range(100):
        if machine.line():
            break
        threading.Event().wait(0.02)
    assert machine.line() == "RTX 4070 · 1.0 of 12 GB"


def test_without_a_gpu_it_is_the_computers_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware.shutil, "which", lambda _: None)
    assert re.fullmatch(r"CPU · \d+\.\d of \d+ GB", Hardware().line())
