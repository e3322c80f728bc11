"""`lora-diffusion caption`: flags, help, exit codes, and a kill in the middle of each captioner."""

from __future__ import annotations

import json
import multiprocessing
import time
from pathlib import Path

import pytest

from tests.trainers.data.captioners.plugins import install
from tests.trainers.data.captioners.shots import fill
from tests.trainers.data.captioners.tiny_models import MODELS
from trainers.cli.main import main
from trainers.data.scan import scan

PICTURES = 24
SETTINGS = {
    "blip": ["--max-tokens", "8", "--min-tokens", "2", "--beams", "1"],
    "florence2": ["--max-tokens", "8", "--beams", "1"],
    "llava": ["--max-tokens", "8", "--style", "tags"],
    "wd14": ["--general-threshold", "0.01", "--rating"],
    "template": ["--template", "{trigger} {stem}"],
}


@pytest.fixture(scope="module")
def processes() -> multiprocessing.context.ForkServerContext:
    """Processes that are born with the libraries imported, as that takes most of a run's time."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        [
            "trainers.cli.main",
            "trainers.data.captioners.folder",
            "trainers.data.captioners.transformers_model",
            "transformers.models.blip.modeling_blip",
            "transformers.models.florence2.modeling_florence2",
            "transformers.models.llava.modeling_llava",
            "onnxruntime",
        ]
    )
    return context


def captions(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.txt"))}


@pytest.mark.parametrize("name", SETTINGS)
def test_killed_and_resumed(name, tmp_path, processes, capsys):
    pictures = tmp_path / "pictures"
    fill(pictures, PICTURES)
    command = ["caption", str(pictures), "--with", name, "--trigger", "sks", "--device", "cpu"]
    command += [*SETTINGS[name], "--batch", "1"]
    if name in MODELS:
        MODELS[name](tmp_path / "model")
        command += ["--model", str(tmp_path / "model")]

    process = processes.Process(target=main, args=(command,))
    process.start()
    deadline = time.monotonic() + 300
    while len(captions(pictures)) < 3 and process.is_alive() and time.monotonic() < deadline:
        time.sleep(0.001)
    process.kill()
    process.join()
    assert process.exitcode == -9
    done = captions(pictures)
    assert 3 <= len(done) < PICTURES
    assert all(content.endswith(b"\n") for content in done.values())

    assert main([*command, "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["kept_human"] == 0
    assert summary["kept_machine"] == len(done)
    assert summary["written"] == PICTURES - len(done)
    assert (summary["left"], summary["failed"]) == (0, [])
    after = captions(pictures)
    assert after == {**after, **done}, "what was done before the kill was done again"
    found = scan(pictures, default_caption=None)
    assert [p.caption for p in found] == [text.decode().rstrip("\n") for text in after.values()]
    assert all("sks" in p.caption for p in found)
    assert len({p.caption for p in found}) > 2
    assert not list(pictures.glob("*.tmp")) + list(pictures.glob("*.lock"))


def test_ctrl_c_saves_what_is_done(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(tmp_path))
    act = "import os, signal; os.kill(os.getpid(), signal.SIGINT)"
    install(tmp_path, "interrupted_greeter", "interrupted", act=act)
    fill(tmp_path / "p", 5)
    command = ["caption", str(tmp_path / "p"), "--with", "interrupted", "--batch", "2", "--json"]
    for left in (3, 1):
        assert main(command) == 130
        summary = json.loads(capsys.readouterr().out)
        assert (summary["written"], summary["left"]) == (2, left)
    assert len(captions(tmp_path / "p")) == 4


def test_unreadable_pictures_are_named_and_only_their_all_is_an_error(tmp_path, capsys):
    fill(tmp_path, 2)
    (tmp_path / "000.png").write_bytes(b"no picture")
    command = ["caption", str(tmp_path), "--with", "template", "--template", "a {width} px thing"]
    assert main(command) == 0
    out, err = capsys.readouterr()
    assert out == "2 pictures: 1 captions written, 1 failed.\n"
    assert "not captioned: " in err
    assert "000.png" in err
    assert main(command) == 2
    out, _ = capsys.readouterr()
    assert "0 captions written, 1 failed; kept: 1 written by a machine (--redo" in out
    (tmp_path / "000.png").unlink()
    assert main([*command, "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary == {
        "folder": str(tmp_path),
        "with": "template",
        "pictures": 1,
        "written": 0,
        "kept_human": 0,
        "kept_machine": 1,
        "failed": [],
        "left": 0,
        "seconds": summary["seconds"],
    }


def test_settings_come_from_the_captioners_own_flags(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(tmp_path))
    install(tmp_path, "flag_greeter", "greeter")
    fill(tmp_path / "p", 1)
    command = ["caption", str(tmp_path / "p"), "--with=greeter", "--greeting", "hi", "--times", "2"]
    command += ["--tags", "a b, c,", "--loud", "--prefix", "so: ", "--suffix", "!"]
    assert main([*command, "--ending", ".caption"]) == 0
    assert (tmp_path / "p" / "000.caption").read_text() == "so: HI HI A B C 000.png!\n"
    assert "1 of 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--with", "nope"], "There is no captioner 'nope'"),
        (["--with", "wd15"], "Did you mean 'wd14'?"),
        (["--with", "wd14", "--general-threshold", "2"], "--general-threshold 2: must be less"),
        (["--with", "wd14", "--max-tags", "x"], "--max-tags x: must be a valid integer"),
        (["--with", "llava", "--style", "poem"], "--style poem: must be 'descriptive'"),
        (["--with", "template", "--template", "{x}"], "has no field {x}"),
        (["--with", "template", "--model", "x"], "unrecognized arguments: --model"),
        (["--with", "template", "--batch", "0"], "--batch must be at least 1"),
        (["--with", "template"], "no trigger is given"),
        (["--with", "blip", "--model", "/no/such"], "neither a folder here nor a hub id"),
        (["--with"], "--with: expected one argument"),
        ([], "caption FOLDER --with NAME"),
    ],
)
def test_wrong_settings_are_one_line(words, problem, tmp_path, capsys):
    fill(tmp_path, 1)
    try:
        code = main(["caption", str(tmp_path), *words])
    except SystemExit as stopped:
        code = stopped.code
    assert code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert problem in err
    assert [path.name for path in tmp_path.iterdir()] == ["000.png"], "something is left behind"


def test_a_folder_that_is_not_there(tmp_path, capsys):
    command = ["--with", "template", "--template", "x"]
    assert main(["caption", str(tmp_path / "none"), *command]) == 2
    assert "no such folder" in capsys.readouterr().err
    assert main(["caption", str(tmp_path), *command]) == 2
    assert "has no pictures" in capsys.readouterr().err


@pytest.mark.parametrize("name", SETTINGS)
def test_help_lists_the_settings(name, capsys):
    from trainers.data.captioners import registry

    with pytest.raises(SystemExit) as stopped:
        main(["caption", "--with", name, "--help"])
    assert stopped.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "--overwrite" in shown
    for setting in registry.find(name).settings.model_fields:
        assert f"--{setting.replace('_', '-')}" in shown


def test_a_plugin_may_not_take_an_option_of_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(tmp_path))
    module = install(tmp_path, "clashing_greeter", "clashing")
    module.write_text(module.read_text().replace("times: int", "batch: int"))
    assert main(["caption", str(tmp_path), "--with", "clashing"]) == 2
    assert "the setting 'batch' has the name of an option" in capsys.readouterr().err


def test_drafts_go_into_one_file(tmp_path, capsys):
    data = tmp_path / "data"
    data.mkdir()
    fill(data, 2)
    before = sorted(data.rglob("*"))
    drafts = tmp_path / "drafts.jsonl"
    words = ["--with", "template", "--template", "{name}", "--drafts", str(drafts), "--json"]
    assert main(["caption", str(data), *words]) == 0
    assert json.loads(capsys.readouterr().out)["drafts"] == str(drafts)
    assert sorted(data.rglob("*")) == before
    first, *rest = [json.loads(line) for line in drafts.read_text().splitlines()]
    assert (first["with"], first["pictures"]) == ("template", 2)
    assert [row["caption"] for row in rest] == ["000.png", "001.png"]
    assert main(["caption", str(data), *words[:-2], str(tmp_path / "no" / "such")]) == 2
    assert "drafts can't be written" in capsys.readouterr().err


def test_the_list_names_every_captioner_and_its_settings(capsys):
    assert main(["caption", "--list", "--json"]) == 0
    found = {each["name"]: each for each in json.loads(capsys.readouterr().out)["captioners"]}
    assert {"blip", "florence2", "llava", "template", "wd14"} <= found.keys()
    assert "general_threshold" in found["wd14"]["settings"]["properties"]
    assert main(["caption", "--list"]) == 0
    assert "template" in capsys.readouterr().out
