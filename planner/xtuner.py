"""An XTuner configuration as a recipe. It is read as syntax, never run.

read: xtuner/configs, xtuner/model/sft.py and xtuner/utils/templates.py at v0.1.23.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from planner.data_section import DataSection, DataSource, LossOn
from planner.errors import did_you_mean
from planner.named_data import read_as_xtuner
from planner.plan import (
    AdapterSection,
    Method,
    OptimizerName,
    OptimizerSection,
    Precision,
    QuantizationSection,
    ScheduleKind,
    ScheduleSection,
)
from planner.presets import Source
from planner.python_config import PythonConfig, Reference, read_python_config
from planner.recipe import Recipe, WrittenFor

OPTIMIZERS: dict[str, OptimizerName] = {
    "AdamW": "adamw_torch_fused",
    "AdamW8bit": "adamw_8bit",
    "PagedAdamW8bit": "paged_adamw_8bit",
    "PagedAdamW32bit": "paged_adamw_32bit",
    "PagedAdamW": "paged_adamw_32bit",
    "Lion32bit": "lion_32bit",
    "Lion8bit": "lion_8bit",
    "Adafactor": "adafactor",
    "SGD": "sgd",
}
"""Their class, and transformers' name of it."""
SCHEDULES: dict[str, ScheduleKind] = {"CosineAnnealingLR": "cosine", "ConstantLR": "constant"}


def read_xtuner(path: Path) -> Recipe:
    """Raises InvalidFileError where a setting is missing, or means what is not planned."""
    config = read_python_config(path)
    _supervised(config)
    adapter, quantization = _adapter(config), _quantization(config)
    if quantization is not None and adapter is None:
        raise config.error(
            "model",
            "quantizes a model that it trains whole: give it model.lora, or quantize nothing",
        )
    method: Method = "full" if adapter is None else "lora" if quantization is None else "qlora"
    micro_batch_size = _whole(config, "train_dataloader.batch_size")
    accumulation = _whole(config, "optim_wrapper.accumulative_counts", 1)
    sets = list(data_sets(config))
    epochs = _number(config, "train_cfg.max_epochs")
    return Recipe(
        name=path.stem,
        source=Source(title="XTuner configuration file", url=path.name),
        model=_model(config),
        method=method,
        adapter=adapter,
        quantization=quantization,
        global_batch_size=micro_batch_size * accumulation,
        sequence_length=_length(config, sets),
        packing=all(each.get("pack_to_max_length") is True for each in sets),
        optimizer=_optimizer(config),
        schedule=_schedule(config, epochs),
        epochs=epochs,
        data=DataSection(sources=tuple(_sources(sets)), loss_on=_loss_on(sets)),
        written_for=WrittenFor(
            micro_batch_size=micro_batch_size,
            compute=_compute(config),
            activation_checkpointing=config.get("model.use_activation_checkpointing", True),
        ),
    )


def _supervised(config: PythonConfig) -> None:
    kind = config.get("model.type")
    if kind is None:
        raise config.error("model", "sets no model.type: this is no XTuner training configuration")
    name = kind.last if isinstance(kind, Reference) else str(kind)
    if name != "SupervisedFinetune":
        raise config.error("model", f"trains by {name}: only SupervisedFinetune is planned")


def _model(config: PythonConfig) -> str:
    key = "model.llm.pretrained_model_name_or_path"
    found = config.get(key)
    if not isinstance(found, str):
        raise config.error("model", f"{key} names no model")
    return found


def _adapter(config: PythonConfig) -> AdapterSection | None:
    """Without target modules XTuner adapts every linear layer but the head
    (xtuner/model/utils.py, find_all_linear_names)."""
    if config.get("model.lora") is None:
        return None
    targets = config.get("model.lora.target_modules")
    return AdapterSection(
        rank=_whole(config, "model.lora.r", 8),
        alpha=_whole(config, "model.lora.lora_alpha", 8),
        dropout=_number(config, "model.lora.lora_dropout", 0.0),
        dora=config.get("model.lora.use_dora", False) is True,
        rslora=config.get("model.lora.use_rslora", False) is True,
        target_modules="all-linear" if targets is None else tuple(targets),
    )


def _quantization(config: PythonConfig) -> QuantizationSection | None:
    """peft's and bitsandbytes' own defaults where a setting is left out."""
    key = "model.llm.quantization_config"
    if config.get(f"{key}.load_in_8bit") is True:
        return QuantizationSection(quant_type="int8")
    if config.get(f"{key}.load_in_4bit") is not True:
        return None
    kind = config.get(f"{key}.bnb_4bit_quant_type", "fp4")
    if kind != "nf4":
        raise config.error("model", f"bnb_4bit_quant_type {kind!r} is not planned: use 'nf4'")
    double = config.get(f"{key}.bnb_4bit_use_double_quant", False)
    return QuantizationSection(quant_type="nf4", double_quant=double is True)


def _compute(config: PythonConfig) -> Precision:
    """What autocast multiplies in (mmengine's AmpOptimWrapper: fp16 unless told otherwise)."""
    wrapper = config.get("optim_wrapper.type")
    if not isinstance(wrapper, Reference) or wrapper.last != "AmpOptimWrapper":
        return "fp32"
    dtype = config.get("optim_wrapper.dtype", "float16")
    name = dtype.last if isinstance(dtype, Reference) else dtype
    return "bf16" if name == "bfloat16" else "fp16"


def _optimizer(config: PythonConfig) -> OptimizerSection:
    key = "optim_wrapper.optimizer"
    kind = config.get(f"{key}.type")
    name = kind.last if isinstance(kind, Reference) else str(kind)
    if name not in OPTIMIZERS:
        hint = did_you_mean(name, OPTIMIZERS)
        raise config.error("optim_wrapper", f"no optimizer of ours is {name!r}. {hint}")
    return OptimizerSection(
        name=OPTIMIZERS[name],
        learning_rate=_number(config, f"{key}.lr"),
        weight_decay=_number(config, f"{key}.weight_decay", 0.0),
        max_grad_norm=_number(config, "optim_wrapper.clip_grad.max_norm", 1.0),
    )


def _schedule(config: PythonConfig, epochs: float) -> ScheduleSection:
    """A linear warm-up that ends after some share of the epochs, and what follows it."""
    warm_up = 0.0
    kind: ScheduleKind = "constant"
    for each in config.get("param_scheduler") or ():
        name = each["type"].last if isinstance(each.get("type"), Reference) else each.get("type")
        if name == "LinearLR":
            warm_up = float(each.get("end", 0)) / epochs
        elif name in SCHEDULES:
            kind = SCHEDULES[name]
        else:
            raise config.error("param_scheduler", f"{name} is no schedule of ours")
    return ScheduleSection(kind=kind, warmup_ratio=round(warm_up, 9))


def data_sets(config: PythonConfig) -> Iterator[Mapping[str, Any]]:
    """Those that the training loader draws from."""
    found = config.get("train_dataloader.dataset")
    several = found.get("datasets") if isinstance(found, Mapping) else None
    for each in several or [found]:
        if isinstance(each, Mapping):
            yield each


def _sources(sets: Iterable[Mapping[str, Any]]) -> Iterator[DataSource]:
    """Files, or a data set on the hub; what else a set is read from is left to ``--data``."""
    for each in sets:
        found, function = each.get("dataset"), each.get("dataset_map_fn")
        if not isinstance(found, Mapping):
            continue
        files = found.get("data_files", found.get("path"))
        named = files.values() if isinstance(files, Mapping) else files
        for name in [named] if isinstance(named, str) else named or ():
            reader = function.last if isinstance(function, Reference) else ""
            source = read_as_xtuner(reader, str(name))
            yield source.model_copy(update={"subset": found.get("name")})


def _loss_on(sets: Iterable[Mapping[str, Any]]) -> LossOn:
    """Texts are learnt whole."""
    functions = [each.get("dataset_map_fn") for each in sets]
    plain = [isinstance(f, Reference) and f.last == "pretrain_map_fn" for f in functions]
    return "everything" if plain and all(plain) else "answers"


def _length(config: PythonConfig, sets: list[Mapping[str, Any]]) -> int:
    found = [each.get("max_length") for each in sets]
    lengths = [length for length in found if isinstance(length, int)]
    if not lengths:
        raise config.error("train_dataloader", "the data set sets no max_length")
    return max(lengths)


def _number(config: PythonConfig, key: str, default: float | None = None) -> float:
    found = config.get(key, default)
    if isinstance(found, bool) or not isinstance(found, int | float):
        raise config.error(key, f"{key} should be a number" + _instead(found))
    return float(found)


def _whole(config: PythonConfig, key: str, default: int | None = None) -> int:
    found: object = config.get(key, default)
    if not isinstance(found, int) or isinstance(found, bool):
        raise config.error(key, f"{key} should be a whole number" + _instead(found))
    return found


def _instead(found: object) -> str:
    if found is None:
        return " and is not set"
    return f", not {found.name if isinstance(found, Reference) else repr(found)}"
