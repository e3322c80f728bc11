"""The studio's drawing process: what it answers, and that nothing it is asked ends it."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lora_diffusion.families import load_base
from lora_diffusion.injection import AdapterConfig, inject
from tests.conftest import fill
from trainers.worker import serve


@pytest.fixture(scope="module")
def adapter(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("adapter") / "mine.safetensors"
    handle = inject(load_base("bundled:demo_base").parts, AdapterConfig(rank=2))
    fill(handle, spread=0.3)
    handle.save(path)
    return path


def request(out: Path, **changes: Any) -> str:
    wish = {
        "base": "bundled:demo_base",
        "prompt": "a red circle",
        "sampling_steps": 2,
        "cfg": 3.0,
        "size_px": 64,
        "out": str(out),
    }
    return json.dumps(wish | changes)


def answers(*lines: str) -> list[dict[str, Any]]:
    """What the worker says to these lines, without its progress."""
    replies = io.StringIO()
    serve(io.StringIO("\n".join(lines) + "\n"), replies)
    said = [json.loads(line) for line in replies.getvalue().splitlines()]
    return [reply for reply in said if reply["event"] != "progress"]


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image, dtype=int)


def test_weights_adapters_and_the_base_alone(tmp_path, adapter):
    def weighted(weight: float) -> list[dict[str, Any]]:
        return [{"file": str(adapter), "weights": f"{weight:g}"}]

    names = ("base", "whole", "none", "again")
    base, whole, none, again = (tmp_path / f"{name}.png" for name in names)
    said = answers(
        request(base),
        request(whole, adapters=weighted(1.0)),
        request(none, adapters=weighted(0.0)),
        request(again),
    )
    assert [reply["event"] for reply in said] == ["done"] * 4
    assert said[0]["files"] == [str(base)]
    assert np.abs(pixels(whole) - pixels(base)).mean() > 1
    assert np.array_equal(pixels(none), pixels(base))
    assert np.array_equal(pixels(again), pixels(base))


def test_the_base_is_read_as_the_run_read_it(tmp_path):
    wishes = ({}, {"clip_skip": 2}, {"prediction": "v_prediction"}, {"zero_snr": True}, {})
    outs = [tmp_path / f"{n}.png" for n in range(len(wishes))]
    said = answers(*(request(out, **wish) for out, wish in zip(outs, wishes, strict=True)))
    assert [reply["event"] for reply in said] == ["done", "done", "error", "error", "done"]
    assert "says that it predicts epsilon, and model.prediction is v_prediction" in said[2]["text"]
    assert "zero_snr" in said[3]["text"]
    plain, skipped, again = (pixels(outs[n]) for n in (0, 1, 4))
    assert np.abs(plain - skipped).mean() > 0.1
    assert np.array_equal(plain, again)


def test_an_adapter_acts_where_its_mask_is_white(tmp_path, adapter):
    def placed(colour: int, **more: Any) -> list[dict[str, Any]]:
        mask = tmp_path / f"{colour}.png"
        Image.new("L", (64, 64), colour).save(mask)
        return [{"file": str(adapter), "weights": "1,text=0", "mask": str(mask), **more}]

    names = ("base", "nowhere", "everywhere", "whole", "other")
    base, nowhere, everywhere, whole, other = (tmp_path / f"{name}.png" for name in names)
    said = answers(
        request(base),
        request(nowhere, adapters=placed(0)),
        request(everywhere, adapters=placed(255)),
        request(whole, adapters=[{"file": str(adapter), "weights": "1,text=0"}]),
        request(other, adapters=placed(255, prompt="a blue star")),
    )
    assert [reply["event"] for reply in said] == ["done"] * 5
    assert np.abs(pixels(nowhere) - pixels(base)).max() <= 1
    assert np.abs(pixels(whole) - pixels(base)).mean() > 1
    assert np.abs(pixels(everywhere) - pixels(base)).mean() > 1
    assert np.abs(pixels(everywhere) - pixels(other)).mean() > 1


def test_what_it_cannot_do_is_a_sentence_and_the_next_request_is_drawn(tmp_path, adapter):
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"no adapter")
    out = tmp_path / "out.png"
    said = answers(
        "{not json",
        request(out, base="/no/such/base"),
        request(out, adapters=[{"file": str(broken)}]),
        request(out, adapters=[{"file": str(tmp_path / "gone.safetensors")}]),
        request(out, adapters=[{"file": str(adapter), "weights": "1e9"}]),
        request(out, size_px=63),
        request(out, sampler="magic"),
        request(out),
    )
    assert [reply["event"] for reply in said] == ["error"] * 7 + ["done"]
    for reply, word in zip(
        said,
        ("JSON", "/no/such/base", "broken.safetensors", "gone.safetensors", "weight", "size_px",
         "sampler"),
        strict=False,
    ):  # fmt: skip
        assert word in reply["text"]
        assert "\n" not in reply["text"]
        assert "defect" not in reply["text"]
    assert out.exists()


def test_an_adapter_that_was_written_anew_is_read_anew(tmp_path, adapter):
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(adapter.read_bytes())
    first, second = tmp_path / "1.png", tmp_path / "2.png"

    class Lines:
        """Writes another adapter into the file between the two requests."""

        def __iter__(self):
            yield request(first, adapters=[{"file": str(copy)}])
            handle = inject(load_base("bundled:demo_base").parts, AdapterConfig(rank=2))
            fill(handle, seed=9, spread=0.3)
            handle.save(copy)
            yield request(second, adapters=[{"file": str(copy)}])

    serve(Lines(), io.StringIO())  # type: ignore[arg-type]
    assert not np.array_equal(pixels(first), pixels(second))
