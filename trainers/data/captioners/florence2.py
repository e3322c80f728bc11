"""Florence-2: sentences of three lengths (Xiao et al., arXiv:2311.06242)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from trainers.data.captioners.plugin import Captioner, Context, Plugin, Shot
from trainers.spec import Section

if TYPE_CHECKING:
    from trainers.data.captioners.transformers_model import Loaded

_TASKS = {
    "short": "<CAPTION>",
    "detailed": "<DETAILED_CAPTION>",
    "paragraph": "<MORE_DETAILED_CAPTION>",
}


class Florence2Settings(Section):
    """How Florence-2 writes."""

    model: str = Field(
        "florence-community/Florence-2-large-ft",
        description="Folder or hub id of a Florence-2 model in transformers' own layout.",
    )
    detail: Literal["short", "detailed", "paragraph"] = Field(
        "detailed", description="How much is told: a sentence, several, or a paragraph."
    )
    max_tokens: int = Field(256, ge=1, le=1000, description="Longest caption, in tokens.")
    beams: int = Field(3, ge=1, le=16, description="Wordings compared; 1 is fastest.")


@dataclass(frozen=True)
class _Florence2Captioner:
    settings: Florence2Settings
    loaded: Loaded

    @property
    def model(self) -> str:
        return self.loaded.name

    def caption(self, shots: Sequence[Shot]) -> list[str]:
        task = _TASKS[self.settings.detail]
        inputs = self.loaded.inputs([shot.image for shot in shots], [task] * len(shots))
        tokens = self.loaded.generate(
            inputs,
            max_new_tokens=self.settings.max_tokens,
            num_beams=self.settings.beams,
            do_sample=False,
        )
        return self.loaded.texts(tokens)


def _open(settings: Florence2Settings, context: Context) -> Captioner:
    from transformers import Florence2ForConditionalGeneration, Florence2Processor

    from trainers.data.captioners.transformers_model import load

    loaded = load(
        settings.model,
        kind="florence2",
        model_class=Florence2ForConditionalGeneration,
        processor_class=Florence2Processor,
        context=context,
    )
    return _Florence2Captioner(settings, loaded)


PLUGIN = Plugin("Sentences of three lengths by Florence-2.", Florence2Settings, _open, batch=4)
