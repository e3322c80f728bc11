"""Other metadata for an adapter file: the tensors' bytes stay as they are. No torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from lora_diffusion.errors import InputError, printable
from lora_diffusion.files import replace_atomically
from lora_diffusion.formats import hash as hashes
from lora_diffusion.formats.header import MAX_HEADER_BYTES, read_header

MODEL_HASH_KEY = "sshs_model_hash"
LEGACY_HASH_KEY = "sshs_legacy_hash"  # covers the `ss_` keys, so it is false once one changes
_MAX_KEY = 200
_BLOCK = 1 << 20

# What a stranger needs to use a file. Captions, folders, times and the machine are not among it.
SHARED_KEYS = frozenset(
    {
        *("ss_base_model_version", "ss_v2", "ss_network_module", "ss_network_dim"),
        *("ss_network_alpha", "ss_network_args", "ss_clip_skip", "ss_output_name"),
        *("ss_resolution", "ss_zero_terminal_snr", "format", "lora_adapter_metadata"),
        *(
            f"modelspec.{key}"
            for key in (
                *("sai_model_spec", "architecture", "implementation", "title", "description"),
                *("author", "license", "usage_hint", "trigger_phrase", "resolution", "thumbnail"),
                *("prediction_type", "hash_sha256", "tags", "encoder_layer"),
            )
        ),
        MODEL_HASH_KEY,
    }
)


def shared(metadata: Mapping[str, str]) -> dict[str, str]:
    """What of a file's metadata stays when it is cleaned for sharing."""
    return {key: value for key, value in metadata.items() if key in SHARED_KEYS}


def relabel(source: str | Path, out: str | Path, metadata: Mapping[str, str]) -> None:
    """Write the tensors of `source` with this metadata to `out`, which may be `source` itself.

    `sshs_legacy_hash` is left out where the metadata changes.

    Raises:
        AdapterFileError: `source` is no safetensors file.
        InputError: a key is empty or too long, or the header would be larger than readers take.
        OSError: the disk refused; `out` is as it was.
    """
    header = read_header(source)
    final = dict(metadata)
    if final != dict(header.metadata):
        final.pop(LEGACY_HASH_KEY, None)
    for key in final:
        if not key.strip() or len(key) > _MAX_KEY:
            raise InputError(
                f"'{printable(key, 60)}': a metadata key has 1 to {_MAX_KEY} letters. Change it."
            )
    start = header.start_with(dict(sorted(final.items())))
    if len(start) > MAX_HEADER_BYTES:
        raise InputError(
            f"The metadata makes a header of {len(start):,} bytes; readers take "
            f"{MAX_HEADER_BYTES:,} at most. Shorten it."
        )

    def write(target: Path) -> None:
        with header.path.open("rb") as read, target.open("wb") as file:
            read.seek(header.data_start)
            file.write(start)
            while block := read.read(_BLOCK):
                file.write(block)
        read_header(target)

    before = hashes.model_hash(header.path)
    replace_atomically(Path(out).expanduser(), write)
    if hashes.model_hash(Path(out).expanduser()) != before:
        raise InputError(f"{printable(out)}: the file changed while it was copied. Try again.")


def changed(
    metadata: Mapping[str, str], values: Mapping[str, str], removed: Iterable[str]
) -> dict[str, str]:
    """`metadata` with `values` set and `removed` left out.

    Raises:
        InputError: a key to remove is not there.
    """
    final = {**metadata, **values}
    for key in removed:
        if key not in final:
            raise InputError(f"'{printable(key, 60)}': the file has no such metadata key.")
        del final[key]
    return final
