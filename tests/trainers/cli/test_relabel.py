"""`lora-diffusion relabel` on the command line."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from lora_diffusion.formats.header import read_header
from trainers.cli.main import main


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "a.safetensors"
    metadata = {"ss_dataset_dirs": "{}", "modelspec.title": "cat"}
    save_file({"t": np.ones((2, 2), np.float16)}, path, metadata=metadata)
    return path


def test_set_remove_and_clean(file, tmp_path, capsys):
    out = tmp_path / "b.safetensors"
    words = ["--set", "modelspec.license=CC0 = free", "--remove", "ss_dataset_dirs", "--json"]
    assert main(["relabel", str(file), "--out", str(out), *words]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["removed"] == ["ss_dataset_dirs"] and told["set"] == ["modelspec.license"]
    assert read_header(out).metadata == {
        "modelspec.license": "CC0 = free", "modelspec.title": "cat"
    }  # fmt: skip
    assert main(["relabel", str(file), "--out", str(out), "--clean", "--overwrite"]) == 0
    assert "1 removed, 0 set, 1 kept" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "Nothing would change"),
        (["--set", "title"], "write it as KEY=TEXT"),
        (["--remove", "gone"], "no such metadata key"),
    ],
)
def test_wrong_words_are_one_line(file, tmp_path, capsys, words, told):
    assert main(["relabel", str(file), "--out", str(tmp_path / "b.safetensors"), *words]) == 2
    err = capsys.readouterr().err
    assert told in err and err.count("\n") == 1
    assert not (tmp_path / "b.safetensors").exists()
