"""Prompts encoded once: in memory, or on disk where the next run finds them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch

from lora_diffusion.families.base import Conditioning, DiffusionBase
from trainers.data.cache import Progress, PromptKey, Record, Store, digest
from trainers.machine.team import ALONE, Team


class KeptPrompts(Mapping[str, Conditioning]):
    """Prompt -> its conditioning, `[1, tokens, width]`, all of equal length.

    Args:
        prompts: all that will be asked for.
        store: where they are kept; those that are missing are encoded now.
        encoders: digest of the text encoders; empty where nothing outlives the run.
        team: whose processes each encode a share.
    """

    def __init__(
        self,
        base: DiffusionBase,
        prompts: Sequence[str],
        store: Store[str],
        on_progress: Progress,
        *,
        encoders: str = "",
        clip_skip: int = 1,
        team: Team = ALONE,
    ) -> None:
        self._store = store
        chunks = max(base.prompt_chunks(prompt) for prompt in prompts)
        self._keys = {
            prompt: digest(PromptKey(prompt, encoders, str(base.dtype), clip_skip, chunks))
            for prompt in prompts
        }

        @torch.no_grad()
        def make(missing: Sequence[str]) -> list[Record]:
            encoded = (base.encode_prompts([prompt], chunks=chunks) for prompt in missing)
            return [_record(conditioning) for conditioning in encoded]

        store.fill({key: prompt for prompt, key in self._keys.items()}, make, on_progress, team)

    def __getitem__(self, prompt: str) -> Conditioning:
        record = self._store.read(self._keys[prompt])
        return Conditioning(record["context"], record.get("pooled"))

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)

    def rows(self, prompts: Sequence[str]) -> Conditioning:
        """Several prompts as one batch."""
        return Conditioning.cat([self[prompt] for prompt in prompts])


def _record(conditioning: Conditioning) -> Record:
    record = {"context": conditioning.context.cpu()}
    if conditioning.pooled is not None:
        record["pooled"] = conditioning.pooled.cpu()
    return record
