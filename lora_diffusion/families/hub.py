"""Models from the Hugging Face hub: the cache first, then only the files that are needed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lora_diffusion.errors import InputError, printable
from lora_diffusion.families import detect
from lora_diffusion.families.detect import MODEL_INDEX
from lora_diffusion.families.layout import (
    PICKLE_ENDINGS,
    SDXL_STEMS,
    STEMS,
    VARIANTS,
    check_complete,
)
from lora_diffusion.keys import TEXT_ENCODER_2

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_FILE_SUFFIXES = (".safetensors", *PICKLE_ENDINGS, ".json", ".gguf")
_TIMEOUT_S = 10
# The small files, wherever they are needed: configurations and the tokenizer.
_SMALL = re.compile(
    r"model_index\.json"
    r"|(unet|vae|text_encoder(_2)?)/config\.json"
    r"|(unet|vae|text_encoder(_2)?)/[a-z_]+\.safetensors\.index(\.\w+)?\.json"
    r"|scheduler/scheduler_config\.json"
    r"|tokenizer(_2)?/(vocab\.json|merges\.txt|tokenizer\.json|tokenizer_config\.json"
    r"|special_tokens_map\.json|added_tokens\.json)"
)


class HubError(InputError):
    """The hub was asked and did not give; the message says why and what to do."""


def looks_like_id(text: str) -> bool:
    """Whether `text` could be a model on the hub: `owner/name`, and no name of a weight file."""
    return bool(_ID.fullmatch(text)) and not text.lower().endswith(_FILE_SUFFIXES)


def fetch(
    repo: str, *, half: bool, accept: Callable[[Path], None], on_progress: Callable[[str], None]
) -> Path:
    """The folder of the model `repo` in the cache, downloaded as far as it is not there.

    Args:
        half: the models will run in 16 bits, so 16-bit files serve as well as larger ones.
        accept: called with the folder when its configuration files are there and the weights are
            not yet; raises InputError to stop.
        on_progress: called with a line of text when a download begins.

    Raises:
        InputError: the hub cannot be reached, knows no such model, or does not give it out; or
            the model has no weights in safetensors.
    """
    cached = cached_folder(repo)
    if cached is not None:
        return cached
    from huggingface_hub import HfApi, snapshot_download

    on_progress(f"Asking the hub for {repo}")
    with _asking(repo):
        info = HfApi().model_info(repo, timeout=_TIMEOUT_S, files_metadata=True)
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
    if MODEL_INDEX not in sizes:
        raise HubError(_no_folder(repo, list(sizes)))
    small = [name for name in sizes if _SMALL.fullmatch(name)]
    large = choose_weights(repo, sizes, half=half)
    with _asking(repo):
        folder = Path(snapshot_download(repo, allow_patterns=small))
        accept(folder)
        total = sum(sizes[name] for name in large) / 1e9
        on_progress(f"Fetching {repo} from the hub ({total:.1f} GB, kept in the cache)")
        return Path(snapshot_download(repo, allow_patterns=[*small, *large]))


def snapshot(
    repo: str,
    patterns: Sequence[str],
    *,
    complete: Callable[[Path], bool],
    on_progress: Callable[[str], None],
) -> Path:
    """The folder in the cache with those files of `repo` that match `patterns`.

    Args:
        patterns: as of the shell, for example `*.json`.
        complete: whether a folder in the cache has all that is needed; then nothing is asked.
        on_progress: called with a line of text when a download begins.

    Raises:
        HubError: as in `fetch`.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    wanted = list(patterns)
    try:
        cached = Path(snapshot_download(repo, allow_patterns=wanted, local_files_only=True))
        if complete(cached):
            return cached
    except LocalEntryNotFoundError:
        pass
    on_progress(f"Fetching {repo} from the hub (kept in the cache)")
    with _asking(repo):
        return Path(snapshot_download(repo, allow_patterns=wanted, etag_timeout=_TIMEOUT_S))


def choose_weights(repo: str, sizes: Mapping[str, int], *, half: bool) -> list[str]:
    """The weight files to fetch out of a repository's `sizes` (name -> bytes).

    Full precision where it exists, unless `half` and every part has an fp16 file.

    Raises:
        HubError: a part has no safetensors file.
    """
    order = list(VARIANTS)
    stems = SDXL_STEMS if f"{TEXT_ENCODER_2}/config.json" in sizes else STEMS
    if half and all(f"{part}/{stem}.fp16.safetensors" in sizes for part, stem in stems.items()):
        order = ["fp16"]
    chosen: list[str] = []
    for part, stem in stems.items():
        files = next((f for v in order if (f := _files_of(part, stem, v, sizes))), [])
        if not files:
            pickled = [n for n in sizes if n.startswith(part + "/") and n.endswith(".bin")]
            cause = (
                f"its {part} is there as a Python pickle only ({printable(pickled[0], 80)}), which "
                "can run code on loading and is refused"
                if pickled
                else f"it has no {part} weights"
            )
            raise HubError(f"{repo}: {cause}. Choose a model with .safetensors files.")
        chosen += files
    return chosen


def cached_file(repo: str, name: str) -> Path | None:
    """A file of `repo` in the cache; None if it is not there. Never asks the network."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repo, name)
    return Path(found) if isinstance(found, str) and Path(found).is_file() else None


def file(repo: str, name: str) -> Path:
    """One small file of `repo`, downloaded.

    Raises:
        HubError: as in `fetch`.
    """
    from huggingface_hub import hf_hub_download

    with _asking(repo):
        return Path(hf_hub_download(repo, name, etag_timeout=_TIMEOUT_S))


def _files_of(part: str, stem: str, variant: str | None, sizes: Mapping[str, int]) -> list[str]:
    """The file, or the shards, of one part in one variant; empty if there are none."""
    middle = f".{variant}" if variant else ""
    whole = f"{part}/{stem}{middle}.safetensors"
    if whole in sizes:
        return [whole]
    if f"{part}/{stem}.safetensors.index{middle}.json" not in sizes:
        return []
    shard = re.compile(re.escape(f"{part}/{stem}{middle}") + r"-\d+-of-\d+\.safetensors")
    return [name for name in sizes if shard.fullmatch(name)]


def cached_folder(repo: str) -> Path | None:
    """The snapshot of `repo` in the cache, if nothing is missing from it."""
    index = cached_file(repo, MODEL_INDEX)
    if index is None:
        return None
    try:
        arch = detect.folder(index.parent).arch
        check_complete(index.parent, arch, repo, with_tokenizer=True)
    except InputError:
        return None
    return index.parent


def _no_folder(repo: str, names: list[str]) -> str:
    tops = [n for n in names if "/" not in n]
    checkpoints = [n for end in (".safetensors", ".ckpt") for n in tops if n.endswith(end)]
    cause = f"{repo}: has no {MODEL_INDEX}, so it is not a model in diffusers layout."
    if not checkpoints:
        return f"{cause} Choose another model."
    first = checkpoints[0]
    return (
        f"{cause} It holds {printable(', '.join(checkpoints[:3]))}: if that is a whole checkpoint, "
        f"run 'hf download {repo} {printable(first, 80)} --local-dir .' and give the file's path."
    )


@contextmanager
def _asking(repo: str) -> Iterator[None]:
    """Turn what the hub's client raises into `HubError`."""
    from huggingface_hub import errors

    # The client's own error type; the HTTP library behind it has changed its name before.
    http_error: Any = errors.HfHubHTTPError.__mro__[1]
    page = f"https://huggingface.co/{repo}"
    try:
        yield
    except InputError:
        raise
    except errors.GatedRepoError as error:
        raise HubError(
            f"{repo}: its owner asks for consent. Accept the terms at {page}, then run "
            "'hf auth login'."
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise HubError(
            f"{repo}: is neither a folder here nor a model on the Hugging Face hub. Check the "
            "spelling; if the model is private, run 'hf auth login'."
        ) from error
    except errors.RemoteEntryNotFoundError as error:
        raise HubError(f"{repo}: lacks a file that it lists. Choose another model.") from error
    except (errors.HfHubHTTPError, http_error, OSError) as error:
        raise HubError(_unreachable(repo, error)) from error


def _unreachable(repo: str, error: BaseException) -> str:
    from huggingface_hub import constants, errors

    reason: BaseException = error
    if isinstance(error, errors.LocalEntryNotFoundError) and error.__cause__ is not None:
        reason = error.__cause__
    if constants.is_offline_mode() or isinstance(reason, errors.OfflineModeIsEnabled):
        return (
            f"{repo}: is not in the cache, and offline mode is on (HF_HUB_OFFLINE). Switch it off, "
            "or give a local folder or file."
        )
    first = next((line for line in str(reason).splitlines() if line.strip()), type(reason).__name__)
    return (
        f"{repo}: is not here, and the Hugging Face hub did not give it "
        f"({printable(first).rstrip('.')}). Check the connection or the spelling, or give a local "
        "folder or file."
    )
