"""`lora-diffusion generate`: pictures from a base and weighted adapters."""

from __future__ import annotations

import argparse
import json
import re
import sys
from contextlib import closing
from pathlib import Path

from lora_diffusion.errors import InputError
from trainers.cli.base_flags import add_base_flags, open_base
from trainers.cli.drawing_flags import add_drawing_flags, check_sampler, show_progress, size_of
from trainers.cli.verb import Verb
from trainers.cli.weighted import FORM, HELP, Weighted

_SLUG_LENGTH = 40
_NUMBERED = re.compile(r"(\d{3,})-")


def _configure(parser: argparse.ArgumentParser) -> None:
    add_base_flags(parser)
    parser.add_argument(
        "--adapter",
        metavar=FORM,
        action="append",
        default=[],
        type=Weighted.parse,
        help=f"{HELP}; may be repeated",
    )
    parser.add_argument(
        "--lora-folder",
        metavar="DIR",
        type=Path,
        help="where the adapters lie that prompts name: <lora:ink:0.8>",
    )
    parser.add_argument(
        "--adapter-mask",
        metavar="NAME=PNG",
        action="append",
        default=[],
        help="the adapter of that file name acts where the picture is white; may be repeated",
    )
    parser.add_argument(
        "--region-prompt",
        metavar="NAME=TEXT",
        action="append",
        default=[],
        help="what the prompt is where that adapter's mask is white; may be repeated",
    )
    parser.add_argument(
        "--windows",
        action="store_true",
        help="draw each masked part as a picture of its own: stricter than by attention",
    )
    parser.add_argument(
        "--prompt", action="append", default=[], help="may name adapters; may be repeated"
    )
    parser.add_argument(
        "--batch",
        metavar="FILE",
        type=Path,
        help="text file with a prompt a line; pictures with different adapters share batches",
    )
    parser.add_argument(
        "--at-once", type=int, default=4, help="most pictures in one batch (default 4)"
    )
    parser.add_argument(
        "--adapter-memory",
        metavar="GB",
        type=float,
        default=2.0,
        help="most memory for adapters that take turns on the device (default 2)",
    )
    add_drawing_flags(parser, seed_of="the first picture")
    parser.add_argument("--count", type=int, default=1, help="pictures per prompt (default 1)")
    parser.add_argument(
        "--out", metavar="DIR", required=True, type=Path, help="folder that the PNGs are added to"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object, nothing else")


def _run(arguments: argparse.Namespace) -> int:
    from lora_diffusion.formats.reading import open_adapter
    from lora_diffusion.generate import PictureSpec, save_png
    from trainers.cli.mixed_scenes import MixedCast, read_batch
    from trainers.cli.scenes import Cast, Parameters, Scene, read_regions

    check_sampler(arguments.sampler)
    if min(arguments.count, arguments.steps, arguments.at_once) < 1:
        raise InputError("--count, --steps and --at-once must be at least 1.")
    prompts = [*arguments.prompt, *(read_batch(arguments.batch) if arguments.batch else [])]
    if not prompts:
        raise InputError("There is nothing to draw. Give --prompt or --batch.")
    scenes = [Scene.read(prompt, arguments.adapter, arguments.lora_folder) for prompt in prompts]
    regions = read_regions(
        arguments.adapter_mask, arguments.region_prompt, scenes, windows=arguments.windows
    )
    for path in dict.fromkeys(used.path for scene in scenes for used in scene.adapters):
        open_adapter(path)  # is it one? The base takes long to load
    base = open_base(arguments)
    width, height = size_of(arguments.size) or (base.native_size_px, base.native_size_px)
    together = [(scene, index) for scene in scenes for index in range(arguments.count)]
    pictures = [
        PictureSpec(
            prompt=scene.prompt,
            negative=arguments.negative,
            seed=arguments.seed + index,
            sampling_steps=arguments.steps,
            cfg=arguments.cfg,
            width_px=width,
            height_px=height,
            sampler=arguments.sampler,
        )
        for scene, index in together
    ]
    of_pictures = [scene for scene, _ in together]
    one_mix = all(scene.adapters == scenes[0].adapters for scene in scenes)
    # masks want their adapters on the base; and where there is one mix, no row needs its own
    if regions or one_mix:
        with closing(Cast(base, scenes, regions)) as cast:
            images = cast.draw(of_pictures, pictures, show_progress, arguments.at_once)
    else:
        mixed = MixedCast(base, scenes, int(arguments.adapter_memory * 1e9))
        images = mixed.draw(of_pictures, pictures, show_progress, arguments.at_once)
    parameters = Parameters(regions)
    files: list[str] = []
    for number, (scene, picture, image) in enumerate(
        zip(of_pictures, pictures, images, strict=True), _first_number(arguments.out)
    ):
        path = arguments.out / f"{number:03d}-{_slug(scene.prompt)}-{picture.seed}.png"
        save_png(image, path, parameters.of(scene, picture))
        files.append(str(path))
    print(file=sys.stderr)
    told = {"files": files, "adapters": [scene.as_json() for scene in scenes]}
    print(json.dumps(told, indent=2) if arguments.json else "\n".join(files))
    return 0


def _first_number(folder: Path) -> int:
    """The number after those of the pictures that are in the folder, so that none is lost."""
    found = [_NUMBERED.match(path.name) for path in folder.glob("*.png")]
    return max((int(match[1]) + 1 for match in found if match), default=0)


def _slug(prompt: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", prompt.lower())[:_SLUG_LENGTH].strip("-") or "picture"


VERB = Verb("generate", "Draw pictures with a base and weighted adapters.", _configure, _run)
