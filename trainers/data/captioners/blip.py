"""BLIP: short sentences (Li et al., arXiv:2201.12086)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import Field

from trainers.data.captioners.plugin import Captioner, Context, Plugin, Shot
from trainers.spec import Section

if TYPE_CHECKING:
    from trainers.data.captioners.transformers_model import Loaded


class BlipSettings(Section):
    """How BLIP writes."""

    model: str = Field(
        "Salesforce/blip-image-captioning-large", description="Folder or hub id of a BLIP model."
    )
    start: str = Field("", description="Words that every caption begins with; BLIP goes on.")
    max_tokens: int = Field(50, ge=1, le=400, description="Longest caption, in tokens.")
    min_tokens: int = Field(0, ge=0, le=400, description="Shortest caption, in tokens.")
    beams: int = Field(3, ge=1, le=16, description="Wordings compared; 1 is fastest.")
    repetition_penalty: float = Field(
        1.0, ge=1, le=5, description="Above 1, words that were used become less likely."
    )


@dataclass(frozen=True)
class _BlipCaptioner:
    settings: BlipSettings
    loaded: Loaded

    @property
    def model(self) -> str:
        return self.loaded.name

    def caption(self, shots: Sequence[Shot]) -> list[str]:
        start = self.settings.start.strip()
        inputs = self.loaded.inputs(
            [shot.image for shot in shots], [start] * len(shots) if start else None
        )
        tokens = self.loaded.generate(
            inputs,
            max_new_tokens=self.settings.max_tokens,
            min_new_tokens=self.settings.min_tokens,
            num_beams=self.settings.beams,
            repetition_penalty=self.settings.repetition_penalty,
            do_sample=False,
        )
        return self.loaded.texts(tokens)


def _open(settings: BlipSettings, context: Context) -> Captioner:
    from transformers import BlipForConditionalGeneration, BlipProcessor

    from trainers.data.captioners.transformers_model import load

    loaded = load(
        settings.model,
        kind="blip",
        model_class=BlipForConditionalGeneration,
        processor_class=BlipProcessor,
        context=context,
    )
    return _BlipCaptioner(settings, loaded)


PLUGIN = Plugin("Short sentences by BLIP.", BlipSettings, _open, batch=8)
