"""Class pictures for prior preservation: what the base itself draws for the class.

Source: Ruiz et al., "DreamBooth" (arXiv:2208.12242), section 3.3: the model is supervised with its
own samples of the class, so that it goes on knowing it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from lora_diffusion.errors import InputError
from lora_diffusion.families.base import DiffusionBase
from lora_diffusion.files import write_text
from lora_diffusion.generate import BATCH_SIZE, PictureSpec, draw, save_png
from lora_diffusion.randomness import derive_seed
from trainers.data.scan import Picture, list_pictures, scan
from trainers.machine.team import ALONE, Team
from trainers.spec import JobSpec


def class_pictures(
    base: DiffusionBase,
    spec: JobSpec,
    folder: Path,
    side_px: int,
    on_progress: Callable[[int, int], None],
    team: Team = ALONE,
) -> list[Picture]:
    """The first `data.class_pictures` of `folder`; missing ones are drawn into it first.

    Picture i is drawn from prompt i modulo their number, with a seed that follows from
    (schedule.seed, i); its prompt is stored beside it. Each process of `team` draws a share.

    Raises:
        InputError: prompts are missing, or the folder is not the same one for all processes.
    """
    wanted = spec.data.class_pictures
    folder.mkdir(parents=True, exist_ok=True)
    have = team.share(lambda: len(list_pictures(folder)))
    if have < wanted:
        numbers = range(have, wanted)
        _draw(base, spec, folder, numbers[team.own(len(numbers))], side_px, on_progress)
        team.agree()

    def find() -> list[Picture]:
        default = spec.data.class_prompts[0] if spec.data.class_prompts else None
        found = scan(folder, default_caption=default)[:wanted]
        if len(found) < wanted:
            raise InputError(
                f"{folder}: not all class pictures are here that were drawn. Choose a "
                "data.class_folder on a disk that all machines of this run share."
            )
        return [replace(picture, is_class=True) for picture in found]

    return team.share(find)


def _draw(
    base: DiffusionBase,
    spec: JobSpec,
    folder: Path,
    numbers: range,
    side_px: int,
    on_progress: Callable[[int, int], None],
) -> None:
    prompts = spec.data.class_prompts
    if not prompts:
        raise InputError(
            f"{folder}: has fewer than {spec.data.class_pictures} class pictures, and the rest "
            "can't be drawn without data.class_prompts. Add prompts, or lower data.class_pictures."
        )
    on_progress(0, len(numbers))
    for first in range(0, len(numbers), BATCH_SIZE):
        batch = numbers[first : first + BATCH_SIZE]
        pictures = [
            PictureSpec(
                prompt=prompts[number % len(prompts)],
                seed=derive_seed("class picture", spec.schedule.seed, number),
                sampling_steps=spec.preview.sampling_steps,
                cfg=spec.preview.cfg,
                width_px=side_px,
                height_px=side_px,
                sampler=spec.preview.sampler,
            )
            for number in batch
        ]
        for number, picture, image in zip(batch, pictures, draw(base, pictures), strict=True):
            path = folder / f"class-{number:05d}.png"
            write_text(path.with_suffix(".txt"), picture.prompt + "\n")
            save_png(image, path, picture.parameters())
        on_progress(first + len(batch), len(numbers))
