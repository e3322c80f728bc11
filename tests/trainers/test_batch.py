"""Parts of a batch add up to the whole, whatever is dropped out and however long captions are."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from PIL import Image

from lora_diffusion.families import load_base
from tests.conftest import fill
from trainers import setup
from trainers.batch import Batch, Batches
from trainers.data import prepare, scan
from trainers.layering import build_spec
from trainers.loop import Trainer
from trainers.machine import devices
from trainers.optim import make_optimizer

PLACES = 5


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory, world: dict[str, Any]) -> Trainer:
    """One caption takes more chunks of 75 tokens than the others; a mask hides half of each."""
    folder = tmp_path_factory.mktemp("five")
    for number in range(PLACES):
        picture = Image.new("RGBA", (64, 64), (40 * number, 90, 255 - 40 * number, 255))
        picture.paste((0, 0, 0, 0), (0, 0, 32, 64))
        picture.save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text("a square " * (1 if number else 40))
    spec = build_spec(
        [
            world,
            {
                "adapter": {
                    "rank": 3, "rank_dropout": 0.3, "module_dropout": 0.3, "neuron_dropout": 0.3,
                },
                "data": {"folder": str(folder), "masked_loss": True, "buckets": False},
                "model": {"precision": "fp32", "device": "cpu"},
                "optim": {"lr_unet": 1e-3, "lr_text": 1e-3},
                "schedule": {"batch_size": PLACES, "steps": 2},
            },
        ]
    )  # fmt: skip
    placement = devices.choose(spec.model)
    base = load_base(spec.model.base, dtype=placement.dtype)
    dataset = prepare.make_dataset(base, spec, scan.find(spec.data), [])
    dataset.fill(lambda *_: None)
    handle = setup.put_adapter(base, spec)
    fill(handle)
    order = prepare.make_run_order(spec, dataset)
    made = Trainer(
        spec,
        2,
        base,
        handle,
        Batches(spec, base, dataset, order, pads_captions=True),
        devices.make_accelerator(placement),
        make_optimizer(spec.optim, handle),
        None,
    )
    made.set_training()
    return made


def gradient(trainer: Trainer, parts: list[Batch]) -> tuple[float, torch.Tensor]:
    total = 0.0
    for part in parts:
        trainer.handle.clock.set(0, 1, part.places)
        loss = trainer.loss(part) * part.share
        loss.backward()
        total += loss.item()
    parameters = trainer.handle.parameters()
    flat = torch.cat([p.grad.flatten() for p in parameters])
    for parameter in parameters:
        parameter.grad = None
    return total, flat


@pytest.mark.parametrize("cuts", [(1,), (2, 4), (1, 2, 3, 4)])
def test_parts_have_the_loss_and_gradient_of_the_whole(trainer: Trainer, cuts) -> None:
    batch = trainer.batches.make(1)
    assert len(batch) == PLACES
    assert batch.chunks == max(map(trainer.base.prompt_chunks, batch.captions)) > 1
    parts = [batch.part(slice(*ends)) for ends in zip((0, *cuts), (*cuts, PLACES), strict=True)]
    assert sum(part.share for part in parts) == pytest.approx(batch.share)
    whole_loss, whole = gradient(trainer, [batch])
    loss, flat = gradient(trainer, parts)
    assert loss == pytest.approx(whole_loss, rel=1e-6)
    assert (flat - whole).norm() < 1e-5 * whole.norm()
    other_places = [batch.part(slice(0, PLACES))]
    object.__setattr__(other_places[0], "places", tuple(range(100, 100 + PLACES)))
    assert (gradient(trainer, other_places)[1] - whole).norm() > 0.01 * whole.norm()
