"""How many of CLIP's tokens a caption has, and what lies beyond the 75 of one chunk. No torch.

Source of the construction: Radford et al., arXiv:2103.00020, section 2.4; every SD1.x, SD2.x and
SDXL text encoder reads the same tokens. Training counts with the base's own tokenizer.
"""

from __future__ import annotations

import gzip
import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

from lora_diffusion import bundled
from lora_diffusion.errors import InputError, printable

CHUNK_TOKENS = 75
_MERGES = 49_408 - 2 * 256 - 2
_MAX_BYTES = 16 << 20
_WORDS = Regex(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")
_REPOSITORIES = ("openai/clip-vit-large-patch14", "stable-diffusion-v1-5/stable-diffusion-v1-5")
_FILES = ("vocab.json", "merges.txt")


class ClipTokens:
    """Counts tokens as CLIP's tokenizer makes them, without the marks at both ends."""

    def __init__(self, vocabulary: dict[str, int], merges: list[tuple[str, str]]) -> None:
        self._tokenizer = Tokenizer(
            models.BPE(vocabulary, merges, end_of_word_suffix="</w>", unk_token="<|endoftext|>")
        )
        self._tokenizer.normalizer = normalizers.Sequence(
            [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
        )
        self._tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(_WORDS, behavior="removed", invert=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False),
            ]
        )

    def count(self, text: str) -> int:
        """Tokens of `text`."""
        return len(self._tokenizer.encode(text).ids)

    def beyond(self, text: str) -> str:
        """The end of `text` that does not fit into one chunk; empty where all of it does."""
        offsets = self._tokenizer.encode(text).offsets
        return text[offsets[CHUNK_TOKENS][0] :] if len(offsets) > CHUNK_TOKENS else ""


def find(base: str | None = None, tokenizer: str | None = None) -> ClipTokens | None:
    """The tokenizer of `base` or in the folder `tokenizer`, or CLIP's where this machine has it.

    Nothing is downloaded. None where there is none.

    Raises:
        InputError: its files are there and broken.
    """
    for vocabulary, merges in _places(base, tokenizer):
        if vocabulary.is_file() and merges.is_file():
            return _from_files(vocabulary, merges)
    published = _published()
    return _from_merges(published) if published else None


def _places(base: str | None, tokenizer: str | None) -> Iterator[tuple[Path, Path]]:
    folders = [Path(tokenizer).expanduser()] if tokenizer else []
    if base and base.startswith(bundled.PREFIX):
        folders.append(bundled.resolve(base))
    elif base:
        folders.append(Path(base).expanduser())
    for folder in folders:
        for inner in (folder, folder / "tokenizer"):
            yield inner / _FILES[0], inner / _FILES[1]
    from huggingface_hub import try_to_load_from_cache

    for repository in _REPOSITORIES:
        for prefix in ("", "tokenizer/"):
            found = [try_to_load_from_cache(repository, prefix + name) for name in _FILES]
            if all(isinstance(path, str) for path in found):
                vocabulary, merges = (Path(str(path)) for path in found)
                yield vocabulary, merges


def _published() -> Path | None:
    """The list of merges in the package open_clip_torch, which is not imported."""
    spec = importlib.util.find_spec("open_clip")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        file = Path(folder) / "bpe_simple_vocab_16e6.txt.gz"
        if file.is_file():
            return file
    return None


def _from_files(vocabulary: Path, merges: Path) -> ClipTokens:
    try:
        lines = merges.read_text(encoding="utf-8").splitlines()
        pairs = [_pair(line) for line in lines if line and not line.startswith("#version")]
        return ClipTokens(json.loads(vocabulary.read_bytes()), pairs)
    except Exception as error:  # tokenizers raises nothing narrower
        raise InputError(
            f"{printable(vocabulary.parent)}: the tokenizer can't be read "
            f"({printable(error, 80)}). Replace its files."
        ) from None


def _from_merges(file: Path) -> ClipTokens:
    with gzip.open(file) as stream:
        lines = stream.read(_MAX_BYTES).decode("utf-8").split("\n")
    pairs = [_pair(line) for line in lines[1 : 1 + _MERGES]]  # line 0 names the version
    symbols = _byte_symbols()
    tokens = [*symbols, *(s + "</w>" for s in symbols), *("".join(pair) for pair in pairs)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    return ClipTokens({token: i for i, token in enumerate(tokens)}, pairs)


def _pair(line: str) -> tuple[str, str]:
    first, second = line.split()
    return first, second


def _byte_symbols() -> list[str]:
    """The 256 bytes as printable characters, those that Latin-1 prints first."""
    printing = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    return [chr(b) for b in printing] + [chr(256 + n) for n in range(256 - len(printing))]
