"""Settings of kohya_ss and sd-scripts, read as ours."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lora_diffusion.errors import InputError
from trainers.dreambooth_lora import main, parse
from trainers.importing import read_config
from trainers.layering import build_spec, to_toml
from trainers.spec import JobSpec

# As kohya_ss writes it: numbers as text, "" for unset, switches of every kind.
GUI = {
    "LoRA_type": "Standard",
    "pretrained_model_name_or_path": "/models/sdxl.safetensors",
    "additional_parameters": "--network_train_unet_only --lr_scheduler_type X --ip_noise_gamma=0.1",
    "bucket_no_upscale": True,
    "bucket_reso_steps": 64,
    "caption_dropout_rate": 0.05,
    "caption_extension": ".txt",
    "clip_skip": "1",
    "color_aug": True,
    "conv_dim": 1,
    "conv_alpha": 1,
    "enable_bucket": True,
    "epoch": 50,
    "max_train_epochs": "",
    "max_train_steps": "",
    "flip_aug": True,
    "gradient_accumulation_steps": "2",
    "gradient_checkpointing": True,
    "keep_tokens": "2",
    "learning_rate": 3e-05,
    "lr_scheduler": "cosine_with_restarts",
    "lr_scheduler_num_cycles": "3",
    "lr_warmup": 10,
    "max_bucket_reso": 2048,
    "max_resolution": "1024,1024",
    "max_timestep": 1000,
    "max_token_length": "225",
    "min_bucket_reso": 256,
    "min_snr_gamma": 5,
    "mixed_precision": "bf16",
    "multires_noise_discount": 0.3,
    "multires_noise_iterations": 0,
    "network_alpha": 16,
    "network_dim": 32,
    "noise_offset": 0.0357,
    "optimizer": "AdamW8bit",
    "optimizer_args": "weight_decay=0.1 betas=0.9,0.99 amsgrad=True",
    "output_name": "mine",
    "save_every_n_epochs": 1,
    "save_every_n_steps": 0,
    "save_precision": "fp16",
    "sdxl": True,
    "sdxl_no_half_vae": True,
    "seed": "",
    "shuffle_caption": True,
    "text_encoder_lr": 3e-05,
    "train_batch_size": 3,
    "train_data_dir": "/pictures/img",
    "reg_data_dir": "/pictures/reg",
    "unet_lr": 5e-05,
    "weighted_captions": True,
    "xformers": "xformers",
}


def read(tmp_path: Path, settings: dict) -> tuple[JobSpec, tuple[str, ...]]:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(settings))
    imported = read_config(path)
    return build_spec([imported.layer]), imported.notes


def test_a_kohya_ss_json_becomes_our_settings(tmp_path):
    spec, notes = read(tmp_path, GUI)
    assert (spec.model.base, spec.model.arch) == ("/models/sdxl.safetensors", "sdxl")
    assert (spec.model.precision, spec.model.attention) == ("bf16", "xformers")
    assert spec.model.gradient_checkpointing
    adapter = spec.adapter
    assert (adapter.kind, adapter.rank, adapter.alpha, adapter.conv_rank) == ("lora", 32, 16, None)
    assert (adapter.targets, adapter.text_targets) == ("transformer", "attn+ff")
    optim = spec.optim
    assert (optim.kind, optim.lr_unet, optim.lr_text) == ("adamw8bit", 5e-05, 0)
    assert (optim.weight_decay, optim.beta1, optim.beta2) == (0.1, 0.9, 0.99)
    assert (optim.lr_schedule, optim.lr_cycles) == ("cosine_restarts", 3)
    assert optim.lr_warmup_ratio == pytest.approx(0.1)
    assert (spec.objective.min_snr_gamma, spec.objective.noise_offset) == (5, 0.0357)
    assert spec.objective.input_perturbation == 0.1
    assert (spec.schedule.epochs, spec.schedule.steps) == (50, None)
    assert (spec.schedule.batch_size, spec.schedule.accumulate) == (3, 2)
    assert (spec.save.name, spec.save.every_epochs, spec.save.every_steps) == ("mine", 1, None)
    data = spec.data
    assert [(s.folder, s.is_class) for s in data.subsets] == [
        ("/pictures/img", False),
        ("/pictures/reg", True),
    ]
    assert (data.resolution_px, data.caption_dropout) == (1024, 0.05)
    assert (data.buckets, data.upscale, data.flip) == (True, False, 0.5)
    assert (data.bucket_min_px, data.bucket_max_px, data.bucket_step_px) == (256, 2048, 64)
    assert (data.shuffle_parts, data.keep_parts) == (True, 2)
    assert {note.split(" = ")[0] for note in notes} == {
        "color_aug",
        "lr_scheduler_type",
        "optimizer_args amsgrad",
        "weighted_captions",
    }
    assert build_spec([{**json.loads(spec.model_dump_json())}]) == spec
    assert to_toml(spec)


@pytest.mark.parametrize(
    ("given", "kind", "targets", "more"),
    [
        ({"LoRA_type": "Kohya LoCon", "conv_dim": 8, "conv_alpha": 4}, "lora", "all", (8, 4.0)),
        ({"LoRA_type": "LyCORIS/LoHa", "conv_dim": 4}, "loha", "all", (4, 1.0)),
        ({"LoRA_type": "LyCORIS/LoKr", "factor": 8, "conv_dim": 0}, "lokr", "all", (None, None)),
        ({"network_module": "networks.lora"}, "lora", "transformer", (None, None)),
        (
            {"network_module": "networks.lora", "network_args": ["conv_dim=4", "conv_alpha=2"]},
            "lora",
            "all",
            (4, 2.0),
        ),
        (
            {"network_module": "lycoris.kohya", "network_args": ["algo=lora", "dora_wd=True"]},
            "dora",
            "all",
            (None, None),
        ),
    ],
)
def test_kinds_of_adapters(tmp_path, given, kind, targets, more):
    spec, _ = read(tmp_path, {"network_dim": 16, "pretrained_model_name_or_path": "x", **given})
    adapter = spec.adapter
    assert (adapter.kind, adapter.targets) == (kind, targets)
    assert (adapter.conv_rank, adapter.conv_alpha) == more
    assert adapter.alpha == 1  # their default


def test_their_defaults_that_differ_from_ours(tmp_path):
    spec, notes = read(tmp_path, {"network_dim": 4})
    assert (spec.schedule.steps, spec.optim.lr_schedule) == (1600, "constant")
    assert (spec.optim.lr_warmup_ratio, spec.adapter.alpha) == (0, 1)
    assert notes == ()


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({"optimizer_type": "DAdaptAdam"}, "optimizer_type"),
        ({"lr_scheduler": "piecewise_constant"}, "lr_scheduler"),
        ({"LoRA_type": "LyCORIS/iA3"}, "LoRA_type"),
        ({"loss_type": "l1"}, "loss_type"),
        ({"network_args": ["rank_schedule=x"]}, "network_args rank_schedule"),
        ({"mixed_precision": "fp8"}, "mixed_precision"),
        ({"down_lr_weight": "1,1,0"}, "down_lr_weight"),
    ],
)
def test_what_has_no_counterpart_is_named(tmp_path, given, name):
    spec, notes = read(tmp_path, {"network_dim": 4, **given})
    assert [note.split(" = ")[0] for note in notes] == [name]
    assert spec.adapter.rank == 4


TRAINING = """
[model]
pretrained_model_name_or_path = "sd15.safetensors"
[network]
network_module = "networks.lora"
network_dim = 8
network_alpha = 4
[optimizer]
optimizer_type = "Prodigy"
optimizer_args = ["decouple=True", "d_coef=2", "weight_decay=0.01"]
learning_rate = 1.0
lr_scheduler = "constant"
max_train_epochs = 4
dataset_config = "dataset.toml"
"""
DATASET = """
[general]
shuffle_caption = true
keep_tokens = 1
caption_extension = ".tags"
[[datasets]]
resolution = [512, 768]
batch_size = 4
enable_bucket = true
  [[datasets.subsets]]
  image_dir = "a"
  class_tokens = "sks dog"
  num_repeats = 10
  [[datasets.subsets]]
  image_dir = "b"
  is_reg = true
  keep_tokens = 2
  face_crop_aug_range = [2.0, 4.0]
"""


def test_sd_scripts_training_and_dataset_files(tmp_path):
    (tmp_path / "train.toml").write_text(TRAINING)
    (tmp_path / "dataset.toml").write_text(DATASET)
    imported = read_config(tmp_path / "train.toml")
    spec = build_spec([imported.layer])
    assert (spec.adapter.rank, spec.optim.kind, spec.optim.d_coef) == (8, "prodigy", 2)
    assert (spec.optim.lr_unet, spec.optim.lr_text, spec.schedule.epochs) == (1, 1, 4)
    first, second = spec.data.subsets
    assert (first.folder, first.repeats, first.instance_prompt) == ("a", 10, "sks dog")
    assert (first.caption_ending, second.is_class) == (".tags", True)
    assert (spec.data.resolution_px, spec.schedule.batch_size) == (624, 4)
    assert (spec.data.shuffle_parts, spec.data.keep_parts, spec.data.upscale) == (True, 1, True)
    assert sorted(note.split(" ")[0] for note in imported.notes) == [
        "face_crop_aug_range",
        "keep_tokens",
        "resolution",
    ]
    alone = read_config(tmp_path / "dataset.toml")
    assert alone.layer.keys() == {"data", "schedule"}


def test_the_command_takes_them_and_says_what_is_lost(tmp_path, capsys):
    folder = tmp_path / "10_sks dog"
    folder.mkdir()
    from PIL import Image

    Image.new("RGB", (8, 8)).save(folder / "a.png")
    config = {"network_dim": 4, "train_data_dir": str(tmp_path), "weighted_captions": True}
    path = tmp_path / "kohya.json"
    path.write_text(json.dumps(config))
    assert main(["--config", str(path), "--plan", "--schedule.epochs", "2"]) == 0
    told = capsys.readouterr()
    assert "note: weighted_captions = True is not carried over." in told.err
    assert "10_sks dog: 1 pictures, shown 10x an epoch" in told.out
    spec = parse(["--config", str(path), "--plan", "--adapter.rank", "6"]).runs[0].spec
    assert (spec.adapter.rank, spec.data.folder) == (6, str(tmp_path))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.json", "{", "not valid JSON"),
        ("a.json", "[1]", "not a configuration of kohya_ss"),
        ("a.json", '{"model": {}}', "not a configuration of kohya_ss"),
        ("a.toml", "datasets = []", "no \\[\\[datasets.subsets\\]\\]"),
        ("a.toml", "[[datasets]]\n[[datasets.subsets]]\nnum_repeats = 1", "no image_dir"),
        ("a.toml", "a = ", "not valid TOML"),
    ],
)
def test_files_of_no_use_are_refused(tmp_path, name, content, words):
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=words):
        read_config(tmp_path / name)
    with pytest.raises(InputError, match="can't be read"):
        read_config(tmp_path / f"missing-{name}")
