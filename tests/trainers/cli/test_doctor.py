"""`lora-diffusion doctor`: the fixed surface of its JSON, exit codes, and the machine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.trainers.data.corpus import encoded, noise
from trainers.cli.main import main
from trainers.machine import examine


def test_json_has_its_fixed_fields_and_errors_exit_2(tmp_path, capsys):
    folder = tmp_path / "d"
    folder.mkdir()
    (folder / "good.png").write_bytes(encoded(noise(1, 600, 600), "PNG"))
    (folder / "bad\x1b[31m.png").write_bytes(b"no")
    assert main(["doctor", str(folder), "--json"]) == 2
    told = json.loads(capsys.readouterr().out)
    assert told["files"] == 2
    assert told["counts"] == {"error": 1, "warning": 0, "note": 1}
    assert set(told["problems"][0]) == {"file", "severity", "kind", "cause", "fix"}
    assert told["problems"][0]["file"] == "bad[31m.png"
    assert told["kinds"] == {"unreadable-picture": 1, "no-captions": 1}
    (folder / "bad\x1b[31m.png").unlink()
    assert main(["doctor", str(folder), "--json"]) == 0


def test_words_and_a_fixed_copy(tmp_path, capsys):
    folder = tmp_path / "d"
    folder.mkdir()
    (folder / "a.png").write_bytes(encoded(noise(1, 64, 64), "PNG"))
    (folder / "cut.png").write_bytes(encoded(noise(2), "PNG")[:90])
    out = tmp_path / "out"
    options = ["--resolution", "64", "--trigger", "sks"]
    assert main(["doctor", str(folder), "--fix", str(out), *options]) == 2
    text = capsys.readouterr().out
    assert "error   cut.png: can't be decoded (it is cut off)." in text
    assert "2 pictures: 1 error, 1 note" in text
    assert f"{out}: 1 pictures written" in text
    assert main(["doctor", str(out), *options]) == 0


def test_a_file_of_settings_is_looked_at_as_it_would_be_trained(tmp_path, capsys):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.png").write_bytes(encoded(noise(1, 64, 64), "PNG"))
    spec = tmp_path / "spec.toml"
    spec.write_text(
        f"[data]\nresolution_px = 64\n[[data.subsets]]\nfolder = '{tmp_path / 'a'}'\nrepeats = 3\n"
    )
    assert main(["doctor", str(spec), "--json"]) == 2
    problems = json.loads(capsys.readouterr().out)["problems"]
    assert [(p["file"], p["kind"]) for p in problems if p["severity"] == "error"] == [
        ("a/x.png", "no-caption")
    ]


@pytest.mark.parametrize("arguments", [[], ["/no/such/folder"]])
def test_nothing_to_look_at(arguments, capsys):
    assert main(["doctor", *arguments]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_the_machine(capsys):
    code = main(["doctor", "--system", "--json"])
    findings = json.loads(capsys.readouterr().out)["findings"]
    names = {finding["name"] for finding in findings}
    assert {"python", "torch", "memory", "disk", "xformers", "bitsandbytes"} <= names
    assert code == (2 if any(f["severity"] == "error" for f in findings) else 0)
    assert all(finding["fix"] for finding in findings if finding["severity"] != "ok")


def test_a_cpu_build_beside_a_gpu_is_an_error(monkeypatch, capsys):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(examine, "_has_nvidia", lambda: True)
    assert main(["doctor", "--system"]) == 2
    assert "This torch is built for the CPU" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("capability", "built", "runs"),
    [
        ((8, 6), ["sm_80", "sm_90"], True),
        ((8, 0), ["sm_86"], False),
        ((12, 0), ["sm_80", "sm_90"], False),
        ((12, 0), ["sm_80", "compute_90"], True),
        ((9, 0), ["sm_90a"], True),
    ],
)
def test_which_gpus_a_build_has_code_for(capability, built, runs):
    assert examine._runs_on(*capability, built) is runs


def test_little_disk_is_told(monkeypatch):
    usage = examine.shutil.disk_usage(Path())
    monkeypatch.setattr(examine.shutil, "disk_usage", lambda folder: usage._replace(free=10**9))
    disk = next(f for f in examine.examine_machine() if f.name == "disk")
    assert disk.severity == "warning"
