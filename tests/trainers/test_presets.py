"""Every preset: its header, its meaning for its family, and a short run on a tiny base."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from lora_diffusion import bundled, load
from lora_diffusion.formats.metadata import facts_from_metadata
from tests.lora_diffusion.families.sd15_models import write_json
from trainers.dreambooth_lora import main, parse
from trainers.layering import build_spec, preset_names, read_preset
from trainers.spec import JobSpec

NAMES = [name for name in preset_names() if not name.startswith("demo-")]
FAMILIES = ("sd15", "sd21", "sdxl", "illustrious", "pony", "noobai")
KINDS = ("style", "character", "low-vram")
STEPS = 2
# Family -> the tiny base that stands in for it, where it is not plain SDXL.
BASES = {"sd15": "SD1.x", "sd21": "SD2.x v", "noobai": "SDXL v, zero SNR"}


pytestmark = pytest.mark.usefixtures("one_thread")


def family(name: str) -> str:
    return name.split("-", 1)[0]


def preset(name: str) -> JobSpec:
    return build_spec([read_preset(name)])


def options_for(name: str, base: Path, pictures: Path, out: Path) -> list[str]:
    """The preset as it is, but small enough for a test."""
    options: list[object] = [
        "--preset", name, "--output_dir", out, "--model.base", base, "--data.folder", pictures,
        "--data.trigger", "sks", "--data.resolution_px", 64, "--schedule.steps", STEPS,
        "--preview.size_px", 64, "--preview.sampling_steps", 1, "--model.device", "cpu",
        "--model.precision", "fp32",
    ]  # fmt: skip
    return [str(option) for option in options]


def test_every_family_has_every_kind() -> None:
    assert sorted(NAMES) == sorted(f"{family}-{kind}" for family in FAMILIES for kind in KINDS)


@pytest.mark.parametrize("name", NAMES)
def test_it_runs_as_it_stands(
    name: str, tiny_bases: dict[str, Path], two_pictures: Path, tmp_path: Path
) -> None:
    if preset(name).optim.kind == "adamw8bit":
        pytest.importorskip("bitsandbytes")
    base = tiny_bases[BASES.get(family(name), "SDXL")]
    draws = name.endswith("character")  # takes longest, and the others would draw the same
    options = options_for(name, base, two_pictures, tmp_path / "mine")
    assert main([*options, "--preview.enabled", str(draws).lower()]) == 0
    file = load(tmp_path / "mine" / "mine.safetensors")
    wanted = preset(name)
    facts = facts_from_metadata(file.metadata)
    assert facts is not None
    assert (facts.rank, facts.alpha) == (wanted.adapter.rank, wanted.adapter.alpha)
    assert facts.zero_snr == (family(name) == "noobai")
    assert facts.clip_skip == wanted.model.clip_skip
    with_text = wanted.optim.lr_text > 0
    assert set(file.modules_by_part()) == ({"unet", "text_encoder"} if with_text else {"unet"})
    assert (tmp_path / "mine" / "contact_sheet.png").is_file() == draws


@pytest.mark.parametrize("name", NAMES)
def test_its_header_is_the_command_that_runs_it(name: str) -> None:
    text = (bundled.root("presets") / f"{name}.toml").read_text(encoding="utf-8")
    header = [line.removeprefix("#").strip() for line in text.split("\n\n")[0].splitlines()]
    command = " ".join(header).partition("python -m trainers.dreambooth_lora ")[2]
    words = command.replace("\\ ", "").split()
    options = words[: words.index("--data.trigger") + 2]
    spec = parse(options).runs[0].spec
    assert options[:2] == ["--preset", name]
    assert spec.adapter == preset(name).adapter
    settings = [line for line in text.splitlines() if line[:1].isalpha() and " = " in line]
    assert all(len(line) < 100 for line in settings)


@pytest.mark.parametrize("name", NAMES)
def test_it_is_what_its_name_says(name: str) -> None:
    spec = preset(name)
    is_xl = family(name) not in ("sd15", "sd21")
    assert spec.model.arch == ("sdxl" if is_xl else family(name))
    assert spec.adapter.alpha == spec.adapter.rank / 2
    assert (spec.optim.lr_text == 0) == (is_xl or name.endswith("low-vram"))
    if name.endswith("low-vram"):
        assert spec.optim.kind == "adamw8bit"
        assert spec.model.gradient_checkpointing
        assert spec.model.low_memory
        assert spec.adapter.text_targets == "none"
        assert (spec.adapter.rank, spec.schedule.batch_size, spec.schedule.accumulate) == (8, 1, 4)
    if family(name) in ("illustrious", "pony", "noobai"):
        assert spec.model.clip_skip == 2
        assert (spec.data.shuffle_parts, spec.data.keep_parts) == (True, 1)  # captions are tags
        first, *_, plain = spec.preview.prompts
        assert "{trigger}" in first
        assert "{trigger}" not in plain
        quality = "score_9, score_8_up" if family(name) == "pony" else "masterpiece, best quality"
        assert all(prompt.startswith(quality) for prompt in spec.preview.prompts)


@pytest.mark.parametrize(
    ("name", "base", "says"),
    [
        ("sdxl-character", "SD1.x", "is Stable Diffusion 1.x (sd15), and sdxl was asked for"),
        ("sd15-style", "SDXL", "is Stable Diffusion XL (sdxl), and sd15 was asked for"),
        ("noobai-style", "epsilon", "says that it predicts epsilon, and model.prediction is v_"),
    ],
)
def test_another_base_is_refused(
    name: str,
    base: str,
    says: str,
    tiny_bases: dict[str, Path],
    two_pictures: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if base == "epsilon":
        folder = Path(shutil.copytree(tiny_bases["SDXL"], tmp_path / "base"))
        config = folder / "scheduler" / "scheduler_config.json"
        write_json(config, json.loads(config.read_text()) | {"prediction_type": "epsilon"})
    else:
        folder = tiny_bases[base]
    assert main(options_for(name, folder, two_pictures, tmp_path / "mine")) == 2
    assert says in capsys.readouterr().err
