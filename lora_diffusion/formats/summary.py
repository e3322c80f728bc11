"""What any file's metadata says, ours or another tool's, made safe to show. No torch.

Metadata is untrusted text: anyone can have written it. Each string that leaves here has no control
or bidirectional characters and a bounded length; what is malformed counts as absent. HTML is left
as it is, since escaping belongs to whatever shows it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from lora_diffusion.errors import printable
from lora_diffusion.formats.metadata import parsed, stated_arch

MAX_NAME = 200
MAX_TEXT = 4_000
MAX_VALUE = 100_000
MAX_TRIGGERS = 32
MAX_TAGS_SHOWN = 200

_REPEATS = re.compile(r"^\d{1,6}_(.+)$")  # kohya's folders: `10_name`, ten repeats of `name`
_PREDICTIONS = {"epsilon": "epsilon", "v": "v_prediction", "v_prediction": "v_prediction"}


@dataclass(frozen=True)
class Summary:
    """The facts worth a line on a card; empty or None where the file doesn't say.

    Attributes:
        title: name of the adapter.
        arch: `sd15`, `sd21`, `sdxl` or None.
        prediction: `epsilon`, `v_prediction` or "".
        base: name of the base model.
        base_hash: hash of it, in whatever form the tool wrote.
        trigger_words: what calls the subject up, most telling source only.
        tags: most frequent caption tags and their counts, over all folders.
        author, description, license, usage_hint, date: as stated.
        module: kohya's network module (`networks.lora`).
        rank, alpha: as stated; the tensors decide.
        steps, epochs: of the training.
        clip_skip: as stated.
        resolution: as stated (`512x512`, `(512, 512)`).
        thumbnail: an image data URL, or "".
    """

    title: str = ""
    arch: str | None = None
    prediction: str = ""
    base: str = ""
    base_hash: str = ""
    trigger_words: tuple[str, ...] = ()
    tags: tuple[tuple[str, int], ...] = ()
    author: str = ""
    description: str = ""
    license: str = ""
    usage_hint: str = ""
    date: str = ""
    module: str = ""
    rank: str = ""
    alpha: str = ""
    steps: int | None = None
    epochs: int | None = None
    clip_skip: int | None = None
    resolution: str = ""
    thumbnail: str = ""


def summarise(metadata: Mapping[str, str]) -> Summary:
    """Read the metadata of a file made by any tool. Never fails."""

    def text(*keys: str, limit: int = MAX_NAME) -> str:
        found = (clean(metadata.get(key, ""), limit) for key in keys)
        return next((value for value in found if value and value != "None"), "")

    return Summary(
        title=text("modelspec.title", "ss_output_name"),
        arch=stated_arch(metadata),
        prediction=_PREDICTIONS.get(text("modelspec.prediction_type"), ""),
        base=text("ss_sd_model_name", "ss_base_model_name"),
        base_hash=text("ss_new_sd_model_hash", "ss_sd_model_hash"),
        trigger_words=trigger_words(metadata),
        tags=_tags(metadata),
        author=text("modelspec.author"),
        description=text("modelspec.description", "ss_training_comment", limit=MAX_TEXT),
        license=text("modelspec.license"),
        usage_hint=text("modelspec.usage_hint", limit=MAX_TEXT),
        date=text("modelspec.date"),
        module=text("ss_network_module"),
        rank=text("ss_network_dim", limit=20),
        alpha=text("ss_network_alpha", limit=20),
        steps=_whole(text("ss_steps", "ss_max_train_steps")),
        epochs=_whole(text("ss_num_epochs", "ss_epoch")),
        clip_skip=_whole(text("ss_clip_skip", "modelspec.encoder_layer")),
        resolution=text("modelspec.resolution", "ss_resolution"),
        thumbnail=_thumbnail(metadata.get("modelspec.thumbnail", "")),
    )


def trigger_words(metadata: Mapping[str, str]) -> tuple[str, ...]:
    """The words that call the subject up, from the first source that has any.

    In order: `modelspec.trigger_phrase`, the class tokens of `ss_datasets`, the names of kohya's
    data folders (`10_name`).
    """
    for source in (_from_phrase, _from_datasets, _from_folders):
        words = [word for text in source(metadata) for word in _split(text)]
        if words:
            return tuple(dict.fromkeys(words))[:MAX_TRIGGERS]
    return ()


def clean(text: str, limit: int = MAX_NAME) -> str:
    """`text` as one printable line of at most `limit` characters."""
    return printable(" ".join(text[: 4 * limit].split()), limit)


def clean_metadata(metadata: Mapping[str, str]) -> dict[str, str]:
    """All of a file's metadata, printable, each value at most `MAX_VALUE` characters."""
    return {clean(key): clean(value, MAX_VALUE) for key, value in metadata.items()}


def _from_phrase(metadata: Mapping[str, str]) -> Iterator[str]:
    yield metadata.get("modelspec.trigger_phrase", "")


def _from_datasets(metadata: Mapping[str, str]) -> Iterator[str]:
    datasets = parsed(metadata.get("ss_datasets", ""))
    for dataset in datasets[:MAX_TRIGGERS] if isinstance(datasets, list) else []:
        subsets = dataset.get("subsets") if isinstance(dataset, dict) else None
        for subset in subsets[:MAX_TRIGGERS] if isinstance(subsets, list) else []:
            if isinstance(subset, dict) and not subset.get("is_reg"):
                tokens = subset.get("class_tokens")
                yield tokens if isinstance(tokens, str) else ""


def _from_folders(metadata: Mapping[str, str]) -> Iterator[str]:
    for key in ("ss_tag_frequency", "ss_dataset_dirs"):
        folders = parsed(metadata.get(key, ""))
        for folder in list(folders)[:MAX_TRIGGERS] if isinstance(folders, dict) else []:
            match = _REPEATS.match(folder)
            yield match.group(1) if match else ""


def _split(text: str) -> list[str]:
    words = (clean(word) for word in text[:MAX_TEXT].split(","))
    return [word for word in words if word]


def _tags(metadata: Mapping[str, str]) -> tuple[tuple[str, int], ...]:
    folders = parsed(metadata.get("ss_tag_frequency", ""))
    counts: dict[str, int] = {}
    for tags in folders.values() if isinstance(folders, dict) else ():
        for tag, count in tags.items() if isinstance(tags, dict) else ():
            if type(count) is int and count > 0:
                counts[tag] = counts.get(tag, 0) + count
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:MAX_TAGS_SHOWN]
    return tuple((clean(tag), count) for tag, count in ordered)


def _whole(text: str) -> int | None:
    return int(text) if re.fullmatch(r"[0-9]{1,12}", text) else None


def _thumbnail(url: str) -> str:
    """A picture's data URL, or nothing: no other URL may come out of a file."""
    pattern = r"data:image/(jpeg|png|webp);base64,[A-Za-z0-9+/]+={0,2}"
    return url if len(url) <= 4 * MAX_VALUE and re.fullmatch(pattern, url) else ""
