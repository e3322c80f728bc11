"""The parts of a run, made from its settings, before the first step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from lora_diffusion.adapter import AdapterFile
from lora_diffusion.dropout import Dropout
from lora_diffusion.errors import InputError, printable
from lora_diffusion.factors import DoRAFactors, Factors
from lora_diffusion.families import DiffusionBase, load_base
from lora_diffusion.formats import load_adapter
from lora_diffusion.injection import AdapterConfig, AdapterHandle, inject
from lora_diffusion.keys import TEXT_ENCODER_2, UNET, LayerKey
from trainers.data import doctor, prepare, tokens
from trainers.data.bucket_settings import rules_by_outline
from trainers.data.dataset import Dataset
from trainers.data.order import Order
from trainers.data.problems import refuse_errors
from trainers.data.prompts import KeptPrompts
from trainers.data.scan import Picture
from trainers.jobs import RunDir
from trainers.machine import devices
from trainers.machine.team import ALONE, Team
from trainers.machine.unet_options import compile_unet, configure, recompute_activations
from trainers.optim import NOTHING_IS_TRAINED, own_rate
from trainers.preview import Previewer
from trainers.prior import class_pictures
from trainers.progress import silence_libraries
from trainers.spec import AdapterSpec, JobSpec
from trainers.teller import Teller
from trainers.validation.watched import Watch


def find_pictures(spec: JobSpec, teller: Teller) -> tuple[list[Picture], list[Picture]]:
    """(instances, regularisation pictures) of the dataset, each looked at once.

    What is wrong with them is told in one report.

    Raises:
        InputError: names everything that can't be used, a line each.
    """
    model = spec.model
    report = doctor.diagnose(
        spec.data,
        rules=rules_by_outline(spec),
        find_tokens=lambda: tokens.find(model.base, model.tokenizer),
        on_progress=teller.counter("check", "checking pictures"),
    )
    teller.doctor(report)
    refuse_errors(report.problems)
    instances = [picture for picture in report.pictures if not picture.is_class]
    if not instances:
        raise InputError(
            "The dataset has regularisation pictures only. Add a folder whose is_class is false."
        )
    return instances, [picture for picture in report.pictures if picture.is_class]


def open_base(
    spec: JobSpec, placement: devices.Placement, on_phase: Callable[[str, str], None]
) -> DiffusionBase:
    """The base model where and how the settings want it.

    on_phase: called with a phase's name and what is being done.
    """
    model = spec.model
    silence_libraries()
    on_phase("load", f"loading {model.base}")
    staged = model.low_memory and not spec.data.class_pictures  # drawing those takes all of it
    base = load_base(
        model.base,
        device="cpu" if staged else placement.device,
        dtype=placement.dtype,
        tokenizer=model.tokenizer,
        arch=model.arch,
        prediction=model.prediction,
        zero_snr=model.zero_snr,
        clip_skip=model.clip_skip,
        put_off=() if staged else prepare.put_off(spec),
        on_progress=lambda text: on_phase("load", text),
    )
    if staged:
        base.vae.to(placement.device)
        for part in set(base.parts) - {UNET}:
            base.parts[part].to(placement.device)
    configure(base.unet, model, placement)
    return base


def find_classes(
    base: DiffusionBase,
    spec: JobSpec,
    side_px: int,
    run_dir: RunDir,
    teller: Teller,
    team: Team = ALONE,
) -> list[Picture]:
    """The class pictures, drawn by the base where missing; none where none are wanted."""
    data = spec.data
    if not data.class_pictures:
        return []
    folder = Path(data.class_folder) if data.class_folder else run_dir.class_pictures
    return class_pictures(
        base, spec, folder, side_px, teller.counter("class", "drawing class pictures"), team
    )


def place_unet(base: DiffusionBase, placement: devices.Placement) -> None:
    """Bring the UNet to its device, where `model.low_memory` has kept it back."""
    base.unet.to(placement.device)


def put_adapter(base: DiffusionBase, spec: JobSpec, name: str = "default") -> AdapterHandle:
    """Inject the adapter, under a name of its own; parts whose learning rate is 0 get none.

    Raises:
        InputError: no part has a learning rate, or a rate is for a part that the base lacks.
    """
    adapter = spec.adapter
    if spec.optim.lr_text_2 is not None and TEXT_ENCODER_2 not in base.parts:
        raise InputError(f"optim.lr_text_2: {base.name} has no second text encoder. Leave it out.")
    parts = {part: model for part, model in base.parts.items() if own_rate(spec.optim, part) > 0}
    if not parts:
        raise InputError(NOTHING_IS_TRAINED)
    handle = inject(
        parts,
        AdapterConfig(
            kind=adapter.kind,
            dora_axis=adapter.dora_axis,
            lokr_factor=adapter.lokr_factor,
            targets=adapter.targets,
            text_targets=adapter.text_targets,
            rank=adapter.rank,
            alpha=adapter.alpha,
            conv_rank=adapter.conv_rank,
            conv_alpha=adapter.conv_alpha,
            ranks=adapter.ranks,
            alphas=adapter.alphas,
            init=adapter.init,
            dropout=Dropout(adapter.rank_dropout, adapter.module_dropout, adapter.neuron_dropout),
            seed=spec.schedule.seed,
        ),
        name,
    )
    if spec.model.gradient_checkpointing:
        recompute_activations(base.parts.values())
    if spec.model.compile:
        compile_unet(base.unet, base.device)
    return handle


def read_start(base: DiffusionBase, adapter: AdapterSpec) -> AdapterFile | None:
    """The adapter that training begins with, `adapter.start_from`; None where none is named.

    Raises:
        InputError: it can't be read, or does not fit the base.
    """
    if adapter.start_from is None:
        return None
    try:
        return load_adapter(adapter.start_from, base.shapes())
    except InputError as error:
        raise InputError(f"adapter.start_from: {error}") from None


def start_from(handle: AdapterHandle, file: AdapterFile, adapter: AdapterSpec) -> None:
    """Put the numbers of `file` into a fresh adapter; layers that it lacks stay fresh.

    The run's alpha holds: where the file's differs, a factor is scaled so that the update is the
    same.

    Raises:
        InputError: the file has another kind or rank, or layers that are not trained; nothing is
            changed then.
    """
    name = f"adapter.start_from: {printable(adapter.start_from)}"
    live = dict(handle.adapters())
    for key, factors in file.layers.items():
        if key not in live:
            raise InputError(
                f"{name} has the layer {key}, which this run does not train. Set adapter.targets, "
                "adapter.text_targets, optim.lr_unet and optim.lr_text so that it does."
            )
        _check_start(name, key, factors, live[key].told(Tensor.detach))
    for key, factors in file.layers.items():
        live[key].set_factors(factors.with_alpha(live[key].alpha))


def _check_start(name: str, key: LayerKey, factors: Factors, own: Factors) -> None:
    """Raise `InputError` unless `factors` can take the place of a fresh adapter's `own`."""
    axis = factors.axis if isinstance(factors, DoRAFactors) else None
    if factors.kind != own.kind or (isinstance(own, DoRAFactors) and own.axis != axis):
        settings = {
            "lora": "Set adapter.kind to lora or rslora.",
            "dora": f"Set adapter.kind to dora and adapter.dora_axis to {axis}.",
            "full": "Whole weights aren't trained.",
        }
        fix = settings.get(factors.kind, f"Set adapter.kind to {factors.kind}.")
        raise InputError(f"{name} is of another kind. {fix}")
    shapes, own_shapes = _shapes(factors), _shapes(own)
    if shapes == own_shapes:
        return
    if factors.rank != own.rank:
        setting = (
            "adapter.conv_rank" if max(own.weight_shape[2:], default=1) > 1 else "adapter.rank"
        )
        raise InputError(
            f"{name} has the rank {factors.rank} in the layer {key}, and this run "
            f"{own.rank}. Set {setting} to {factors.rank}, or give that layer its rank with "
            "adapter.ranks."
        )
    raise InputError(
        f"{name} splits the layer {key} into {shapes}, and this run into {own_shapes}. Set "
        "adapter.lokr_factor as in the run that made it."
    )


def _shapes(factors: Factors) -> dict[str, list[int]]:
    return {name: list(tensor.shape) for name, tensor in factors.tensors().items()}


def cache_prompts(
    base: DiffusionBase,
    spec: JobSpec,
    dataset: Dataset,
    previewer: Previewer | None,
    on_progress: Callable[[int, int], None],
    watch: Watch | None = None,
    records: prepare.Records | None = None,
    team: Team = ALONE,
) -> KeptPrompts | None:
    """Every caption encoded once, so that the text encoders may be freed.

    None where they are being trained, or `data.cache` is off.

    Args:
        records: what other runs of this process encoded.
        team: whose processes each encode a share of the dataset's.
    """
    if spec.trains_text:
        return None
    captions = [*dataset.captions(), ""]
    kept = prepare.keep_prompts(base, spec, captions, on_progress, records, team)
    if kept is None:
        return None
    if previewer:
        shown = prepare.keep_prompts(base, spec, previewer.prompts, on_progress, records)
        assert shown is not None
        previewer.keep_prompts(shown.rows)
    if watch:
        measured = prepare.keep_prompts(base, spec, watch.prompts, on_progress, records)
        assert measured is not None
        watch.encode = measured.rows
    return kept


def total_steps(spec: JobSpec, order: Order) -> int:
    """`schedule.steps`, or as many as `schedule.epochs` takes."""
    schedule = spec.schedule
    if schedule.steps:
        return schedule.steps
    return -(-order.batches_in_epochs(schedule.epochs or 1) // schedule.accumulate)
