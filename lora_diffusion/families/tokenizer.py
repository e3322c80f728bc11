"""The CLIP tokenizer: from a folder, or found somewhere for checkpoints that come without one.

Every SD1.x, SD2.x and SDXL model uses the same tokenizer, and single-file checkpoints leave it
out. Where it is looked for, in order: a folder that the user names, the Hugging Face cache, the
`open_clip_torch` package (whose vocabulary file is the original one), and last the hub.

Source of the construction: Radford et al., "Learning Transferable Visual Models From Natural
Language Supervision" (arXiv:2103.00020), section 2.4, and the vocabulary file published with it:
256 bytes, the same 256 ending a word, one token per merge, and two marks make 49,408.
"""

from __future__ import annotations

import copy
import gzip
import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from lora_diffusion.errors import InputError, printable
from lora_diffusion.families import hub, prompts, weights
from lora_diffusion.families.layout import (
    AGAIN,
    TOKENIZER_MERGES,
    TOKENIZER_VOCAB,
    has_tokenizer,
)
from lora_diffusion.families.request import Progress
from lora_diffusion.keys import TEXT_ENCODER, TEXT_ENCODER_2

VOCABULARY = 49_408
BOS, EOS = "<|startoftext|>", "<|endoftext|>"
OPEN_CLIP_PADDING = "!"  # token 0
BOS_ID, EOS_ID = VOCABULARY - 2, VOCABULARY - 1
_MERGES = VOCABULARY - 2 * 256 - 2

# A prompt and its ids under the original tokenizer, to know a wrong one by.
_KNOWN_PROMPT = "a photo of a cat"
_KNOWN_IDS = [320, 1125, 539, 320, 2368]

# Hub repositories that hold it, and where in them.
_REPOSITORIES = (
    ("openai/clip-vit-large-patch14", ""),
    ("stable-diffusion-v1-5/stable-diffusion-v1-5", "tokenizer/"),
    ("runwayml/stable-diffusion-v1-5", "tokenizer/"),
    ("CompVis/stable-diffusion-v1-4", "tokenizer/"),
)
_BPE_PACKAGE, _BPE_FILE = "open_clip", "bpe_simple_vocab_16e6.txt.gz"
_MAX_TEXT_BYTES = 16 << 20


def from_folder(folder: Path) -> Any:
    """The `CLIPTokenizer` in `folder` or in its subfolder `tokenizer`.

    Raises:
        InputError: there is none, or its files are broken.
    """
    from transformers import CLIPTokenizer

    inner = folder if has_tokenizer(folder) else folder / "tokenizer"
    if not has_tokenizer(inner):
        raise InputError(
            f"model.tokenizer = {printable(folder)}: holds no CLIP tokenizer. Give a folder with "
            f"{TOKENIZER_VOCAB} and {TOKENIZER_MERGES}, such as an SD1.x model's tokenizer folder."
        )
    # The library raises whatever its parsers raise, `Exception` itself included.
    try:
        return CLIPTokenizer.from_pretrained(inner, local_files_only=True)
    except Exception as error:
        reason = printable(error, 120)
        raise InputError(
            f"{printable(inner)}: the tokenizer cannot be read ({reason}). {AGAIN}"
        ) from error


def find(given: Path | None, on_progress: Progress) -> Any:
    """CLIP's tokenizer for a checkpoint that has none.

    Args:
        given: the folder that the user named, if any; then nothing else is tried.

    Raises:
        InputError: it is nowhere to be had; the message lists the ways out.
    """
    if given is not None:
        return from_folder(given)
    cached = _from_cache()
    if cached is not None:
        return cached
    published = find_bpe_file()
    if published is not None:
        return from_bpe_file(published)
    on_progress(f"Fetching the CLIP tokenizer from the hub ({_REPOSITORIES[0][0]})")
    try:
        repo, folder = _REPOSITORIES[0]
        return _from_files(
            *(hub.file(repo, folder + n) for n in (TOKENIZER_VOCAB, TOKENIZER_MERGES))
        )
    except hub.HubError as error:
        raise InputError(
            "A single-file checkpoint comes without its tokenizer, none is on this machine, and "
            "the hub did not give it. Set model.tokenizer to the tokenizer folder of any SD1.x "
            "model, or run 'pip install --no-deps open_clip_torch', or go online once."
        ) from error


def for_parts(words: Any, arch: str) -> dict[str, Any]:
    """Text-encoder part -> tokenizer, made of the CLIP tokenizer `words`.

    All encoders read the same tokens and differ in the padding: OpenCLIP's (SD2.x, SDXL's second)
    pad with token 0, OpenAI's with the end mark.
    """
    if arch == "sd15":
        return {TEXT_ENCODER: words}
    second = _padded(words, OPEN_CLIP_PADDING)
    if arch == "sd21":
        return {TEXT_ENCODER: second}
    return {TEXT_ENCODER: _padded(words, words.eos_token), TEXT_ENCODER_2: second}


def _padded(words: Any, token: str) -> Any:
    other = copy.deepcopy(words)
    other.pad_token = token
    return other


def find_bpe_file() -> Path | None:
    """The vocabulary file in the `open_clip_torch` package, which is not imported."""
    spec = importlib.util.find_spec(_BPE_PACKAGE)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        file = Path(folder) / _BPE_FILE
        if file.is_file():
            return file
    return None


def from_bpe_file(path: Path) -> Any:
    """A `CLIPTokenizer` from CLIP's published list of merges.

    Raises:
        InputError: the file is cut short or is another one.
    """
    where = printable(path.name)
    with weights.loading(where), gzip.open(path) as file:
        lines = file.read(_MAX_TEXT_BYTES).decode("utf-8").split("\n")
    merges = [tuple(line.split()) for line in lines[1 : 1 + _MERGES]]  # line 0 names the version
    if len(merges) != _MERGES or any(len(pair) != 2 for pair in merges):
        raise InputError(f"{where}: is not CLIP's vocabulary. Reinstall open_clip_torch.")
    symbols = _byte_symbols()
    tokens = [*symbols, *(s + "</w>" for s in symbols), *("".join(m) for m in merges), BOS, EOS]
    return _checked(_build({token: i for i, token in enumerate(tokens)}, merges), where)


def check_fits(tokenizer: Any, encoder: nn.Module, where: str) -> None:
    """Raise `InputError` if `encoder` cannot read what `tokenizer` and chunking give it."""
    config: Any = encoder.config
    if config.max_position_embeddings < prompts.LENGTH:
        raise InputError(
            f"{where}: the text encoder reads {config.max_position_embeddings} tokens, where "
            f"CLIP's reads {prompts.LENGTH}. Choose another base."
        )
    if len(tokenizer) > config.vocab_size:
        raise InputError(
            f"{where}: the tokenizer knows {len(tokenizer)} tokens and the text encoder "
            f"{config.vocab_size}, so they are of different models. Set model.tokenizer to the "
            "right tokenizer folder."
        )
    if config.vocab_size == VOCABULARY:
        _checked(tokenizer, where)


def _from_cache() -> Any | None:
    for repo, folder in _REPOSITORIES:
        files = [
            hub.cached_file(repo, folder + name) for name in (TOKENIZER_VOCAB, TOKENIZER_MERGES)
        ]
        vocab, merges = files
        if vocab and merges:
            return _from_files(vocab, merges)
    return None


def _from_files(vocab_file: Path, merges_file: Path) -> Any:
    with weights.loading(printable(vocab_file.name)):
        vocab = json.loads(vocab_file.read_bytes())
        lines = merges_file.read_text(encoding="utf-8").splitlines()
        merges = [tuple(line.split()) for line in lines if line and not line.startswith("#version")]
        return _checked(_build(vocab, merges), printable(vocab_file.name))


def _build(vocab: dict[str, int], merges: Sequence[tuple[str, ...]]) -> Any:
    from transformers import CLIPTokenizer

    return CLIPTokenizer(vocab=vocab, merges=list(merges), model_max_length=prompts.LENGTH)


def _checked(tokenizer: Any, where: str) -> Any:
    """`tokenizer`, if it is CLIP's."""
    ids = tokenizer(_KNOWN_PROMPT).input_ids
    if ids != [BOS_ID, *_KNOWN_IDS, EOS_ID]:
        raise InputError(
            f"{where}: the tokenizer is not CLIP's: it reads '{_KNOWN_PROMPT}' as {ids[:9]}. Set "
            "model.tokenizer to the tokenizer folder of an SD1.x model."
        )
    return tokenizer


def _byte_symbols() -> list[str]:
    """The 256 bytes as printable characters, in the order of CLIP's vocabulary.

    Bytes that Latin-1 prints stand for themselves and come first; the others follow as the
    characters from 256 on.
    """
    printing = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = 256 - len(printing)
    return [chr(b) for b in printing] + [chr(256 + n) for n in range(others)]
