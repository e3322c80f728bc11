"""Where the parts of a base wait while a run is prepared."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from trainers import setup
from trainers.layering import build_spec
from trainers.machine.devices import Placement

CPU, ELSEWHERE = torch.device("cpu"), torch.device("meta")  # the one other device everywhere


def devices_of(model: nn.Module) -> set[torch.device]:
    return {parameter.device for parameter in model.parameters()}


@pytest.mark.parametrize("name", ["SD1.x", "SDXL"])
@pytest.mark.parametrize(("class_pictures", "waits_on"), [(0, CPU), (2, ELSEWHERE)])
def test_the_unet_waits_in_main_memory(
    tiny_bases: dict[str, Path],
    tmp_path: Path,
    name: str,
    class_pictures: int,
    waits_on: torch.device,
) -> None:
    """It does not where class pictures are drawn, which takes all parts at once."""
    data = {"class_pictures": class_pictures, "class_prompts": ["a dog"]}
    model = {"base": str(tiny_bases[name]), "low_memory": True}
    spec = build_spec([{"model": model, "data": data}])
    placement = Placement(ELSEWHERE, "fp32")
    base = setup.open_base(spec, placement, lambda *_: None)
    assert devices_of(base.unet) == {waits_on}
    assert devices_of(base.vae) == {ELSEWHERE}
    texts = [part for key, part in base.parts.items() if key != "unet"]
    assert all(devices_of(part) == {ELSEWHERE} for part in texts)
    setup.place_unet(base, placement)
    assert devices_of(base.unet) == {ELSEWHERE}
