"""sd-scripts' training settings, and kohya_ss' JSON of them, as a layer of ours.

Sources: the options of kohya-ss/sd-scripts (`library/train_util.py`, `train_network.py`) and the
presets of bmaltais/kohya_ss. Where a setting is left out and sd-scripts' default differs from ours
in what is learned, theirs is written down.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from typing import Any

from lora_diffusion.errors import printable
from trainers.importing import values as read
from trainers.importing.kohya_datasets import DATA_KEYS, data_settings, resolution_px

Layer = dict[str, dict[str, Any]]

# Ours -> theirs (in order of preference) and how the value is read; None leaves the setting out.
_RULES: Mapping[str, tuple[tuple[str, ...], Callable[[Any], Any]]] = {
    "model.base": (("pretrained_model_name_or_path",), read.text),
    "model.clip_skip": (("clip_skip",), read.positive_int),
    "model.gradient_checkpointing": (("gradient_checkpointing",), read.flag),
    "model.zero_snr": (("zero_terminal_snr",), read.flag_if_set),
    "model.precision": (
        ("mixed_precision",),
        read.one_of({"no": "fp32", "fp16": "fp16", "bf16": "bf16"}),
    ),
    "adapter.rank": (("network_dim",), read.positive_int),
    "adapter.start_from": (("network_weights", "lora_network_weights"), read.text),
    "adapter.neuron_dropout": (("network_dropout",), read.positive),
    "adapter.rank_dropout": (("rank_dropout",), read.positive),
    "adapter.module_dropout": (("module_dropout",), read.positive),
    "objective.min_snr_gamma": (("min_snr_gamma",), read.positive),
    "objective.debiased": (("debiased_estimation_loss",), read.flag),
    "objective.v_like_epsilon": (("scale_v_pred_loss_like_noise_pred",), read.flag),
    "objective.noise_offset": (("noise_offset",), read.positive),
    "objective.multires_levels": (("multires_noise_iterations",), read.positive_int),
    "objective.multires_discount": (("multires_noise_discount",), read.positive),
    "objective.input_perturbation": (("ip_noise_gamma",), read.positive),
    "objective.timestep_min": (("min_timestep",), read.positive_int),
    "objective.timestep_max": (("max_timestep",), read.timestep_max),
    "objective.prior_weight": (("prior_loss_weight",), read.number),
    "objective.kind": (
        ("loss_type",),
        read.one_of({"l2": "mse", "huber": "huber", "smooth_l1": "huber"}),
    ),
    "optim.clip_norm": (("max_grad_norm",), read.number),
    "optim.max_norm": (("scale_weight_norms",), read.positive),
    "schedule.batch_size": (("train_batch_size",), read.positive_int),
    "schedule.accumulate": (("gradient_accumulation_steps",), read.positive_int),
    "schedule.seed": (("seed",), read.positive_int),
    "save.name": (("output_name",), read.text),
    "save.every_epochs": (("save_every_n_epochs",), read.positive_int),
    "save.every_steps": (("save_every_n_steps",), read.positive_int),
    "save.dtype": (
        ("save_precision",),
        read.one_of({"float": "fp32", "fp16": "fp16", "bf16": "bf16"}),
    ),
    "save.title": (("metadata_title",), read.text),
    "save.author": (("metadata_author",), read.text),
    "save.description": (("metadata_description", "training_comment"), read.text),
    "preview.every_steps": (("sample_every_n_steps",), read.positive_int),
}
_OPTIMIZERS = {
    "adamw": "adamw",
    "adamw8bit": "adamw8bit",
    "pagedadamw8bit": "adamw8bit",
    "adafactor": "adafactor",
    "prodigy": "prodigy",
    "lion": "lion",
    "adamwschedulefree": "schedulefree",
}
_SCHEDULES = {
    "constant": "constant",
    "constant_with_warmup": "constant",
    "cosine": "cosine",
    "cosine_with_restarts": "cosine_restarts",
    "linear": "linear",
    "polynomial": "polynomial",
    "rex": "rex",
}
_OPTIMIZER_ARGUMENTS = {"weight_decay": "weight_decay", "eps": "epsilon", "d_coef": "d_coef"}
# What prodigy and others do here anyway.
_GRANTED = frozenset({"decouple", "use_bias_correction", "safeguard_warmup", "relative_step"})
# kohya_ss' LoRA_type, and LyCORIS' algo -> ours, and whether convolutions are trained.
_TYPES = {
    "standard": ("lora", False),
    "kohya locon": ("lora", True),
    "lycoris/locon": ("lora", True),
    "lycoris/lora": ("lora", True),
    "lycoris/loha": ("loha", True),
    "lycoris/lokr": ("lokr", True),
}
# Read by hand below.
_READ_BY_HAND = frozenset(
    {
        *("network_module", "network_args", "network_alpha", "conv_dim", "conv_alpha", "LoRA_type"),
        *("factor", "dora_wd", "v2", "v_parameterization", "sdxl", "xformers", "sdpa"),
        *("optimizer", "optimizer_type", "optimizer_args", "learning_rate", "unet_lr"),
        *("text_encoder_lr", "network_train_unet_only", "network_train_text_encoder_only"),
        *("t5xxl_lr", "text_encoder_lr1", "text_encoder_lr2"),
        *("lr_scheduler", "lr_scheduler_num_cycles", "lr_scheduler_power", "lr_warmup"),
        *("lr_warmup_steps", "max_train_steps", "max_train_epochs", "epoch", "huber_c"),
        *("huber_schedule", "train_data_dir", "reg_data_dir", "resolution", "max_resolution"),
        *("dataset_config", "additional_parameters", "no_metadata"),
    }
)
# These change speed, memory or bookkeeping, not what is learned; or are always so here.
_NO_MATTER = frozenset(
    {
        *("output_dir", "logging_dir", "log_with", "log_prefix", "use_wandb", "wandb_api_key"),
        *("cache_latents", "cache_latents_to_disk", "vae_batch_size", "lowram", "mem_eff_attn"),
        *("cache_text_encoder_outputs", "cache_text_encoder_outputs_to_disk", "fp8_base"),
        *("sdxl_cache_text_encoder_outputs", "sdxl_no_half_vae", "no_half_vae", "full_bf16"),
        *("full_fp16", "max_data_loader_n_workers", "persistent_data_loader_workers"),
        *("num_cpu_threads_per_process", "max_token_length", "save_model_as", "model_list"),
        *("train_on_input", "save_state", "save_last_n_steps", "save_last_n_steps_state"),
        *("save_last_n_epochs", "save_last_n_epochs_state", "num_processes", "num_machines"),
        *("dynamo_backend", "dynamo_mode", "gpu_ids", "main_process_port", "multi_gpu"),
        *("huggingface_repo_id", "lr_warmup_pct", "block_lr_zero_threshold", "no_token_padding"),
        *("dim_from_weights", "unit", "noise_offset_type", "stop_text_encoder_training_pct"),
        *("sample_sampler", "console_log_level", "wandb_run_name", "log_tracker_name"),
        *(
            "save_state_on_train_end",
            "highvram",
            "dynamo_use_dynamic",
            "extra_accelerate_launch_args",
        ),
        *("dynamo_use_fullgraph", "LyCORIS_preset", "use_cp", "use_tucker", "train_norm"),
    }
)
_DEFAULT_STEPS = 1_600


def translate(settings: Mapping[str, Any]) -> tuple[Layer, list[str]]:
    """(our settings, what could not be carried over) of sd-scripts' flat settings."""
    given = {**settings, **_from_command_line(settings.get("additional_parameters"))}
    layer: Layer = {}
    notes: list[str] = []
    for target, (names, convert) in _RULES.items():
        value = next((given[name] for name in names if given.get(name) not in (None, "")), None)
        if value is not None:
            converted = convert(value)
            if converted is read.UNKNOWN:
                notes.append(_not_carried(names[0], value))
            elif converted is not None:
                _put(layer, target, converted)
    _read_model(given, layer)
    _read_adapter(given, layer, notes)
    _read_rates(given, layer, notes)
    _read_schedule(given, layer, notes)
    _read_objective(given, layer, notes)
    _read_folders(given, layer, notes)
    known = _READ_BY_HAND | _NO_MATTER | DATA_KEYS
    known |= {name for names, _ in _RULES.values() for name in names}
    notes += [
        _not_carried(name, value)
        for name, value in given.items()
        if name not in known and read.says_something(value)
    ]
    return layer, notes


def _put(layer: Layer, target: str, value: Any) -> None:
    section, _, field = target.partition(".")
    layer.setdefault(section, {})[field] = value


def _not_carried(name: str, value: Any) -> str:
    return f"{printable(name, 60)} = {printable(value, 60)} is not carried over."


def _read_model(given: Mapping[str, Any], layer: Layer) -> None:
    if read.flag(given.get("sdxl")):
        _put(layer, "model.arch", "sdxl")
    elif read.flag(given.get("v2")):
        _put(layer, "model.arch", "sd21")
    if read.flag(given.get("v_parameterization")):
        _put(layer, "model.prediction", "v_prediction")
    if given.get("xformers") in (True, "xformers", "true", "True"):
        _put(layer, "model.attention", "xformers")


def _read_adapter(given: Mapping[str, Any], layer: Layer, notes: list[str]) -> None:
    arguments = read.arguments(given.get("network_args"))
    module = str(given.get("network_module") or "")
    kind = str(given.get("LoRA_type") or "").lower()
    if not kind:
        algo = str(arguments.pop("algo", "lora")).lower()
        kind = f"lycoris/{algo}" if module.startswith("lycoris") else "standard"
    conv_rank = read.positive_int(arguments.pop("conv_dim", None) or given.get("conv_dim") or 0)
    conv_alpha = read.positive(arguments.pop("conv_alpha", None) or given.get("conv_alpha") or 0)
    if kind == "standard" and not given.get("LoRA_type") and conv_rank:
        kind = "kohya locon"  # networks.lora with conv_dim
    if kind not in _TYPES:
        notes.append(_not_carried("LoRA_type", kind))
    own, has_convolutions = _TYPES.get(kind, ("lora", False))
    factor = read.positive_int(arguments.pop("factor", None) or given.get("factor") or 0)
    if read.flag(arguments.pop("dora_wd", None)) or read.flag(given.get("dora_wd")):
        if own == "lora":
            own = "dora"
            _put(layer, "adapter.dora_axis", "out")
        else:
            notes.append(_not_carried("dora_wd", f"true with {kind}"))
    _put(layer, "adapter.kind", own)
    _put(layer, "adapter.targets", "all" if has_convolutions else "transformer")
    _put(layer, "adapter.text_targets", "attn+ff")
    _put(layer, "adapter.alpha", read.positive(given.get("network_alpha")) or 1.0)
    if has_convolutions and conv_rank:
        _put(layer, "adapter.conv_rank", conv_rank)
        _put(layer, "adapter.conv_alpha", conv_alpha or 1.0)
    if own == "lokr" and factor:
        _put(layer, "adapter.lokr_factor", factor)
    for name in ("dropout", "rank_dropout", "module_dropout"):
        value = read.positive(arguments.pop(name, None))
        if value:
            _put(layer, f"adapter.{'neuron_dropout' if name == 'dropout' else name}", value)
    ratio = read.positive(arguments.pop("loraplus_lr_ratio", None))
    if ratio:
        _put(layer, "optim.lora_plus_ratio", ratio)
    notes += [_not_carried(f"network_args {name}", value) for name, value in arguments.items()]


def _read_rates(given: Mapping[str, Any], layer: Layer, notes: list[str]) -> None:
    rate = read.number(given.get("learning_rate"))
    unet = read.number(given.get("unet_lr"))
    texts = read.numbers(given.get("text_encoder_lr"))
    unet = rate if unet is None else unet
    texts = texts or ([] if rate is None else [rate])
    if read.flag(given.get("network_train_unet_only")):
        texts = [0.0]
    if read.flag(given.get("network_train_text_encoder_only")):
        unet = 0.0
    if unet is not None:
        _put(layer, "optim.lr_unet", unet)
    if texts:
        _put(layer, "optim.lr_text", texts[0])
    if len(texts) > 1 and texts[1] != texts[0]:
        _put(layer, "optim.lr_text_2", texts[1])
    _read_optimizer(given, layer, notes)


def _read_optimizer(given: Mapping[str, Any], layer: Layer, notes: list[str]) -> None:
    name = str(given.get("optimizer_type") or given.get("optimizer") or "AdamW")
    kind = _OPTIMIZERS.get(name.rpartition(".")[2].lower())
    if kind is None:
        notes.append(_not_carried("optimizer_type", name))
    _put(layer, "optim.kind", kind or "adamw")
    arguments = read.arguments(given.get("optimizer_args"))
    for theirs, ours in _OPTIMIZER_ARGUMENTS.items():
        if theirs in arguments:
            value = read.number(arguments.pop(theirs))
            if value is not None and (kind == "prodigy" or ours != "d_coef"):
                _put(layer, f"optim.{ours}", value)
    betas = read.numbers(arguments.pop("betas", None))
    for ours, value in zip(("beta1", "beta2"), betas, strict=False):
        _put(layer, f"optim.{ours}", value)
    notes += [
        _not_carried(f"optimizer_args {name}", value)
        for name, value in arguments.items()
        if name not in _GRANTED and read.says_something(value)
    ]


def _read_schedule(given: Mapping[str, Any], layer: Layer, notes: list[str]) -> None:
    name = str(given.get("lr_scheduler") or "constant").lower()
    schedule = _SCHEDULES.get(name)
    if schedule is None:
        notes.append(_not_carried("lr_scheduler", name))
    if layer["optim"].get("kind") == "schedulefree":
        schedule = "constant"
    _put(layer, "optim.lr_schedule", schedule or "constant")
    cycles = read.positive_int(given.get("lr_scheduler_num_cycles"))
    if schedule == "cosine_restarts":
        _put(layer, "optim.lr_cycles", cycles or 1)
    power = read.positive(given.get("lr_scheduler_power"))
    if schedule == "polynomial":
        _put(layer, "optim.lr_power", power or 1.0)
    warmup = read.number(given.get("lr_warmup_steps"))
    if warmup is None:
        warmup = (read.number(given.get("lr_warmup")) or 0.0) / 100  # kohya_ss has per cents
    if warmup >= 1:
        _put(layer, "optim.lr_warmup_steps", int(warmup))
    else:
        _put(layer, "optim.lr_warmup_ratio", warmup if name != "constant" else 0.0)
    epochs = read.positive_int(given.get("max_train_epochs")) or 0
    steps = read.positive_int(given.get("max_train_steps")) or 0
    if not (epochs or steps):
        epochs = read.positive_int(given.get("epoch")) or 0
    if epochs:  # sd-scripts lets epochs win
        _put(layer, "schedule.epochs", epochs)
    else:
        _put(layer, "schedule.steps", steps or _DEFAULT_STEPS)


def _read_objective(given: Mapping[str, Any], layer: Layer, notes: list[str]) -> None:
    objective = layer.get("objective", {})
    if objective.get("kind") == "huber":
        width = read.positive(given.get("huber_c"))
        schedule = given.get("huber_schedule") or "snr"
        if width:
            _put(layer, "objective.huber_width", width)
        if schedule in ("constant", "exponential", "snr"):
            _put(layer, "objective.huber_schedule", schedule)
        else:
            notes.append(_not_carried("huber_schedule", schedule))
    if not objective.get("multires_levels"):
        objective.pop("multires_discount", None)


def _read_folders(given: Mapping[str, Any], layer: Layer, notes: list[str]) -> None:
    data, more = data_settings(given)
    notes += more
    side = resolution_px(given.get("resolution") or given.get("max_resolution"), notes)
    if side:
        data["resolution_px"] = side
    folder, classes = read.text(given.get("train_data_dir")), read.text(given.get("reg_data_dir"))
    ending = read.text(given.get("caption_extension") or given.get("caption_extention"))
    if folder and (classes or ending not in (None, ".txt", ".caption")):
        common = {"caption_ending": ending} if ending else {}
        subsets: list[dict[str, Any]] = [{"folder": folder, **common}]
        if classes:
            subsets.append({"folder": classes, "is_class": True, **common})
        data["subsets"] = subsets
    elif folder:
        data["folder"] = folder
    if data:
        layer.setdefault("data", {}).update(data)


def _from_command_line(text: object) -> dict[str, Any]:
    """kohya_ss' additional_parameters: options as typed."""
    if not isinstance(text, str) or not text.strip():
        return {}
    try:
        words = shlex.split(text)
    except ValueError:
        words = text.split()
    found: dict[str, Any] = {}
    name = ""
    for word in words:
        if word.startswith("--"):
            name, equals, value = word.removeprefix("--").partition("=")
            found[name] = value if equals else True
        elif name:
            found[name] = word if found[name] is True else f"{found[name]} {word}"
    return found
