"""`lora-diffusion generate` on the demo base."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lora_diffusion.composition.weights import Weights
from lora_diffusion.families import load_base
from lora_diffusion.formats.hash import file_hashes
from lora_diffusion.injection import AdapterConfig, inject
from tests.conftest import fill
from trainers.cli.main import main
from trainers.cli.weighted import Weighted

QUICK = ["--steps", "2", "--cfg", "3", "--device", "cpu"]


@pytest.fixture(scope="module")
def adapter(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("adapter") / "mine.safetensors"
    handle = inject(load_base("bundled:demo_base").parts, AdapterConfig(rank=4))
    fill(handle, spread=0.2)
    handle.save(path)
    return path


def pixels(path: str | Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image, dtype=int)


def test_pictures_carry_their_parameters(tmp_path, capsys, adapter):
    argv = ["generate", "--prompt", "a red circle", "--count", "2", "--seed", "5", "--json"]
    assert main([*argv, *QUICK, "--adapter", f"{adapter}:0.5", "--out", str(tmp_path)]) == 0
    files = json.loads(capsys.readouterr().out)["files"]
    assert len(files) == 2
    with Image.open(files[1]) as image:
        assert image.size == (64, 64)
        text = image.text["parameters"]
    digest = file_hashes(adapter).autov3
    for word in (
        "a red circle <lora:mine:0.5>\nSteps: 2",
        "Seed: 6",
        "CFG scale: 3",
        f'Lora hashes: "mine: {digest}"',
    ):
        assert word in text


def test_the_weight_decides_how_far_a_picture_moves(tmp_path, capsys, adapter):
    def picture(*adapters: str) -> np.ndarray:
        out = tmp_path / str(len(list(tmp_path.iterdir())))
        options = [word for a in adapters for word in ("--adapter", a)]
        argv = ["generate", "--prompt", "a red circle", *QUICK, "--out", str(out), *options]
        assert main(argv) == 0
        return pixels(capsys.readouterr().out.strip())

    plain, none, half, whole = (
        picture(), picture(f"{adapter}:0"), picture(f"{adapter}:0.5"), picture(str(adapter))
    )  # fmt: skip
    assert np.array_equal(plain, none)
    assert 0 < np.abs(half - plain).mean() < np.abs(whole - plain).mean()
    both = picture(f"{adapter}:0.5", f"{adapter}:0.5")
    assert np.abs(both - whole).max() <= 1


def test_prompts_name_their_own_adapters(tmp_path, capsys, adapter):
    def pictures(*prompts: str, options: tuple[str, ...] = ()) -> list[np.ndarray]:
        out = tmp_path / str(len(list(tmp_path.iterdir())))
        words = [word for prompt in prompts for word in ("--prompt", prompt)]
        assert main(["generate", *words, *QUICK, "--out", str(out), *options]) == 0
        return [pixels(path) for path in capsys.readouterr().out.split()]

    folder = ("--lora-folder", str(adapter.parent))
    tagged, plain = pictures("a red circle <lora:mine:0.5>", "a red circle", options=folder)
    (flagged,) = pictures("a red circle", options=("--adapter", f"{adapter}:0.5"))
    (alone,) = pictures("a red circle")
    assert np.abs(tagged - flagged).max() <= 1
    assert np.abs(plain - alone).max() <= 1
    (twice,) = pictures(
        "a red circle <lora:mine:0.5>", options=(*folder, "--adapter", f"{adapter}:0.25")
    )
    (sum_of_both,) = pictures("a red circle", options=("--adapter", f"{adapter}:0.75"))
    assert np.abs(twice - sum_of_both).max() <= 1


def test_pictures_are_added_to_those_in_the_folder(tmp_path, capsys):
    (tmp_path / "041-mine-7.png").write_bytes(b"mine")
    (tmp_path / "notes.png").write_bytes(b"mine")
    for _ in range(2):
        assert main(["generate", "--prompt", "a red circle", *QUICK, "--out", str(tmp_path)]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "041-mine-7.png", "042-a-red-circle-0.png", "043-a-red-circle-0.png", "notes.png"
    ]  # fmt: skip
    assert (tmp_path / "041-mine-7.png").read_bytes() == b"mine"


def test_a_mask_keeps_an_adapter_to_its_side(tmp_path, capsys, adapter):
    mask = Image.new("L", (64, 64))
    mask.paste(255, (0, 0, 32, 64))
    mask.save(tmp_path / "left.png")
    prompt = "a red circle on a white background"

    def picture(*options: str) -> np.ndarray:
        argv = ["generate", "--prompt", prompt, *QUICK, "--out", str(tmp_path / "out")]
        assert main([*argv, *options]) == 0
        return pixels(capsys.readouterr().out.strip())

    plain, whole = picture(), picture("--adapter", str(adapter))
    masked = picture("--adapter", str(adapter), "--adapter-mask", f"mine={tmp_path / 'left.png'}",
        "--region-prompt", f"mine={prompt}")  # fmt: skip
    windowed = picture("--adapter", str(adapter), "--adapter-mask",
        f"mine={tmp_path / 'left.png'}", "--windows")  # fmt: skip
    assert np.abs(windowed - masked)[:, :32].mean() > 1
    moved = np.abs(masked - plain).mean(axis=(0, 2))  # by column
    assert moved[:32].mean() > 2 * moved[32:].mean()
    assert np.abs(whole - plain)[:, 32:].mean() > 2 * moved[32:].mean()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--adapter", "no.safetensors"], ["no.safetensors"]),
        (["--base", "/no/base"], ["/no/base"]),
        (["--sampler", "magic"], ["--sampler", "ddim"]),
        (["--size", "big"], ["--size", "512x768"]),
        (["--size", "65"], ["65", "multiple"]),
        (["--count", "0"], ["--count"]),
        (["--prompt", "x <lora:ink:1>"], ["ink", "--lora-folder"]),
        (["--prompt", "x <lora:ink:1>", "--lora-folder", "/no/loras"], ["/no/loras"]),
        (["--adapter-mask", "ink=left.png"], ["ink"]),
    ],
)
def test_bad_input_is_one_line(tmp_path, capsys, options, words):
    argv = ["generate", "--prompt", "x", *QUICK, "--out", str(tmp_path / "out"), *options]
    assert main(argv) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    for word in words:
        assert word in captured.err
    assert not (tmp_path / "out").exists()


def test_a_weight_that_is_none_is_told_with_its_file(tmp_path, capsys):
    argv = ["generate", "--prompt", "x", "--adapter", "a.safetensors:loud", "--out", str(tmp_path)]
    with pytest.raises(SystemExit, match="2"):
        main(argv)
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "a.safetensors" in error
    assert "'loud' is not a number" in error


@pytest.mark.parametrize(
    ("text", "path", "weight"),
    [
        ("a.safetensors", "a.safetensors", 1.0),
        ("a.safetensors:0.8", "a.safetensors", 0.8),
        ("a:b.safetensors:-1", "a:b.safetensors", -1.0),
        ("C:\\x\\a.safetensors", "C:\\x\\a.safetensors", 1.0),
    ],
)
def test_file_and_weight(text, path, weight):
    assert Weighted.parse(text) == Weighted(Path(path), Weights(weight))


@pytest.fixture(scope="module")
def loras(adapter, tmp_path_factory) -> Path:
    """A folder of two adapters."""
    folder = tmp_path_factory.mktemp("loras")
    (folder / "mine.safetensors").write_bytes(adapter.read_bytes())
    base = load_base("bundled:demo_base")
    handle = inject({"unet": base.unet}, AdapterConfig(kind="loha", rank=2))
    fill(handle, 5, spread=0.3)
    handle.save(folder / "ink.safetensors")
    return folder


def test_a_batch_of_prompts_with_adapters_of_their_own(tmp_path, capsys, loras):
    prompts = [
        "a red circle <lora:mine:0.7>",
        "a star <lora:ink:-0.5> <lora:mine:0.2>",
        "a red circle",
        "a star <lora:ink:1>",
    ]
    batch = tmp_path / "prompts.txt"
    batch.write_text("# four\n" + "\n\n".join(prompts) + "\n")
    argv = ["generate", *QUICK, "--lora-folder", str(loras), "--json"]

    def drawn(out: str, *words: str) -> list[str]:
        assert main([*argv, "--out", str(tmp_path / out), *words]) == 0
        files: list[str] = json.loads(capsys.readouterr().out)["files"]
        return files

    together = drawn("together", "--batch", str(batch), "--at-once", "3", "--count", "2")
    assert len(together) == 8
    for number, prompt in enumerate(prompts):
        alone = drawn(f"alone{number}", "--prompt", prompt, "--count", "2")
        for one, other in zip(together[2 * number : 2 * number + 2], alone, strict=True):
            assert np.abs(pixels(one) - pixels(other)).max() <= 1
            with Image.open(one) as image, Image.open(other) as wanted:
                assert image.text == wanted.text
    assert np.abs(pixels(together[0]) - pixels(together[4])).max() > 20


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "Give --prompt or --batch"),
        (["--batch", "nothing.txt"], "nothing.txt: can't be read"),
        (["--batch", __file__, "--at-once", "0"], "--at-once must be at least 1"),
        (["--prompt", "a <lora:mine>", "--prompt", "b", "--adapter-memory", "0.00001"], "budget"),
    ],
)
def test_batches_that_can_not_be_drawn_are_one_line(tmp_path, capsys, loras, words, message):
    argv = ["generate", *QUICK, "--lora-folder", str(loras), "--out", str(tmp_path), *words]
    assert main(argv) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
