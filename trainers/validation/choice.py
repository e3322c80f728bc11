"""Which pictures are held out of training, and which are measured."""

from __future__ import annotations

from collections.abc import Sequence

from lora_diffusion import bundled
from lora_diffusion.errors import InputError, printable
from trainers.data import scan
from trainers.data.cache import file_digest
from trainers.data.scan import Picture
from trainers.spec import DataSpec, ValidationSpec


def hold_out(
    spec: ValidationSpec, pictures: Sequence[Picture]
) -> tuple[list[Picture], list[Picture]]:
    """(to train on, held out), each in its order.

    Which ones follows from the files' hashes alone, so that it is the same at every start, and no
    copy of a held-out picture is trained.

    Raises:
        InputError: nothing would be left to train on.
    """
    count = spec.count_held_out(len(pictures))
    digests = {picture.name: picture.digest or file_digest(picture.path) for picture in pictures}
    chosen: set[str] = set()
    for digest in sorted(set(digests.values())):
        if sum(each in chosen for each in digests.values()) >= count:
            break
        chosen.add(digest)
    trained = [picture for picture in pictures if digests[picture.name] not in chosen]
    if not trained:
        raise InputError(
            f"validation.hold_out = {count}: the dataset has {len(pictures)} pictures, so none is "
            "left to train on. Lower it, or set validation.folder."
        )
    return trained, [picture for picture in pictures if digests[picture.name] in chosen]


def check_folder(spec: ValidationSpec) -> None:
    """Raise `InputError` where `validation.folder` is not there."""
    if spec.folder is not None and not bundled.resolve(spec.folder).is_dir():
        raise InputError(
            f"{printable(spec.folder)}: there is no such folder. Check validation.folder."
        )


def of_folder(spec: ValidationSpec, data: DataSpec) -> list[Picture]:
    """The pictures of `validation.folder`, captioned as those of `data.folder` are.

    Raises:
        InputError: the folder can't be used, or pictures lack captions.
    """
    if spec.folder is None:
        return []
    check_folder(spec)
    found = scan.find(data.model_copy(update={"folder": spec.folder, "subsets": ()}))
    return [picture for picture in found if not picture.is_class]


def evenly(pictures: Sequence[Picture], most: int) -> list[Picture]:
    """At most `most` of them, evenly spread over their order."""
    if len(pictures) <= most:
        return list(pictures)
    return [pictures[number * len(pictures) // most] for number in range(most)]
