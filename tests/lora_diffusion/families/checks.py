"""What the tests of this folder ask of a loaded base."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lora_diffusion.errors import InputError
from lora_diffusion.families import load_base
from lora_diffusion.families.base import DiffusionBase
from tests.lora_diffusion.families.sd15_models import Models


def same(base: DiffusionBase, models: Models, dtype: torch.dtype = torch.float32) -> None:
    opened = {**base.parts, "vae": base.vae}
    for part, model in models.parts().items():
        expected = model.state_dict()
        found = opened[part].state_dict()
        assert found.keys() == expected.keys()
        kept = torch.float32 if part == "vae" and dtype == torch.float16 else dtype
        for name, tensor in expected.items():
            assert found[name].dtype == kept, name
            assert torch.equal(found[name], tensor.to(kept)), name


def message_of(path: Path, **settings: object) -> str:
    with pytest.raises(InputError) as caught:
        load_base(path, **settings)  # type: ignore[arg-type]
    return str(caught.value)
