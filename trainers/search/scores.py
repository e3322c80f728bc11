"""What a search maximises: how well pictures are denoised, or a function of the user's."""

from __future__ import annotations

import importlib
import importlib.util
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

from PIL import Image

from lora_diffusion.composition.live import Composition
from lora_diffusion.errors import InputError, printable
from lora_diffusion.families.base import DiffusionBase
from lora_diffusion.generate import PictureSpec
from trainers.data.scan import scan
from trainers.search.denoising import Denoising, share_explained

Score = Callable[[], float]  # of the composition as it is weighed now; higher is better
Judge = Callable[[list[Image.Image], list[str]], float]


def toward(base: DiffusionBase, folder: Path, *, timesteps: int, seed: int) -> Score:
    """Share of the base's denoising error on the captioned pictures of `folder` that is gone.

    The base must have no adapter on it yet, or only ones that weigh 0.

    Raises:
        InputError: pictures are missing, can't be read, or have no caption.
    """
    pictures = scan(folder, default_caption=None)
    denoising = Denoising(base, pictures, timesteps=timesteps, seed=seed)
    of_base = denoising.losses()
    return lambda: share_explained(denoising.losses(), of_base)


def judged(composition: Composition, pictures: Sequence[PictureSpec], judge: Judge) -> Score:
    """What `judge` says of `pictures`, drawn from the same noise at each call."""
    prompts = [picture.prompt for picture in pictures]

    def score() -> float:
        value = float(judge(composition.draw(pictures), prompts))
        if not math.isfinite(value):
            raise InputError(f"The scoring function returned {value}. It must return a number.")
        return value

    return score


def load_judge(text: str) -> Judge:
    """The function that `FILE.py:NAME` or `package.module:NAME` names.

    It is called with a list of pictures (PIL) and the list of their prompts, and returns a number;
    higher is better. It is the user's own code and runs as such.

    Raises:
        InputError: there is no such file, module or function.
    """
    where, _, name = text.rpartition(":")
    try:
        module = (
            _from_file(Path(where)) if where.endswith(".py") else importlib.import_module(where)
        )
        found: Judge = getattr(module, name)
    except (ImportError, AttributeError, OSError, ValueError, SyntaxError) as error:
        raise InputError(
            f"--score {printable(text)}: can't be loaded ({printable(error)}). Write it as "
            "FILE.py:FUNCTION or package.module:FUNCTION."
        ) from None
    if not callable(found):
        raise InputError(f"--score {printable(text)}: is not a function.")
    return found


def _from_file(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"no such file: {path}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
