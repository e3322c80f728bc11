"""Previews: the same prompts from the same noise, before training and as it goes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from lora_diffusion import bundled
from lora_diffusion.errors import InputError
from lora_diffusion.families.base import Conditioning, DiffusionBase
from lora_diffusion.generate import BATCH_SIZE, EncodedPrompts, PictureSpec, draw, save_png
from trainers.data.captions import without_trigger
from trainers.data.scan import Picture
from trainers.machine.memory import MEMORY_ERRORS, is_out_of_memory, release
from trainers.sample_prompts import SamplePrompt, read_prompts
from trainers.spec import JobSpec, PreviewSpec
from trainers.stopping import StopRequested

_CAPTION_PROMPTS = 2
T = TypeVar("T")


@dataclass(frozen=True)
class PreviewFile:
    """One drawn preview."""

    prompt: str
    path: Path


def preview_prompts(spec: JobSpec, instances: list[Picture]) -> tuple[SamplePrompt, ...]:
    """What previews draw, the trigger filled in.

    Those of `preview.prompts_file`, or `preview.prompts`, or else two captions and one without
    the trigger.

    Raises:
        InputError: the file can't be used; names the line.
    """
    trigger = spec.data.trigger or ""
    if spec.preview.prompts_file:
        samples = read_prompts(bundled.resolve(spec.preview.prompts_file))
        return tuple(replace(each, prompt=_filled(each.prompt, trigger)) for each in samples)
    if spec.preview.prompts:
        return tuple(SamplePrompt(_filled(prompt, trigger)) for prompt in spec.preview.prompts)
    captions = list(dict.fromkeys(p.caption for p in instances))[:_CAPTION_PROMPTS]
    plain = without_trigger(captions[0], spec.data.trigger)
    return tuple(map(SamplePrompt, dict.fromkeys([*captions, plain] if plain else captions)))


def _filled(prompt: str, trigger: str) -> str:
    """`prompt` with the trigger in place of `{trigger}`; without one, its comma goes too."""
    if not trigger:
        prompt = prompt.replace("{trigger}, ", "").replace(", {trigger}", "")
    return prompt.replace("{trigger}", trigger).strip()


def _picture(sample: SamplePrompt, index: int, spec: PreviewSpec, side_px: int) -> PictureSpec:
    """The picture of prompt number `index`: its own settings, or else the section's."""

    def own_or(own: T | None, usual: T) -> T:
        return usual if own is None else own

    side = spec.size_px or side_px
    return PictureSpec(
        prompt=sample.prompt,
        negative=own_or(sample.negative, spec.negative),
        seed=own_or(sample.seed, spec.seed + index),
        sampling_steps=own_or(sample.sampling_steps, spec.sampling_steps),
        cfg=own_or(sample.cfg, spec.cfg),
        width_px=own_or(sample.width_px, side),
        height_px=own_or(sample.height_px, side),
        sampler=own_or(sample.sampler, spec.sampler),
    )


class Previewer:
    """Draws the previews of a run into its `previews/` folder."""

    def __init__(
        self,
        base: DiffusionBase,
        spec: JobSpec,
        prompts: Sequence[SamplePrompt],
        side_px: int,
        folder: Path,
    ) -> None:
        self.base = base
        self.at_once = 1 if spec.model.low_memory else BATCH_SIZE
        self.folder = folder
        self.pictures = [
            _picture(prompt, index, spec.preview, side_px) for index, prompt in enumerate(prompts)
        ]
        self._encoded: EncodedPrompts | None = None
        self._is_halved = False

    @property
    def prompts(self) -> list[str]:
        """All that is encoded for the previews, negative prompts too."""
        return [text for p in self.pictures for text in (p.prompt, p.negative)]

    def keep_prompts(self, encode: Callable[[Sequence[str]], Conditioning]) -> None:
        """Encode the prompts now, because the text encoder is about to be freed."""
        self._encoded = EncodedPrompts(
            encode([p.prompt for p in self.pictures]), encode([p.negative for p in self.pictures])
        )

    def files_at(self, step: int) -> list[PreviewFile]:
        """Where the previews of `step` lie, drawn or not."""
        folder = self.folder / f"step-{step:08d}"
        return [
            PreviewFile(picture.prompt, folder / f"{index:02d}.png")
            for index, picture in enumerate(self.pictures)
        ]

    def draw(self, step: int, check_stop: Callable[[], None]) -> list[PreviewFile]:
        """Draw all previews as the model stands.

        check_stop: called at every denoising step; what it raises ends the drawing.

        Raises:
            InputError: a picture is not finite.
            OSError: the disk is full.
        """
        images = draw(
            self.base,
            self.pictures,
            encoded=self._encoded,
            at_once=self.at_once,
            on_step=lambda _done, _total: check_stop(),
        )
        files = self.files_at(step)
        for file, picture, image in zip(files, self.pictures, images, strict=True):
            text = f"{picture.parameters()}, Training step: {step}"
            save_png(image, file.path, text)
        return files

    def try_draw(
        self, step: int, check_stop: Callable[[], None]
    ) -> tuple[list[PreviewFile], list[str]]:
        """As `draw`, but a failure is told and not raised: previews never end a run.

        Where memory runs out, this and all later previews are drawn one at a time, then smaller.

        Returns:
            The files, and sentences on what went wrong.
        """
        told: list[str] = []
        while True:
            try:
                return self.draw(step, check_stop), told
            except StopRequested:
                reason = "the run was asked to stop."
            except (InputError, OSError, *MEMORY_ERRORS) as error:
                reason = str(error).splitlines()[0] if str(error) else type(error).__name__
                less = self._less() if is_out_of_memory(error) else None
                if less is not None:
                    told.append(f"Memory ran out while drawing previews: {less} from here on.")
                    reason = ""
            if reason:
                return [], [*told, f"Previews at step {step} were left out: {reason}"]
            release()

    def _less(self) -> str | None:
        """Draw with less memory than before; how, in words, or None where nothing is left."""
        if self.at_once > 1:
            self.at_once = 1
            return "they are drawn one at a time"
        if self._is_halved:
            return None
        step = self.base.size_step_px
        self._is_halved = True
        self.pictures = [
            replace(
                picture,
                width_px=max(step, picture.width_px // 2 // step * step),
                height_px=max(step, picture.height_px // 2 // step * step),
            )
            for picture in self.pictures
        ]
        return "they are half the size"
