"""Thousands of damaged files: only our error ever, and nothing taken that the library refuses."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from lora_diffusion.adapter import AdapterFile
from lora_diffusion.errors import AdapterFileError
from lora_diffusion.formats import load_adapter, save_adapter
from lora_diffusion.formats.describe import describe
from lora_diffusion.formats.header import read_header

MUTANTS = 2_000
_VALUES: tuple[Any, ...] = (
    0, 1, -1, 2, 7, 1 << 31, 1 << 63, 1 << 64, 10**30, 0.5, True, None, "", "F16", "F32", "I64",
    "\x1b[31m", "x" * 500, [], [0], [1] * 9, [1, 1 << 40], {}, {"a": 1}, "alpha", "NaN",
)  # fmt: skip


def test_mutants_are_read_or_refused(tmp_path: Path, adapter: AdapterFile) -> None:
    good = tmp_path / "good.safetensors"
    save_adapter(adapter, good)
    original = good.read_bytes()
    mutant = tmp_path / "mutant.safetensors"
    rng = random.Random(20240607)
    read = refused = parsed = 0
    slowest = 0.0
    for number in range(MUTANTS):
        mutant.write_bytes(_mutate(original, rng))
        started = time.perf_counter()
        try:
            if number % 4 == 0:
                describe(mutant)
            else:
                load_adapter(mutant)
            read += 1
        except AdapterFileError as error:
            refused += 1
            assert "mutant.safetensors" in str(error)
            assert str(error).isprintable()
        slowest = max(slowest, time.perf_counter() - started)
        parsed += _agrees_with_library(mutant)
    assert slowest < 5
    assert read > MUTANTS // 20, "too few mutants get past the checks to test what follows"
    assert refused > MUTANTS // 2
    assert parsed >= read


def _agrees_with_library(path: Path) -> bool:
    """Whether our parser takes the file; then the library must too, with the same content."""
    try:
        header = read_header(path)
    except AdapterFileError:
        return False
    try:
        with safe_open(path, "numpy") as file:
            assert set(file.keys()) == set(header.tensors)
            assert (file.metadata() or {}) == header.metadata
    except SafetensorError as error:
        raise AssertionError(f"we accept what safetensors refuses: {error}") from error
    return True


def _mutate(original: bytes, rng: random.Random) -> bytes:
    length = int.from_bytes(original[:8], "little")
    text, data = original[8 : 8 + length], original[8 + length :]
    kind = rng.randrange(6)
    if kind == 0:  # flipped bits anywhere
        raw = bytearray(original)
        for _ in range(rng.randint(1, 4)):
            raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
        return bytes(raw)
    if kind == 1:  # flipped bits in the header
        raw = bytearray(original)
        for _ in range(rng.randint(1, 3)):
            raw[rng.randrange(8 + length)] ^= 1 << rng.randrange(8)
        return bytes(raw)
    if kind == 2:  # cut or grown
        cut = rng.randrange(len(original))
        return original[:cut] if rng.random() < 0.5 else original + rng.randbytes(cut % 64 + 1)
    if kind == 3:  # another length
        other = rng.choice([0, 1, length - 1, length + 8, 1 << 20, 1 << 40, (1 << 64) - 1])
        return other.to_bytes(8, "little") + original[8:]
    document = json.loads(text)
    for _ in range(rng.randint(1, 2)):
        _change(document, rng, in_data=kind == 5)
    text = json.dumps(document).encode()
    return len(text).to_bytes(8, "little") + text + data


def _change(document: dict[str, Any], rng: random.Random, *, in_data: bool) -> None:
    name = rng.choice(list(document))
    if in_data:  # only the metadata, so that much stays readable
        metadata = document.setdefault("__metadata__", {})
        key = rng.choice([*metadata, "new", "\u202e<script>", "ss_datasets", "ss_tag_frequency"])
        metadata[key] = rng.choice(["", "[", "[]", '{"a":{"b":null}}', '[{"subsets":3}]', "\x1b"])
    elif rng.random() < 0.3:
        document[rng.choice([name + "x", "x." + name, "new", "a b"])] = document.pop(name)
    elif rng.random() < 0.3 or not isinstance(document[name], dict):
        document[name] = rng.choice(_VALUES)
    elif document[name]:
        field = rng.choice(list(document[name]))
        value = document[name][field]
        if isinstance(value, list) and value and rng.random() < 0.6:
            value[rng.randrange(len(value))] = rng.choice(_VALUES)
        else:
            document[name][field] = rng.choice(_VALUES)
