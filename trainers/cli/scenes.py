"""Prompts and the adapters that each is drawn with, from the words of a command line."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

from PIL import Image

from lora_diffusion.composition.folder import find_adapter
from lora_diffusion.composition.live import Composition, compose
from lora_diffusion.composition.prompt_tags import PromptTag, read_tags
from lora_diffusion.composition.regions import Region, read_mask
from lora_diffusion.composition.weights import Weights
from lora_diffusion.errors import InputError, listed, printable
from lora_diffusion.families.base import DiffusionBase
from lora_diffusion.formats.hash import file_hashes
from lora_diffusion.generate import PictureSpec, StepCallback
from trainers.cli.weighted import Weighted


@dataclass(frozen=True)
class Scene:
    """One prompt, without tags, and the adapters that it is drawn with."""

    prompt: str
    adapters: tuple[Weighted, ...]

    @classmethod
    def read(cls, prompt: str, flagged: Sequence[Weighted], folder: Path | None) -> Scene:
        """A prompt with the adapters given to all prompts, then those that it names itself.

        Raises:
            InputError: it names an adapter that is not in `folder`, or there is no folder.
        """
        plain, tags = read_tags(prompt)
        if tags and folder is None:
            raise InputError(
                f"The prompt names the LoRA '{printable(tags[0].name, 80)}'. Say where its file "
                "lies: --lora-folder DIR."
            )
        named = [Weighted(find_adapter(folder or "", tag.name), tag.weights) for tag in tags]
        return cls(plain, (*flagged, *named))

    def as_json(self) -> dict[str, object]:
        adapters = [
            {"file": printable(used.path, 4_096), "weights": str(used.weights)}
            for used in self.adapters
        ]
        return {"prompt": printable(self.prompt, 10_000), "adapters": adapters}


def read_regions(
    masks: Sequence[str], prompts: Sequence[str], scenes: Sequence[Scene], *, windows: bool
) -> dict[str, Region]:
    """Regions by the name of the adapter that acts there.

    Args:
        masks: `NAME=PNG`.
        prompts: `NAME=TEXT`.
        windows: draw each as a picture of its own.

    Raises:
        InputError: a word of another form, a name that no adapter has, a mask that can't be read.
    """
    known = {used.name for scene in scenes for used in scene.adapters}
    pictures = _named("--adapter-mask", "PNG", masks, known)
    texts = _named("--region-prompt", "TEXT", prompts, known)
    if without := texts.keys() - pictures.keys():
        raise InputError(
            f"--region-prompt: {listed(sorted(without))} has no mask. Give one with --adapter-mask."
        )
    return {
        name: Region(
            f"{picture}\n{texts.get(name, '')}", read_mask(picture), texts.get(name), windows
        )
        for name, picture in pictures.items()
    }


class Cast:
    """All adapters of some scenes on one base; each scene is drawn with its own."""

    def __init__(
        self, base: DiffusionBase, scenes: Sequence[Scene], regions: Mapping[str, Region]
    ) -> None:
        # A scene may use a file twice; its numbers add up.
        places = [place for scene in scenes for place in _places(scene)]
        self._composition: Composition = compose(base)
        self._members: dict[tuple[Path, int], str] = {}
        try:
            for (path, number), used in dict(places).items():
                name = self._composition.add(
                    path, 0.0, name=used.name, region=regions.get(used.name)
                )
                self._members[path, number] = name
        except BaseException:
            self._composition.close()
            raise

    def draw(
        self,
        scenes: Sequence[Scene],
        pictures: Sequence[PictureSpec],
        on_step: StepCallback,
        at_once: int,
    ) -> list[Image.Image]:
        """Draw each picture with the adapters of its scene; neighbours of one mix in batches."""
        images: list[Image.Image] = []
        total = sum(picture.sampling_steps for picture in pictures)
        pairs = list(zip(scenes, pictures, strict=True))
        for _, group in groupby(pairs, key=lambda pair: pair[0].adapters):
            members = list(group)
            before = sum(picture.sampling_steps for picture in pictures[: len(images)])

            def report(step: int, _of_group: int, before: int = before) -> None:
                on_step(before + step, total)

            self._weigh(members[0][0])
            images += self._composition.draw(
                [picture for _, picture in members], on_step=report, at_once=at_once
            )
        return images

    def close(self) -> None:
        """Take the adapters off the base."""
        self._composition.close()

    def _weigh(self, scene: Scene) -> None:
        wanted = {self._members[place]: used.weights for place, used in _places(scene)}
        for name in self._composition.names:
            self._composition.set_weights(name, wanted.get(name, Weights(0.0)))


class Parameters:
    """What pictures tell of how they were drawn.

    Args:
        regions: by the name of the adapter that acts there.
    """

    def __init__(self, regions: Mapping[str, Region]) -> None:
        self._regions = regions
        self._hashes: dict[Path, str] = {}

    def of(self, scene: Scene, picture: PictureSpec) -> str:
        """A1111's line of parameters, with the adapters where it looks for them.

        The tags stand in the prompt, the files' hashes at the end.
        """
        tags = " ".join(str(PromptTag(used.name, used.weights)) for used in scene.adapters)
        line = replace(picture, prompt=f"{picture.prompt} {tags}".strip()).parameters()
        hashes = ", ".join(f"{u.name}: {self._hash(u.path)}" for u in scene.adapters)
        if hashes:
            line += f', Lora hashes: "{hashes}"'
        for used in scene.adapters:
            region = self._regions.get(used.name)
            if region is not None:
                line += f", Region of {used.name}: {json.dumps(region.prompt or 'masked')}"
        return line

    def _hash(self, path: Path) -> str:
        if path not in self._hashes:
            self._hashes[path] = file_hashes(path).autov3 if path.is_file() else "folder"
        return self._hashes[path]


def _places(scene: Scene) -> list[tuple[tuple[Path, int], Weighted]]:
    """Each adapter of a scene under its file and how often that came before."""
    count: dict[Path, int] = {}
    places = []
    for used in scene.adapters:
        count[used.path] = count.get(used.path, 0) + 1
        places.append(((used.path, count[used.path]), used))
    return places


def _named(flag: str, what: str, words: Sequence[str], known: set[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not value:
            raise InputError(f"{flag} {printable(word, 80)}: write it as NAME={what}.")
        if name not in known:
            raise InputError(
                f"{flag}: no adapter is called '{printable(name, 80)}', only "
                f"{listed(sorted(known)) or 'none'}."
            )
        found[name] = value
    return found
