"""An XTuner configuration as a recipe, read as syntax and never run.

read: xtuner/configs, xtuner/model/sft.py and xtuner/utils/templates.py at v0.1.23.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from msgspec import structs

from planner.base.errors import did_you_mean
from planner.base.phrases import Phrase
from planner.base.preset_files import Source
from planner.datasets.dataset_presets import read_as_xtuner
from planner.plan.data_section import DataSection, DataSource, LossOn
from planner.plan.schema import (
    AdapterSection,
    OptimizerSection,
    QuantizationSection,
    ScheduleSection,
)
from planner.plan.vocabulary import Method, Precision, ScheduleKind
from planner.recipes.python_config import PythonConfig, named, read_python_config
from planner.recipes.recipe import Recipe, WrittenFor

OPTIMIZERS: dict[str, str] = {
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
"""Classes of optimizers in XTuner's configurations, and transformers' names for them."""
SCHEDULES: dict[str, ScheduleKind] = {"CosineAnnealingLR": "cosine", "ConstantLR": "constant"}


COMPUTE: dict[str | None, Precision] = {
    None: "fp16",
    "float16": "fp16",
    "bfloat16": "bf16",
    "float32": "fp32",
}
"""The precision that mmengine's AmpOptimWrapper multiplies in, by its ``dtype``."""


def read_xtuner(path: Path) -> Recipe:
    """Return the recipe in a configuration.

    Raises InvalidFileError where a setting is missing, or asks for what is not planned.
    """
    config = read_python_config(path)
    _supervised(config)
    adapter, quantization = _adapter(config), _quantization(config)
    if quantization is not None and adapter is None:
        raise config.error(
            "model",
            Phrase(
                "quantizes a model that it trains whole: set model.lora, or leave quantization out"
            ),
        )
    method: Method = "full" if adapter is None else "lora" if quantization is None else "qlora"
    micro_batch_size = config.count("train_dataloader.batch_size")
    accumulation = config.count("optim_wrapper.accumulative_counts", 1)
    sets = _data_sets(config)
    epochs = config.number("train_cfg.max_epochs")
    if not epochs:
        raise config.error(
            "train_cfg", Phrase("train_cfg.max_epochs is 0: nothing would be trained")
        )
    return config.spec(
        "train_dataloader",
        Recipe,
        name=path.stem,
        source=Source(title=path.name, url=path.name),
        model=config.text("model.llm.pretrained_model_name_or_path"),
        method=method,
        adapter=adapter,
        quantization=quantization,
        global_batch_size=micro_batch_size * accumulation,
        sequence_length=_length(config, sets),
        packing=_packed(config, sets),
        optimizer=_optimizer(config),
        schedule=_schedule(config, epochs),
        epochs=epochs,
        data=DataSection(sources=tuple(_sources(config, sets)), loss_on=_loss_on(sets)),
        written_for=WrittenFor(
            micro_batch_size=micro_batch_size,
            compute=_compute(config),
            activation_checkpointing=config.flag(
                "model.use_activation_checkpointing", default=True
            ),
        ),
    )


def _supervised(config: PythonConfig) -> None:
    kind = config.kind("model.type")
    if kind is None:
        raise config.error(
            "model", Phrase("sets no model.type: this is not an XTuner configuration")
        )
    if kind != "SupervisedFinetune":
        raise config.error(
            "model", Phrase("trains by {kind}: only SupervisedFinetune is planned", kind=kind)
        )


def _adapter(config: PythonConfig) -> AdapterSection | None:
    """Return the adapters; without target modules XTuner adapts every linear layer but the head
    (xtuner/model/utils.py, find_all_linear_names)."""
    if config.section("model.lora") is None:
        return None
    targets = _as_list(config.get("model.lora.target_modules"))
    if not all(isinstance(each, str) for each in targets):
        raise config.error("model", Phrase("model.lora.target_modules should be a list of names"))
    return config.spec(
        "model.lora",
        AdapterSection,
        rank=config.count("model.lora.r", 8),
        alpha=config.count("model.lora.lora_alpha", 8),
        dropout=config.number("model.lora.lora_dropout", 0.0),
        dora=config.flag("model.lora.use_dora"),
        rslora=config.flag("model.lora.use_rslora"),
        init=_beginning(config.get("model.lora.init_lora_weights", True)),
        target_modules=tuple(targets) or "all-linear",
    )


def _beginning(value: Any) -> str:
    """Return what adapters begin as; peft calls the default True."""
    return "default" if value is True else str(value)


def _quantization(config: PythonConfig) -> QuantizationSection | None:
    """Return the quantization, with peft's and bitsandbytes' own defaults for what is left out."""
    key = "model.llm.quantization_config"
    config.section(key)
    if config.flag(f"{key}.load_in_8bit"):
        return QuantizationSection(quant_type="int8")
    if not config.flag(f"{key}.load_in_4bit"):
        return None
    kind = config.get(f"{key}.bnb_4bit_quant_type", "fp4")
    if kind != "nf4":
        raise config.error(
            "model", Phrase("bnb_4bit_quant_type {kind!r} is not planned: use 'nf4'", kind=kind)
        )
    double = config.flag(f"{key}.bnb_4bit_use_double_quant")
    return QuantizationSection(quant_type="nf4", double_quant=double)


def _compute(config: PythonConfig) -> Precision:
    """Return the precision of products: fp32 without autocast."""
    if config.kind("optim_wrapper.type") != "AmpOptimWrapper":
        return "fp32"
    dtype = config.kind("optim_wrapper.dtype")
    if dtype not in COMPUTE:
        known = ", ".join(name for name in COMPUTE if name)
        raise config.error(
            "optim_wrapper", Phrase("optim_wrapper.dtype should be one of {known}", known=known)
        )
    return COMPUTE[dtype]


def _optimizer(config: PythonConfig) -> OptimizerSection:
    key = "optim_wrapper.optimizer"
    name = config.kind(f"{key}.type")
    if name not in OPTIMIZERS:
        hint = did_you_mean(str(name), OPTIMIZERS)
        raise config.error(
            "optim_wrapper",
            Phrase("optimizer {name!r} is not planned. {hint}", name=name, hint=hint),
        )
    config.section("optim_wrapper.clip_grad")
    return config.spec(
        "optim_wrapper",
        OptimizerSection,
        name=OPTIMIZERS[name],
        learning_rate=config.number(f"{key}.lr"),
        weight_decay=config.number(f"{key}.weight_decay", 0.0),
        max_grad_norm=config.number("optim_wrapper.clip_grad.max_norm", 1.0),
    )


def _schedule(config: PythonConfig, epochs: float) -> ScheduleSection:
    """Return a linear warm-up over a share of the epochs, and what follows it."""
    key, warm_up = "param_scheduler", 0.0
    kind: ScheduleKind = "constant"
    for each in _as_list(config.get(key)):
        name = named(each.get("type")) if isinstance(each, Mapping) else named(each)
        if name == "LinearLR":
            end = each.get("end", 0)
            if isinstance(end, bool) or not isinstance(end, int | float):
                raise config.error(key, Phrase("the end of LinearLR should be a number"))
            warm_up = end / epochs
        elif name in SCHEDULES:
            kind = SCHEDULES[name]
        else:
            raise config.error(key, Phrase("schedule {name} is not planned", name=name))
    return config.spec(key, ScheduleSection, kind=kind, warmup_ratio=round(warm_up, 9))


def _data_sets(config: PythonConfig) -> list[Mapping[str, Any]]:
    """Return the data sets that the training loader draws from."""
    key = "train_dataloader.dataset"
    found = _as_list(config.get(f"{key}.datasets")) or _as_list(config.get(key))
    return [each for each in found if isinstance(each, Mapping)]


def _sources(config: PythonConfig, sets: Iterable[Mapping[str, Any]]) -> Iterator[DataSource]:
    """Yield files, or data sets on the hub; what a set is read from otherwise is left to
    ``--data``."""
    for each in sets:
        found, function = each.get("dataset"), named(each.get("dataset_map_fn"))
        if not isinstance(found, Mapping):
            continue
        files, subset = found.get("data_files", found.get("path")), found.get("name")
        for name in _names(files):
            if not isinstance(name, str) or not isinstance(subset, str | None):
                raise config.error(
                    "train_dataloader",
                    Phrase("path, data_files and name of a data set should be texts"),
                )
            source = read_as_xtuner(function or "", name)
            yield structs.replace(source, subset=subset)


def _names(files: object) -> Iterator[object]:
    """Yield one name or several, of one split or by split."""
    for split in files.values() if isinstance(files, Mapping) else [files]:
        yield from _as_list(split)


def _loss_on(sets: Iterable[Mapping[str, Any]]) -> LossOn:
    """Return which tokens the loss counts: all of a plain text, else those of the answers."""
    plain = [named(each.get("dataset_map_fn")) == "pretrain_map_fn" for each in sets]
    return "everything" if plain and all(plain) else "answers"


def _packed(config: PythonConfig, sets: list[Mapping[str, Any]]) -> bool:
    found = [each.get("pack_to_max_length", False) for each in sets]
    if not all(isinstance(each, bool) for each in found):
        raise config.error("train_dataloader", Phrase("pack_to_max_length should be True or False"))
    return all(found)


def _length(config: PythonConfig, sets: list[Mapping[str, Any]]) -> int:
    """Return the longest of the data sets' lengths."""
    found: list[int] = [each["max_length"] for each in sets if each.get("max_length") is not None]
    if not found:
        raise config.error("train_dataloader", Phrase("the data set sets no max_length"))
    for length in found:
        if isinstance(length, bool) or not isinstance(length, int) or length < 1:
            raise config.error(
                "train_dataloader",
                Phrase("the data set's max_length should be a whole number from 1 up"),
            )
    return max(found)


def _as_list(value: object) -> list[Any]:
    """Return ``value`` as a list."""
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]
