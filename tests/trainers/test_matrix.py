"""Every base with every kind of adapter through the command: trained, exported, opened again.

The bases are tiny models of the true classes and names; what is compared is what the trained model
puts out and what a fresh one puts out with the file.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lora_diffusion import attach, load
from lora_diffusion.families import Conditioning, DiffusionBase, load_base
from lora_diffusion.formats.metadata import facts_from_metadata
from tests.lora_diffusion.families import other_models, sd15_models
from tests.lora_diffusion.families.other_models import make_sd21, make_sdxl
from tests.lora_diffusion.families.sd15_models import make_models, save_checkpoint
from trainers.dreambooth_lora import main
from trainers.outputs import Outputs

STEPS = 2
README = Path(__file__).parents[2] / "README.md"
BOTH = {"unet", "text_encoder"}
ALL = {*BOTH, "text_encoder_2"}
PROMPTS = ["a photo of sks", "red"]


@dataclass(frozen=True)
class Base:
    """A base of the table.

    Attributes:
        said: what the command says that it is.
        parts: what is trained.
    """

    arch: str
    said: str
    parts: set[str]


BASES = {
    "SD1.x": Base("sd15", "SD1.x, epsilon", BOTH),
    "SD2.x": Base("sd21", "SD2.x, epsilon", BOTH),
    "SD2.x v": Base("sd21", "SD2.x, v-prediction", BOTH),
    "SDXL": Base("sdxl", "SDXL, epsilon", ALL),
    "SDXL, UNet alone": Base("sdxl", "SDXL, epsilon", {"unet"}),
    "SDXL v, zero SNR": Base("sdxl", "SDXL, v-prediction, zero terminal SNR", ALL),
}
# Name in the table -> options, and the kind that the file tells.
KINDS: dict[str, tuple[str, list[str]]] = {
    "LoRA": ("lora", []),
    "LoCon": ("locon", ["--adapter.targets", "all", "--adapter.conv_rank", "1"]),
    "DoRA": ("dora", ["--adapter.kind", "dora"]),
    "DoRA, per output": ("dora", ["--adapter.kind", "dora", "--adapter.dora_axis", "out"]),
    "rsLoRA": ("rslora", ["--adapter.kind", "rslora"]),
    "LoRA+": ("lora", ["--optim.lora_plus_ratio", "16"]),
    "LoHa": ("loha", ["--adapter.kind", "loha"]),
    "LoKr": ("lokr", ["--adapter.kind", "lokr"]),
}
CASES = [(base, kind) for kind in KINDS for base in BASES]


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def fresh(tiny_bases: dict[str, Path]) -> Callable[[str], DiffusionBase]:
    """Bases opened once each; a test leaves them as they were."""
    opened: dict[str, DiffusionBase] = {}

    def get(name: str) -> DiffusionBase:
        if name not in opened:
            opened[name] = load_base(tiny_bases[name])
        return opened[name]

    return get


@torch.no_grad()
def output(base: DiffusionBase, conditioning: Conditioning | None = None) -> Tensor:
    for part in base.parts.values():
        part.eval()
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    prompts = base.encode_prompts(PROMPTS) if conditioning is None else conditioning
    return base.predict(latents, torch.tensor([300, 999]), prompts)


@pytest.fixture(scope="module")
def untrained(fresh: Callable[[str], DiffusionBase]) -> Callable[[str], Tensor]:
    """What a base puts out, worked out once."""
    return functools.cache(lambda name: output(fresh(name)))


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Tensor]:
    """Runs the command in this process; returns what the trained model puts out at its end."""

    def run(conditioning: Conditioning | None, *options: object) -> Tensor:
        outputs: list[Tensor] = []
        finish = Outputs.finish

        def finish_and_look(self: Outputs, total: int, stopped_early: str) -> Path:
            path = finish(self, total, stopped_early)
            outputs.append(output(self.base, conditioning))
            return path

        with monkeypatch.context() as patch:
            patch.setattr(Outputs, "finish", finish_and_look)
            assert main([str(option) for option in options]) == 0
        return outputs[0]

    return run


def options_for(base: Path, two_pictures: Path, out: Path) -> list[object]:
    return [
        "--model.base", base, "--model.precision", "fp32", "--model.device", "cpu",
        "--data.folder", two_pictures, "--data.trigger", "sks", "--data.resolution_px", 64,
        "--adapter.rank", 2, "--adapter.alpha", 1, "--optim.lr_unet", "1e-2",
        "--optim.lr_warmup_ratio", 0, "--schedule.steps", STEPS, "--preview.enabled", "false",
        "--save.dtype", "fp32", "--save.checkpoint_every_steps", 0, "--output_dir", out,
    ]  # fmt: skip


@pytest.mark.parametrize(("base", "kind"), CASES)
def test_it_trains_and_the_file_gives_the_same_output(
    tiny_bases: dict[str, Path],
    fresh: Callable[[str], DiffusionBase],
    untrained: Callable[[str], Tensor],
    two_pictures: Path,
    tmp_path: Path,
    trained: Callable[..., Tensor],
    capsys: pytest.CaptureFixture[str],
    base: str,
    kind: str,
) -> None:
    told, options = KINDS[kind]
    with_text = BASES[base].parts != {"unet"}
    model = fresh(base)
    plain = untrained(base)
    prompts = None if with_text else model.encode_prompts(PROMPTS)
    expected = trained(
        prompts,
        *options_for(tiny_bases[base], two_pictures, tmp_path / "mine"),
        *("--optim.lr_text", "1e-2" if with_text else 0),
        *options,
    )
    assert BASES[base].said in capsys.readouterr().err
    assert (expected - plain).abs().max() > 1e-3
    file = load(tmp_path / "mine" / "mine.safetensors", model.shapes())
    assert file.arch == BASES[base].arch
    assert set(file.modules_by_part()) == BASES[base].parts
    facts = facts_from_metadata(file.metadata)
    assert facts is not None
    assert facts.kind == told
    handle = attach(model.parts, file)
    try:
        torch.testing.assert_close(output(model), expected, rtol=1e-5, atol=1e-5)
    finally:
        handle.remove()
    assert torch.equal(output(model), plain)


@pytest.mark.parametrize(
    ("base", "ending"),
    [
        ("SD1.x", "safetensors"),
        ("SD1.x", "ckpt"),
        ("SD2.x v", "safetensors"),
        ("SDXL", "safetensors"),
    ],
)
def test_a_single_file_trains_as_its_folder_does(
    tiny_bases: dict[str, Path],
    two_pictures: Path,
    tmp_path: Path,
    trained: Callable[..., Tensor],
    base: str,
    ending: str,
) -> None:
    """The checkpoint has the true layout of names, written by the tests' own tables."""
    tensors = _checkpoint_tensors(base)
    path = tmp_path / f"model.{ending}"
    if ending == "ckpt":
        torch.save({"state_dict": tensors, "global_step": 1}, path)
    else:
        save_checkpoint(tensors, path)
    words = ("--model.tokenizer", tiny_bases[base] / "tokenizer", "--optim.lr_text", "1e-2")
    one = trained(None, *options_for(path, two_pictures, tmp_path / "one"), *words)
    other = trained(None, *options_for(tiny_bases[base], two_pictures, tmp_path / "other"), *words)
    assert torch.equal(one, other)
    facts = facts_from_metadata(load(tmp_path / "one" / "one.safetensors").metadata)
    assert facts is not None
    assert (facts.arch, facts.base) == (BASES[base].arch, "model")


def _checkpoint_tensors(base: str) -> dict[str, Tensor]:
    if base == "SD1.x":
        return sd15_models.ldm_tensors(make_models())
    return other_models.ldm_tensors(make_sdxl() if base == "SDXL" else make_sd21())


def test_bf16_trains_adapters_in_fp32(
    tiny_bases: dict[str, Path], two_pictures: Path, tmp_path: Path, trained: Callable[..., Tensor]
) -> None:
    options = options_for(tiny_bases["SDXL v, zero SNR"], two_pictures, tmp_path / "mine")
    result = trained(None, *options, "--model.precision", "bf16", "--adapter.kind", "dora")
    assert result.dtype == torch.bfloat16
    assert bool(result.isfinite().all())
    layers = load(tmp_path / "mine" / "mine.safetensors").layers.values()
    assert any(bool(factors.up.any()) for factors in layers)
    assert {factors.up.dtype for factors in layers} == {torch.float32}


def test_the_readmes_table_is_what_is_tested() -> None:
    rows = [line.strip("|").split("|") for line in _table(README.read_text(encoding="utf-8"))]
    cells = [[cell.strip() for cell in row] for row in rows]
    head, body = cells[0][1:], cells[2:]
    found = {
        (base, row[0]) for row in body for base, mark in zip(head, row[1:], strict=True) if mark
    }
    assert found == set(CASES)


def _table(text: str) -> list[str]:
    start = text.index("| trained, exported, opened again |")
    return re.split(r"\n(?!\|)", text[start:])[0].splitlines()
