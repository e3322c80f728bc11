"""LLaVA models such as JoyCaption: captions as asked for (Liu et al., arXiv:2304.08485)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from lora_diffusion.errors import InputError, printable
from trainers.data.captioners.plugin import Captioner, Context, Plugin, Shot
from trainers.spec import Section

if TYPE_CHECKING:
    from torch import Tensor

    from trainers.data.captioners.transformers_model import Loaded

# JoyCaption is trained on requests of this form; other LLaVA models understand them too.
_REQUESTS = {
    "descriptive": "Write a long descriptive caption for this image in a formal tone.",
    "straightforward": "Write a straightforward caption for this image.",
    "short": "Write a descriptive caption for this image within 30 words.",
    "prompt": "Write a stable diffusion prompt for this image.",
    "tags": "Write a list of Booru-like tags for this image.",
}


class LlavaSettings(Section):
    """How a LLaVA model is asked."""

    model: str = Field(
        "fancyfeast/llama-joycaption-beta-one-hf-llava",
        description="Folder or hub id of a LLaVA model.",
    )
    style: Literal["descriptive", "straightforward", "short", "prompt", "tags"] = Field(
        "descriptive", description="Kind of caption that is asked for."
    )
    prompt: str | None = Field(
        None, description="The request in your own words, in place of a style; {trigger} is filled."
    )
    system: str = Field(
        "You are a helpful image captioner.", description="System message; empty sends none."
    )
    max_tokens: int = Field(300, ge=1, le=4000, description="Longest caption, in tokens.")
    temperature: float = Field(
        0.0, ge=0, le=2, description="0 always takes the likeliest word; 0.6 varies the wording."
    )
    top_p: float = Field(
        0.9, gt=0, le=1, description="With a temperature: only words within this likelihood."
    )
    seed: int = Field(0, ge=0, lt=2**63, description="With a temperature: what chance starts from.")


@dataclass(frozen=True)
class _LlavaCaptioner:
    settings: LlavaSettings
    loaded: Loaded
    request: str

    @property
    def model(self) -> str:
        return self.loaded.name

    def caption(self, shots: Sequence[Shot]) -> list[str]:
        from lora_diffusion.randomness import derive_seed

        inputs = self.inputs(shots)
        seed = derive_seed("caption", self.settings.seed, *(shot.name for shot in shots))
        tokens = self._generate(inputs, seed)
        return self.loaded.texts(tokens[:, inputs["input_ids"].shape[1] :])

    def inputs(self, shots: Sequence[Shot]) -> Any:
        """Pictures and the request for each, with one begin-of-text token."""
        start = self.loaded.processor.tokenizer.bos_token
        return self.loaded.inputs(
            [shot.image for shot in shots],
            [self.request] * len(shots),
            add_special_tokens=not (start and self.request.startswith(start)),
        )

    def _generate(self, inputs: Any, seed: int) -> Tensor:
        import torch

        length = self.settings.max_tokens
        if not self.settings.temperature:
            return self.loaded.generate(inputs, max_new_tokens=length, do_sample=False)
        device = self.loaded.placement.device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            return self.loaded.generate(
                inputs,
                max_new_tokens=length,
                do_sample=True,
                temperature=self.settings.temperature,
                top_p=self.settings.top_p,
            )


def _open(settings: LlavaSettings, context: Context) -> Captioner:
    from transformers import LlavaForConditionalGeneration, LlavaProcessor

    from trainers.data.captioners.transformers_model import load

    loaded = load(
        settings.model,
        kind="llava",
        model_class=LlavaForConditionalGeneration,
        processor_class=LlavaProcessor,
        context=context,
    )
    loaded.processor.tokenizer.padding_side = "left"
    asked = settings.prompt or _REQUESTS[settings.style]
    request = _chat(loaded, settings.system, asked.replace("{trigger}", context.trigger))
    return _LlavaCaptioner(settings, loaded, request)


def _chat(loaded: Loaded, system: str, prompt: str) -> str:
    """The request in the model's own chat format, with a place for one picture.

    Templates differ: LLaVA's take a list of parts, JoyCaption's takes text and adds the picture.
    """
    from jinja2 import TemplateError

    token: str = loaded.processor.image_token
    forms: list[tuple[Any, Any]] = [
        (
            [{"type": "text", "text": system}],
            [{"type": "image"}, {"type": "text", "text": prompt}],
        ),
        (system, prompt),
        (system, f"{token}\n{prompt}"),
    ]
    for system_content, content in forms:
        messages = [{"role": "system", "content": system_content}] if system else []
        messages.append({"role": "user", "content": content})
        try:
            chat: str = loaded.processor.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True
            )
        except (TemplateError, TypeError):
            continue
        except ValueError:
            raise InputError(
                f"{printable(loaded.name)}: has no chat template. Choose a LLaVA model made for "
                "transformers (its name often ends in -hf)."
            ) from None
        if chat.count(token) == 1 and prompt in chat:
            return chat
    raise InputError(
        f"{printable(loaded.name)}: its chat template does not take one picture and a request. Try "
        "--system '', or choose another model."
    )


PLUGIN = Plugin(
    "Captions as you ask for them, by LLaVA models such as JoyCaption.", LlavaSettings, _open
)
