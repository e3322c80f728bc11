"""A file's settings as a run, and what it names as lost."""

from __future__ import annotations

import pytest
from safetensors.torch import save_file

from lora_diffusion.errors import InputError
from tests.trainers.library.conftest import SD_SCRIPTS, save_own, save_sd_scripts, tensors
from trainers.layering import build_spec, read_toml
from trainers.library.again import again


def test_our_own_file_gives_its_run_again(tmp_path):
    save_own(tmp_path / "snow.safetensors")
    found = again(tmp_path / "snow.safetensors")
    assert found.source == "lora_diffusion"
    assert found.spec == build_spec([{"adapter": {"rank": 4}, "optim": {"lr_unet": 3e-4}}])
    assert "set model.base" in found.notes[0]
    assert "set data.folder" in found.notes[1]
    given = again(tmp_path / "snow.safetensors", pictures=tmp_path, base="bundled:demo_base")
    assert given.notes == ()
    assert given.spec.data.folder == str(tmp_path)


def test_sd_scripts_metadata_become_our_settings(tmp_path):
    save_sd_scripts(tmp_path / "ink.safetensors")
    found = again(tmp_path / "ink.safetensors", pictures=tmp_path, base="any.safetensors")
    spec = found.spec
    assert found.source == "sd-scripts"
    assert (spec.adapter.kind, spec.adapter.targets) == ("lora", "all")
    assert (spec.adapter.rank, spec.adapter.alpha) == (16, 8)
    assert (spec.adapter.conv_rank, spec.adapter.conv_alpha) == (8, 4)
    optim = spec.optim
    assert (optim.kind, optim.lr_unet, optim.lr_text) == ("adamw8bit", 2e-4, 5e-5)
    assert (optim.weight_decay, optim.beta2) == (0.1, 0.99)
    assert (optim.lr_schedule, optim.lr_warmup_steps) == ("cosine_restarts", 100)
    schedule = spec.schedule
    assert (schedule.steps, schedule.epochs, schedule.batch_size) == (1200, None, 2)
    assert schedule.seed == 0
    assert (spec.model.clip_skip, spec.model.precision) == (2, "fp16")
    assert spec.model.gradient_checkpointing
    assert (spec.objective.min_snr_gamma, spec.objective.noise_offset) == (5, 0.05)
    data = spec.data
    assert (data.trigger, data.resolution_px, data.bucket_min_px) == ("ink fox", 512, 256)
    assert (data.shuffle_parts, data.keep_parts, data.flip) == (True, 1, 0.5)
    assert spec.save.name == "ink_fox"


def test_what_cannot_be_reproduced_is_named(tmp_path):
    save_sd_scripts(tmp_path / "ink.safetensors", ss_adaptive_noise_scale="0.01")
    notes = again(tmp_path / "ink.safetensors").notes
    assert notes[0].startswith("The base was anything.safetensors (hash abcd1234)")
    assert "60 pictures" in notes[1]
    told = " ".join(notes)
    for name in ("vae", "kl-f8.pt", "adaptive_noise_scale"):
        assert name in told
    assert "face_crop" not in told  # was off
    assert "session_id" not in told


def test_several_folders_and_regularisation_are_told(tmp_path):
    sets = (
        '[{"resolution": [768, 512], "subsets": ['
        '{"image_dir": "5_a", "num_repeats": 5, "is_reg": false}, '
        '{"image_dir": "2_b", "num_repeats": 2, "is_reg": false}, '
        '{"image_dir": "r", "is_reg": true}'
        "]}]"
    )
    save_sd_scripts(tmp_path / "ink.safetensors", ss_datasets=sets)
    told = " ".join(again(tmp_path / "ink.safetensors").notes)
    assert "5_a 5 times, 2_b 2 times" in told
    assert "regularisation pictures" in told
    assert "resolution" in told  # not a square


def test_a_value_out_of_bounds_is_left_out_and_named(tmp_path):
    save_sd_scripts(tmp_path / "ink.safetensors", ss_noise_offset="77")
    found = again(tmp_path / "ink.safetensors")
    assert found.spec.objective.noise_offset == 0
    assert any(note.startswith("objective.noise_offset = 77") for note in found.notes)


def test_the_toml_is_a_run_with_the_notes_before_it(tmp_path):
    save_sd_scripts(tmp_path / "ink.safetensors")
    found = again(tmp_path / "ink.safetensors")
    (tmp_path / "again.toml").write_text(found.as_toml(), encoding="utf-8")
    assert build_spec([read_toml(tmp_path / "again.toml")]) == found.spec
    assert found.as_toml().startswith("# The base was")


def test_a_file_without_settings_says_so(tmp_path):
    save_file(tensors(), tmp_path / "bare.safetensors")
    with pytest.raises(InputError, match=r"bare\.safetensors: tells no training settings"):
        again(tmp_path / "bare.safetensors")


def test_hostile_metadata_do_no_harm(tmp_path):
    nasty = {key: "(" * 150 for key in SD_SCRIPTS if key.startswith("ss_")}
    save_sd_scripts(tmp_path / "nasty.safetensors", **nasty)
    assert again(tmp_path / "nasty.safetensors").source == "sd-scripts"
