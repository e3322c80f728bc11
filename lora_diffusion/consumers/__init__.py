"""Who reads an adapter file: models of diffusers, A1111 and Forge, ComfyUI, InvokeAI, sd-scripts.

Each consumer's file is written from the facts of that program, apart from the codecs in `formats`:
the names under which it looks for layers, what it does with the rest, and which delta comes out.
Nothing here needs torch: the delta of a LoRA is settled by alpha and rank, and DoRA's by the axis.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from lora_diffusion.consumers import a1111_forge, comfyui, diffusers, invokeai, sd_scripts
from lora_diffusion.consumers.comfy_lora import has_elements, names_of
from lora_diffusion.consumers.report import Report
from lora_diffusion.consumers.target import Target, any_of_class, of_base, published
from lora_diffusion.consumers.view import KIND_WORDS, FileView, view_file
from lora_diffusion.keys import LayerKey

__all__ = ["CONSUMERS", "TITLES", "Portability", "Report", "Target", "of_base", "verify"]

_Read = Callable[[FileView, Target], Report]
CONSUMERS: Mapping[str, _Read] = MappingProxyType(
    {module.NAME: module.read for module in (diffusers, a1111_forge, comfyui, invokeai, sd_scripts)}
)
TITLES: Mapping[str, str] = MappingProxyType(
    {
        "diffusers": "diffusers",
        "a1111-forge": "A1111/Forge",
        "comfyui": "ComfyUI",
        "invokeai": "InvokeAI",
        "sd-scripts": "sd-scripts",
    }
)


@dataclass(frozen=True)
class Portability:
    """What all consumers make of one file.

    Attributes:
        path: file or folder.
        arch: for which base it was read.
        target: what that base is called.
        reports: one a consumer, by name.
        misfits: layers that the given base lacks or has in another shape, as the file spells them;
            empty where no base was given.
        notes: one sentence for each thing assumed, or that no file of the kind can have.
    """

    path: Path
    arch: str
    target: str
    reports: Mapping[str, Report]
    misfits: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def portable(self) -> bool:
        """Whether every consumer takes every key and applies the right delta."""
        return all(report.reads_it for report in self.reports.values())

    @property
    def readers(self) -> tuple[str, ...]:
        """The consumers that do."""
        return tuple(name for name, report in self.reports.items() if report.reads_it)

    @property
    def unread(self) -> dict[str, str]:
        """The other consumers, and for each the weightiest reason."""
        return {
            name: report.reasons[0] for name, report in self.reports.items() if not report.reads_it
        }

    @property
    def line(self) -> str:
        """For people, to go after "the file is": portable, or who reads it and why not the rest."""
        if self.portable:
            return f"portable: {_listed(self.readers)} read every key."
        readers = f"only {_listed(self.readers)}" if self.readers else "no program"
        reasons = " ".join(f"{TITLES[name]}: {why}." for name, why in self.unread.items())
        return f"not portable: {readers} can read every key right. {reasons}"


def verify(path: str | Path, base: Target | None = None) -> Portability:
    """Read an adapter as each consumer would.

    Args:
        path: a file, or a folder as `load_adapter` takes it.
        base: the model that it is for, from `of_base`. Without one, the published model of the
            architecture that the file names; or, where no layer has that model's size, any model
            of the class, whose shapes are not checked.

    Raises:
        AdapterFileError: missing, broken, hostile, or not an adapter.
    """
    view = view_file(path)
    notes = []
    arch = base.arch if base else view.arch
    if arch is None:
        arch = "sd15"
        notes.append("Neither tensors nor metadata say which base it is for; sd15 assumed.")
    target = base
    if target is None:
        target = published(arch)
        if not _has_its_size(view, target):
            target = any_of_class(arch)
            notes.append(
                f"No layer has the size of {published(arch).name}'s, so shapes are not checked; "
                "--base checks them against the base it was made for."
            )
    notes += _limits(view)
    reports = {name: read(view, target) for name, read in CONSUMERS.items()}
    misfits = _misfits(view, base) if base else ()
    return Portability(
        view.path, arch, target.name, MappingProxyType(reports), misfits, tuple(notes)
    )


def _limits(view: FileView) -> list[str]:
    """What no file of this kind or dialect can do, so that another export would not help."""
    found = []
    kinds = {module.kind for module in view.modules}
    if any("dora_scale" in module.names for module in view.modules):
        found.append(
            "No DoRA file works in all five: diffusers and sd-scripts leave dora_scale out. Per "
            "input (shape [1, in]) it works in A1111, Forge, ComfyUI and InvokeAI."
        )
    for kind in sorted(kinds - {"lora", ""}):
        found.append(
            f"No file with {KIND_WORDS[kind]} works in all five: diffusers and sd-scripts read "
            "LoRA only."
        )
    if view.format in ("diffusers", "peft", "lycoris", "legacy"):
        found.append(
            f"No file in the {view.format} dialect works in all five; converted with --to kohya "
            "it may."
        )
    return found


def _has_its_size(view: FileView, target: Target) -> bool:
    """Whether the layers that it has in common with the target have mostly its shapes."""
    names = _all_names(target)
    known = [(module, names[module.stem]) for module in view.modules if module.stem in names]
    fitting = sum(has_elements(module, target.shapes[key]) for module, key in known)
    return 2 * fitting >= len(known)


def _misfits(view: FileView, target: Target) -> tuple[str, ...]:
    names = _all_names(target)
    return tuple(
        module.stem
        for module in view.modules
        if module.stem not in names or not has_elements(module, target.shapes[names[module.stem]])
    )


def _all_names(target: Target) -> Mapping[str, LayerKey]:
    """Every spelling of every layer that some consumer knows, and PEFT's and diffusers' own."""
    names = names_of(target)
    for key in target.shapes:
        short = key.path.removeprefix("text_model.")
        names |= {f"{key.part}.{key.path}": key, f"base_model.model.{short}": key}
        names |= {f"{key.part}/base_model.model.{path}": key for path in (short, key.path)}
    return names


def _listed(names: tuple[str, ...]) -> str:
    titles = [TITLES[name] for name in names]
    return " and ".join(filter(None, (", ".join(titles[:-1]), *titles[-1:])))
