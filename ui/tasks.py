"""Long jobs of the studio: a `lora-diffusion` verb in a process of its own.

The studio never imports torch. What needs it runs as `python -m trainers.cli VERB … --json`: the
words on its standard error are the progress, its standard output is the result, exit code 2 is one
sentence for the user.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from lora_diffusion.errors import InputError, printable

_CHECKOUT = Path(__file__).resolve().parent.parent
_MAX_KEPT = 200
_MAX_RESULT_BYTES = 64_000_000
_GRACE_SECONDS = 5.0
_COMPLAINT = "error: "
_COUNTED = re.compile(r"(\d[\d,]*) ?(?:of|/) ?(\d[\d,]*)")
_PERCENT = re.compile(r"(\d{1,3}) ?%")

State = Literal["running", "done", "failed", "cancelled"]


@dataclass
class Task:
    """One verb at work. `share` is in 0..1, None where it can't be told."""

    id: str
    title: str
    state: State = "running"
    text: str = ""
    share: float | None = None
    result: dict[str, Any] = field(default_factory=dict)
    error: str = ""

    def as_json(self) -> dict[str, Any]:
        """What a page is told about it."""
        return {
            "task": self.id,
            "title": self.title,
            "state": self.state,
            "text": self.text,
            "share": self.share,
            "result": self.result,
            "error": self.error,
        }


class Tasks:
    """The studio's running and newest finished tasks, by an id that nobody can guess."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tasks: OrderedDict[str, Task] = OrderedDict()
        self._processes: dict[str, subprocess.Popen[str]] = {}

    def start(self, title: str, words: Sequence[str]) -> Task:
        """Run `lora-diffusion WORDS`; the caller adds `--json` where there is a result to read.

        Raises:
            InputError: the process can't be started.
        """
        task = Task(secrets.token_urlsafe(12), title)
        out = tempfile.TemporaryFile("w+b")  # noqa: SIM115  closed by the thread that follows it
        try:
            process = subprocess.Popen(
                [sys.executable, "-m", "trainers.cli", *words],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.PIPE,
                text=True,
                encoding="utf-8",
                errors="replace",
                cwd=_CHECKOUT,
                start_new_session=True,
                env={**os.environ, "PYTHONUTF8": "1"},
            )
        except OSError as error:
            out.close()
            reason = printable(error.strerror or error)
            raise InputError(f"{title}: the process can't be started ({reason}).") from None
        with self._lock:
            self._tasks[task.id] = task
            self._processes[task.id] = process
            for old in [i for i, t in self._tasks.items() if t.state != "running"]:
                if len(self._tasks) <= _MAX_KEPT:
                    break
                del self._tasks[old]
        threading.Thread(target=self._follow, args=(task, process, out), daemon=True).start()
        return task

    def get(self, name: object) -> Task:
        """A task by its id.

        Raises:
            InputError: there is none; the studio was started anew.
        """
        task = self._tasks.get(name) if isinstance(name, str) else None
        if task is None:
            raise InputError("That job is gone. Start it again.")
        return task

    def cancel(self, name: object) -> None:
        """Interrupt a running task as Ctrl-C does; one that does not end is killed."""
        task = self.get(name)
        process = self._processes.get(task.id)
        if process is None or process.poll() is not None:
            return
        task.state = "cancelled"
        _signal(process, signal.SIGINT)
        timer = threading.Timer(_GRACE_SECONDS, _signal, (process, signal.SIGKILL))
        timer.daemon = True
        timer.start()

    def close(self) -> None:
        """End whatever still runs."""
        for process in list(self._processes.values()):
            _signal(process, signal.SIGKILL)

    def _follow(self, task: Task, process: subprocess.Popen[str], out: Any) -> None:
        spoken: deque[str] = deque(maxlen=20)
        assert process.stderr is not None
        for line in process.stderr:
            said = printable(line.rpartition("\r")[2].strip(), 500)
            if said:
                spoken.append(said)
                task.text = said.removeprefix(_COMPLAINT)
                task.share = _share(said)
        code = process.wait()
        with out:
            out.seek(0)
            written = out.read(_MAX_RESULT_BYTES).decode("utf-8", "replace")
        with self._lock:
            self._processes.pop(task.id, None)
        if task.state == "cancelled":
            return
        try:
            result = json.loads(written) if written.lstrip().startswith("{") else {}
        except json.JSONDecodeError:
            result = {}
        # code 2 with a result and no complaint is a verdict: a dataset with errors, say
        is_verdict = code == 2 and result and not any(s.startswith(_COMPLAINT) for s in spoken)
        if code != 0 and not is_verdict:
            task.error = _reason(code, list(spoken))
            task.state = "failed"
            return
        task.result = result if isinstance(result, dict) else {}
        task.share = 1.0
        task.state = "done"


def _share(said: str) -> float | None:
    counted = _COUNTED.search(said)
    if counted is None:
        percent = _PERCENT.search(said)
        return min(1.0, int(percent[1]) / 100) if percent else None
    done, total = (int(number.replace(",", "")) for number in counted.groups())
    return min(1.0, done / total) if total else None


def _reason(code: int, spoken: Sequence[str]) -> str:
    """The verb's own sentence; the last words of one that broke."""
    for line in reversed(spoken):
        if line.startswith(_COMPLAINT):
            return line.removeprefix(_COMPLAINT)
    last = spoken[-1].rstrip(".") if spoken else "it gave no reason"
    return f"The job ended by our own defect (code {code}): {last}."


def _signal(process: subprocess.Popen[str], number: signal.Signals) -> None:
    with contextlib.suppress(OSError):
        if os.name == "posix":
            os.killpg(process.pid, number)
        elif number is signal.SIGINT:
            process.terminate()
        else:
            process.kill()
