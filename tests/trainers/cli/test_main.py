"""The command's frame: exit codes, one-line errors, what it imports."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys

import pytest

from lora_diffusion import __version__
from lora_diffusion.errors import InputError
from trainers.cli import main as frame
from trainers.cli.main import main
from trainers.cli.verb import Verb


def no_arguments(parser: argparse.ArgumentParser) -> None:
    del parser


def raising(error: BaseException) -> Verb:
    def run(arguments: argparse.Namespace) -> int:
        del arguments
        raise error

    return Verb("fail", "Fail.", no_arguments, run)


@pytest.mark.parametrize("argv", [[], ["no-such-verb"], ["inspect"], ["inspect", "a", "--nope"]])
def test_unusable_arguments(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(argv)
    assert stopped.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert "--help" in err


def test_input_errors_are_one_printable_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    error = InputError("first\nsecond \x1b[31mred\u202e" + "x" * 10_000)
    monkeypatch.setattr(frame, "VERBS", (raising(error),))
    assert main(["fail"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: first second [31mred")
    assert err.count("\n") == 1
    assert len(err) < 2_100
    assert err.rstrip("\n").isprintable()


def test_ctrl_c_and_our_own_defects(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frame, "VERBS", (raising(KeyboardInterrupt()),))
    assert main(["fail"]) == 130
    monkeypatch.setattr(frame, "VERBS", (raising(ZeroDivisionError()),))
    with pytest.raises(ZeroDivisionError):
        main(["fail"])


def test_a_verbs_exit_code_is_the_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frame, "VERBS", (Verb("go", "Go.", no_arguments, lambda _: 7),))
    assert main(["go"]) == 7


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    for flag, shown in (("--help", "inspect"), ("--version", __version__)):
        with pytest.raises(SystemExit) as stopped:
            main([flag])
        assert stopped.value.code == 0
        assert shown in capsys.readouterr().out


def test_a_closed_pipe_is_no_error() -> None:
    """As when the output goes to a reader that stops early."""
    code = (
        "import sys; from trainers.cli import main as f; from trainers.cli.verb import Verb\n"
        "f.VERBS = (Verb('go', 'Go.', lambda p: None, lambda a: print('x' * 1_000_000) or 0),)\n"
        "sys.exit(f.main(['go']))"
    )
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, "-c", code], stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    assert done.stderr == b""
    assert done.returncode == 0


def test_the_frame_needs_no_torch() -> None:
    code = "import sys, trainers.cli.main; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
