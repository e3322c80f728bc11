"""The most common mistakes in settings, through the real command.

Each ends with exit code 2 and one line that names the setting or the file, the cause and the fix;
no traceback, and nothing is written.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lora_diffusion.files import write_text
from trainers import dreambooth_lora
from trainers.events import read_events
from trainers.layering import build_spec, to_toml

Given = list[str]

# name: (options, words of the message). {root} is a folder with the files that `place` makes.
SETTINGS: dict[str, tuple[Given, list[str]]] = {
    # the command itself
    "no output_dir": (["--output_dir="], ["--output_dir"]),
    "output_dir without a value": (["--output_dir"], ["--output_dir has no value"]),
    "unknown preset": (["--preset", "sd15-stlye"], ["sd15-stlye", "sd15-style"]),
    "unknown option": (["--optim.lr", "1"], ["--optim.lr", "--optim.lr_unet"]),
    "misspelt option": (["--adapter.rnak", "4"], ["--adapter.rnak", "--adapter.rank"]),
    "unknown section": (["--adaptor.rank", "4"], ["--adaptor.rank", "--adapter.rank"]),
    "option of our own misspelt": (["--ouput_dir", "x"], ["--ouput_dir", "--output_dir"]),
    "value without an option": (["pictures"], ["pictures"]),
    "run with a preset": (["--run", "x", "--preset", "demo-style"], ["--run", "--preset"]),
    # the file of settings
    "config missing": (["--config", "{root}/gone.toml"], ["gone.toml", "Check the path"]),
    "config is a folder": (["--config", "{root}"], ["can't be read"]),
    "config is not TOML": (["--config", "{root}/broken.toml"], ["broken.toml", "line 2"]),
    "config is not UTF-8": (["--config", "{root}/latin.toml"], ["latin.toml", "UTF-8"]),
    "unknown field in it": (["--config", "{root}/field.toml"], ["adapter.rnk", "adapter.rank"]),
    "unknown section in it": (["--config", "{root}/section.toml"], ["adaptr", "adapter"]),
    "field outside a section": (["--config", "{root}/outside.toml"], ["rank", "adapter.rank"]),
    # numbers
    "rank 0": (["--adapter.rank", "0"], ["adapter.rank = '0'", "greater than or equal to 1"]),
    "rank negative": (["--adapter.rank", "-4"], ["adapter.rank = '-4'"]),
    "rank in words": (["--adapter.rank", "high"], ["adapter.rank", "integer"]),
    "rank too high": (["--adapter.rank", "99999"], ["adapter.rank", "1024"]),
    "rank with a fraction": (["--adapter.rank", "4.5"], ["adapter.rank", "integer"]),
    "alpha 0": (["--adapter.alpha", "0"], ["adapter.alpha", "greater than 0"]),
    "rate negative": (["--optim.lr_unet=-1e-4"], ["optim.lr_unet", "greater than or equal"]),
    "negative after a space": (["--optim.lr_unet", "-1e-4"], ["optim.lr_unet=-1"]),
    "rate in words": (["--optim.lr_unet", "auto"], ["optim.lr_unet", "number"]),
    "rate too high": (["--optim.lr_unet", "10"], ["optim.lr_unet", "less than or equal to 1"]),
    "rate with a comma": (["--optim.lr_unet", "0,0001"], ["optim.lr_unet", "number"]),
    "all rates 0": (["--optim.lr_unet=0", "--optim.lr_text=0"], ["nothing is trained"]),
    "steps 0": (["--schedule.steps", "0"], ["schedule.steps"]),
    "steps negative": (["--schedule.steps", "-5"], ["schedule.steps"]),
    "epochs 0": (["--schedule.epochs", "0"], ["schedule.epochs"]),
    "batch 0": (["--schedule.batch_size", "0"], ["schedule.batch_size"]),
    "accumulate 0": (["--schedule.accumulate", "0"], ["schedule.accumulate"]),
    "seed negative": (["--schedule.seed", "-1"], ["schedule.seed"]),
    "warm-up as long as the run": (["--optim.lr_warmup_steps", "9"], ["lr_warmup_steps", "below"]),
    "clip 0": (["--optim.clip_norm", "0"], ["optim.clip_norm", "greater than 0"]),
    "average of 1": (["--optim.ema_decay", "1"], ["optim.ema_decay", "less than 1"]),
    "resolution no multiple of 8": (["--data.resolution_px", "500"], ["multiple of 8"]),
    "resolution too small": (["--data.resolution_px", "16"], ["data.resolution_px", "32"]),
    "share above 1": (["--data.caption_dropout", "5"], ["data.caption_dropout"]),
    "flip in percent": (["--data.flip", "50"], ["data.flip", "less than or equal to 1"]),
    "preview size": (["--preview.size_px", "100"], ["preview.size_px", "multiple of 8"]),
    "guidance negative": (["--preview.cfg", "-1"], ["preview.cfg"]),
    "yes or no": (["--data.buckets", "perhaps"], ["data.buckets", "boolean"]),
    # names
    "unknown optimizer": (["--optim.kind", "adam"], ["optim.kind", "'adamw'"]),
    "unknown schedule": (["--optim.lr_schedule", "cosin"], ["optim.lr_schedule", "'cosine'"]),
    "unknown kind": (["--adapter.kind", "oft"], ["adapter.kind", "'lora'"]),
    "unknown dtype": (["--save.dtype", "float16"], ["save.dtype", "'fp16'"]),
    "unknown precision": (["--model.precision", "fp8"], ["model.precision", "'bf16'"]),
    "unknown attention": (["--model.attention", "flash"], ["model.attention", "'sdpa'"]),
    "unknown sampler": (["--preview.sampler", "heun"], ["preview.sampler", "'euler'"]),
    "unknown tracker": (["--tracking.to", "mlflow"], ["tracking.to", "'wandb'"]),
    "a name with a folder": (["--save.name", "out/mine"], ["save.name", "plain file name"]),
    "empty trigger": (["--data.trigger", " "], ["data.trigger", "leave it out"]),
    "a table that is none": (["--adapter.ranks", "{"], ["adapter.ranks", "as JSON"]),
    # what does not go together
    "class pictures without prompts": (["--data.class_pictures", "9"], ["data.class_prompts"]),
    "keep_parts alone": (["--data.keep_parts", "1"], ["data.keep_parts", "data.shuffle_parts"]),
    "cache folder alone": (["--data.cache_folder", "x"], ["data.cache_folder", "data.cache disk"]),
    "DoRA's axis for LoRA": (["--adapter.dora_axis", "out"], ["adapter.dora_axis", "dora"]),
    "two weightings": (
        ["--objective.min_snr_gamma=5", "--objective.debiased=true"], ["min_snr_gamma", "one of"],
    ),
    "timesteps the wrong way round": (
        ["--objective.timestep_min=500", "--objective.timestep_max=400"], ["timestep_max (400)"],
    ),
    "Prodigy with two rates": (
        ["--optim.kind=prodigy", "--optim.lr_text=0.5"], ["prodigy", "the same value"],
    ),
    "schedule-free with a schedule": (
        ["--optim.kind=schedulefree", "--optim.lr_schedule=cosine"], ["constant"],
    ),
    "max-norm for DoRA": (["--adapter.kind=dora", "--optim.max_norm=1"], ["optim.max_norm"]),
    "compile with dropout": (
        ["--model.compile=true", "--adapter.rank_dropout=0.1"], ["model.compile", "rank_dropout"],
    ),
    "patience without measuring": (["--validation.patience", "3"], ["validation.every_steps"]),
    "a project without wandb": (["--tracking.project", "x"], ["tracking.project", "wandb"]),
    # files and folders
    "pictures missing": (["--data.folder", "{root}/gone"], ["gone", "data.folder"]),
    "pictures are a file": (["--data.folder", "{root}/a.png"], ["a.png", "folder"]),
    "pictures are none": (["--data.folder", "{root}/empty"], ["empty", "has no pictures"]),
    "bundled name unknown": (["--data.folder", "bundled:cat"], ["bundled:cat", "demo_character"]),
    "base missing": (["--model.base", "{root}/gone.safetensors"], ["gone.safetensors", "no such"]),
    "base of another architecture": (["--model.arch", "sdxl"], ["model.base", "sd15", "sdxl"]),
    "base is an address": (["--model.base", "https://x.org/a"], ["https://x.org/a", "hub id"]),
    "base empty": (["--model.base", ""], ["model.base is empty"]),
    "prompts file missing": (["--preview.prompts_file", "{root}/no.txt"], ["preview.prompts_file"]),
    "prompts file wrong": (["--preview.prompts_file", "{root}/p.txt"], ["p.txt, line 1", "--w"]),
    "validation folder missing": (
        ["--validation.every_steps=1", "--validation.folder={root}/gone"], ["validation.folder"],
    ),
    "adapter to start from missing": (
        ["--adapter.start_from", "{root}/gone.safetensors"], ["adapter.start_from", "gone"],
    ),
    "output_dir is a file": (["--output_dir", "{root}/a.png"], ["a.png", "is a file"]),
    "output_dir below a file": (["--output_dir", "{root}/a.png/x"], ["--output_dir"]),
    # the machine
    "fp16 on the CPU": (["--model.precision", "fp16"], ["model.precision", "bf16 or fp32"]),
    "xformers on the CPU": (["--model.attention", "xformers"], ["model.attention", "sdpa"]),
    "a device that is none": (["--model.device", "gpu"], ["model.device = gpu", "cpu"]),
}  # fmt: skip


@pytest.fixture(scope="module")
def root(world: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mistakes")
    settings = {"schedule": {"steps": 5}, "model": {"device": "cpu"}}
    write_text(folder / "good.toml", to_toml(build_spec([world, settings])))
    write_text(folder / "broken.toml", "[adapter]\nrank == 4\n")
    (folder / "latin.toml").write_bytes("[save]\nname = 'größe'\n".encode("latin-1"))
    write_text(folder / "field.toml", "[adapter]\nrnk = 4\n")
    write_text(folder / "section.toml", "[adaptr]\nrank = 4\n")
    write_text(folder / "outside.toml", "rank = 4\n")
    write_text(folder / "p.txt", "a --w 100\n")
    (folder / "empty").mkdir()
    Image.new("RGB", (64, 64)).save(folder / "a.png")
    return folder


def everything(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def arguments(root: Path, options: Given) -> Given:
    given = [option.replace("{root}", str(root)) for option in options]
    if not any(option.startswith("--run") for option in given):
        if "--config" not in given:
            given = ["--config", str(root / "good.toml"), *given]
        if not any(option.startswith("--output_dir") for option in given):
            given = ["--output_dir", str(root / "run"), *given]
    return given


def check(root: Path, options: Given, words: list[str], capsys: Any) -> None:
    before = everything(root)
    code = dreambooth_lora.main(arguments(root, options))
    said = capsys.readouterr()
    assert code == 2, said.err
    assert said.out == ""
    lines = said.err.splitlines()
    assert len(lines) == 1, said.err
    assert lines[0].startswith("error: ")
    for word in words:
        assert word in lines[0]
    assert everything(root) == before
    assert not (root / "run").exists()


def test_there_are_at_least_sixty():
    assert len(SETTINGS) >= 60


@pytest.mark.parametrize("mistake", SETTINGS)
def test_a_mistake_is_one_line_and_nothing_is_written(root, monkeypatch, capsys, mistake):
    monkeypatch.chdir(root)
    options, words = SETTINGS[mistake]
    check(root, options, words, capsys)


def test_a_full_disk(root, monkeypatch, capsys):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9, 5_000_000))
    check(root, [], ["5 MB free", "--output_dir"], capsys)


@pytest.mark.parametrize(
    ("module", "options", "words"),
    [
        ("bitsandbytes.optim", ["--optim.kind", "adamw8bit"], ["optim.kind", "[8bit]"]),
        ("wandb", ["--tracking.to", "wandb"], ["tracking.to", "[tracking]"]),
        ("torch.utils.tensorboard", ["--tracking.to", "tensorboard"], ["tracking.to"]),
    ],
)
def test_a_library_that_is_missing(root, monkeypatch, capsys, module, options, words):
    monkeypatch.setitem(sys.modules, module, None)
    check(root, options, words, capsys)


def test_a_folder_that_holds_a_run(root, tmp_path, capsys):
    write_text(tmp_path / "run/spec.toml", (root / "good.toml").read_text(encoding="utf-8"))
    line = '{"seq": 0, "at": 1.0, "kind": "step", "body": {"step": 1}}\n'
    write_text(tmp_path / "run/events.jsonl", line)
    before = {p.name for p in (tmp_path / "run").iterdir()}
    check(root, ["--output_dir", str(tmp_path / "run")], ["holds a run", "--resume"], capsys)
    assert {p.name for p in (tmp_path / "run").iterdir()} - before <= {".lock"}


def test_a_prepared_folder_is_told_by_an_event(root, tmp_path, world, capsys):
    wrong = {"data": {"folder": str(root / "gone")}, "model": {"device": "cpu"}}
    write_text(tmp_path / "spec.toml", to_toml(build_spec([world, wrong])))
    assert dreambooth_lora.main(["--run", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    last = read_events(tmp_path / "events.jsonl")[0][-1]
    assert (last.kind, last.body["defect"]) == ("failed", False)
    assert "gone" in last.body["text"]


@pytest.mark.parametrize("mistake", ["rank 0", "pictures missing", "unknown preset"])
def test_the_same_in_a_process_of_its_own(root, mistake):
    options, words = SETTINGS[mistake]
    done = subprocess.run(
        [sys.executable, "-m", "trainers.dreambooth_lora", *arguments(root, options)],
        capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert all(word in done.stderr for word in words)
    assert not (root / "run").exists()
