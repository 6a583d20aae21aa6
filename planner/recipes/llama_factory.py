"""A configuration file of LLaMA-Factory, which is no recipe: it has options here
(docs/how-to/from-llama-factory.md).

read: src/llamafactory/hparams/finetuning_args.py and model_args.py at 00577a8, data_args.py at
072bfe2, examples/deepspeed at 1d6e8b2.
"""

import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, get_args

from msgspec import Struct

from planner.base.phrases import Joined, Phrase
from planner.plan.optimizer_presets import optimizers
from planner.plan.training_section import Tracker

PREFERENCE = ("dpo", "kto", "ppo", "rm")
"""Stages that learn from preferences."""
OPTIONS = {
    "cutoff_len": "--sequence-length",
    "learning_rate": "--learning-rate",
    "num_train_epochs": "--epochs",
}
"""Options of ``plan`` for keys whose values they take as they are."""
SETTINGS = {
    "warmup_ratio": "schedule.warmup_ratio",
    "weight_decay": "optimizer.weight_decay",
    "max_grad_norm": "optimizer.max_grad_norm",
    "seed": "training.seed",
    "logging_steps": "training.logging_steps",
    "save_steps": "training.save_steps",
    "save_total_limit": "training.keep_checkpoints",
    "neftune_noise_alpha": "training.neftune_noise_alpha",
}
"""Keys of plan.yaml for keys whose values they take, and that ``plan --set`` changes."""
ADAPTER_SETTINGS = {"lora_alpha": "adapter.alpha", "use_rslora": "adapter.rslora"}
"""Those of the adapters."""
LAUNCH_SETTINGS = {
    "use_dora": "adapter.dora",
    "loraplus_lr_ratio": "optimizer.lora_plus_ratio",
}
"""Those that memory depends on, which only ``launch --set`` changes and predicts anew."""
SCHEDULES = {
    "cosine": "cosine",
    "linear": "linear",
    "constant": "constant",
    "constant_with_warmup": "constant",
}
BITSANDBYTES = {"quantization_method": ("bnb", "bitsandbytes"), "quantization_type": ("nf4",)}
"""Values that say what a quantized base is here in any case."""
BATCH_PER_DEVICE = 8
"""read: transformers/training_args.py at 5.23.0, per_device_train_batch_size."""
PISSA_ITERATIONS = 16
"""Iterations of PiSSA that LLaMA-Factory takes; -1 is a whole decomposition."""
_STAGE = re.compile(r"(?:zero|stage|z)[-_]?(?:stage)?[-_]?([0-3])")
"""The ZeRO stage in the name of a file such as ``ds_z3_offload_config.json``."""
_DECIDED_BY = {
    "--zero-stage": ("--strategy", "--zero-stage"),
    "--activation-checkpointing": (
        "--activation-checkpointing",
        "--no-activation-checkpointing",
        "--checkpoint-every",
    ),
    "--packing": ("--packing", "--no-packing"),
}
"""Options that are left out beside any of these."""

_Arguments = tuple[str, ...]


class Translated(Struct, frozen=True):
    """What a file asks for, in words of the commands here."""

    plan: str
    """The command line of ``plan``."""
    launch: str
    """Options of ``launch`` that ``plan`` does not have; may be empty."""
    lacks_data: bool
    """Whether the file names data, which the command line does not."""
    left_out: tuple[str, ...]
    """Keys that have no counterpart, in their order."""

    @property
    def sentence(self) -> str:
        """What a person is told."""
        launch = Phrase("launch takes: {options}", options=self.launch) if self.launch else ""
        data = Phrase("name the data with --data") if self.lacks_data else ""
        keys = ", ".join(self.left_out)
        left_out = Phrase("not carried over: {keys}", keys=keys) if keys else ""
        return Joined("; ", filter(None, [self.plan, launch, data, left_out]))


def is_llama_factory(content: Any) -> bool:
    """Return whether the content of a YAML file is such a configuration."""
    return isinstance(content, Mapping) and "model_name_or_path" in content


def refusal(content: Mapping[str, Any]) -> str | None:
    """Return why no plan can do what the file asks for; None where one can."""
    stage = content.get("stage", "sft")
    if stage in PREFERENCE:
        return Phrase("stage: {stage} learns from preferences, which is not planned", stage=stage)
    if stage == "pt":
        return Phrase(
            "stage: pt trains on plain text, for which there is no translation: name the model "
            "with plan --model and the text with --data, and set data.loss_on to everything"
        )
    if stage != "sft":
        return Phrase("stage: {stage} is not planned: only sft is", stage=stage)
    kind = content.get("finetuning_type", "lora")
    if kind not in ("lora", "full"):
        return Phrase("finetuning_type: {kind} is not planned: only lora and full are", kind=kind)
    return None


def translate(
    content: Mapping[str, Any], typed: Sequence[str] = (), devices: int = 1
) -> Translated:
    """Return what the file asks for on so many devices; options that were ``typed`` beside the
    file are repeated, and decide.

    >>> translate({"model_name_or_path": "a/b", "lora_rank": 8, "template": "qwen"}).sentence
    'plan --model a/b --method lora --lora-rank 8; not carried over: template'
    """
    asked = {key: value for key, value in content.items() if value is not None}
    plan: list[str] = []
    launch: list[str] = []
    read = {"stage", "finetuning_type", "do_train", "dataset", "dataset_dir"}
    for keys, arguments in _plan_options(asked, devices):
        read.update(keys)
        if not _is_typed(arguments, typed):
            plan.extend(arguments)
    for key, arguments in _launch_options(asked):
        read.add(key)
        launch.extend(arguments)
    return Translated(
        plan=shlex.join(["plan", *plan, *typed]),
        launch=shlex.join(launch),
        lacks_data="dataset" in asked and "--data" not in typed,
        left_out=tuple(str(key) for key in asked if key not in read),
    )


def _is_typed(arguments: _Arguments, typed: Sequence[str]) -> bool:
    """Return whether the command line has the option already, or sets the same key."""
    if not arguments:
        return False
    flag = arguments[0]
    if flag == "--set":
        key = arguments[1].partition("=")[0]
        return any(each == "--set" and what.startswith(f"{key}=") for each, what in pairwise(typed))
    return any(each in typed for each in _DECIDED_BY.get(flag.replace("--no-", "--"), (flag,)))


def _plan_options(
    asked: Mapping[str, Any], devices: int
) -> Iterator[tuple[tuple[str, ...], _Arguments]]:
    """Yield keys of the file, and the arguments that say the same."""
    yield _model(asked)
    yield from _method(asked)
    yield from _adapters(asked)
    yield from _batch(asked, devices)
    yield from _packing(asked)
    for key, option in OPTIONS.items():
        if key in asked:
            yield (key,), (option, str(asked[key]))
    for key, found in asked.items():
        arguments = _READ[key](found) if key in _READ else None
        if arguments is not None:
            yield (key,), arguments
    if devices > 1:
        for arguments in _deepspeed(str(asked.get("deepspeed", ""))):
            yield ("deepspeed",), arguments
    yield from _settings(asked)
    yield from _evaluation(asked)


def _settings(asked: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], _Arguments]]:
    settings = SETTINGS | (ADAPTER_SETTINGS if _has_adapters(asked) else {})
    for key, setting in settings.items():
        if key in asked:
            yield (key,), _setting(setting, asked[key])


def _launch_options(asked: Mapping[str, Any]) -> Iterator[tuple[str, _Arguments]]:
    for key, setting in LAUNCH_SETTINGS.items():
        if key in asked and _has_adapters(asked):
            yield key, _setting(setting, asked[key])
    if "output_dir" in asked:
        yield "output_dir", ("--output", str(asked["output_dir"]))


def _has_adapters(asked: Mapping[str, Any]) -> bool:
    return bool(asked.get("finetuning_type", "lora") == "lora")


def _setting(key: str, value: Any) -> _Arguments:
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return "--set", f"{key}={text}"


def _model(asked: Mapping[str, Any]) -> tuple[tuple[str, ...], _Arguments]:
    name, revision = str(asked["model_name_or_path"]), asked.get("model_revision", "main")
    named = name if revision == "main" else f"{name}@{revision}"
    return ("model_name_or_path", "model_revision"), ("--model", named)


def _method(asked: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], _Arguments]]:
    """Yield method and adapters; a base in 8 bits has a recipe of its own."""
    if not _has_adapters(asked):
        yield (), ("--method", "full")
        return
    bits = asked.get("quantization_bit")
    if bits == 8:
        yield ("quantization_bit",), ("--recipe", "qlora-int8")
    elif bits == 4:
        yield ("quantization_bit",), ("--method", "qlora")
    else:
        yield (), ("--method", "lora")
    for key, usual in BITSANDBYTES.items():
        if asked.get(key) in usual:
            yield (key,), ()


def _adapters(asked: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], _Arguments]]:
    """Yield what an adapter is and where it is."""
    if not _has_adapters(asked):
        return
    for key in ("lora_rank", "lora_dropout"):
        if key in asked:
            yield (key,), (f"--{key.replace('_', '-')}", str(asked[key]))
    targets = asked.get("lora_target")
    if targets is not None:
        names = targets if isinstance(targets, list) else [targets]
        text = "all-linear" if names == ["all"] else ",".join(map(str, names)).replace(" ", "")
        yield ("lora_target",), ("--lora-targets", text)
    if asked.get("pissa_init") is True:
        steps = asked.get("pissa_iter", PISSA_ITERATIONS)
        init = "pissa" if steps == -1 else f"pissa_niter_{steps}"
        yield ("pissa_init", "pissa_iter", "pissa_convert"), ("--lora-init", init)


def _batch(asked: Mapping[str, Any], devices: int) -> Iterator[tuple[tuple[str, ...], _Arguments]]:
    """Yield the batch, which is counted per device there and over all devices here."""
    keys = ("per_device_train_batch_size", "gradient_accumulation_steps")
    micro, accumulation = asked.get(keys[0], BATCH_PER_DEVICE), asked.get(keys[1], 1)
    numbers = isinstance(micro, int) and isinstance(accumulation, int)
    if numbers and any(key in asked for key in keys):
        yield keys, ("--micro-batch-size", str(micro))
        yield (), ("--global-batch-size", str(micro * accumulation * devices))


def _packing(asked: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], _Arguments]]:
    """Yield whether samples are packed, which neat_packing asks for too."""
    found = [asked[key] for key in ("packing", "neat_packing") if key in asked]
    if found:
        yield ("packing", "neat_packing"), ("--packing" if any(found) else "--no-packing",)


def _deepspeed(file: str) -> Iterator[_Arguments]:
    """Yield the stage and offload that the name of a configuration tells; most are copies of
    LLaMA-Factory's own."""
    name = file.rpartition("/")[2].lower()
    stage = _STAGE.search(name)
    if stage is None or "partial" in name:
        return
    yield "--zero-stage", stage[1]
    if "offload" in name and stage[1] in "23":
        yield "--offload", "all" if stage[1] == "3" else "optimizer"


def _evaluation(asked: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], _Arguments]]:
    """Yield the part of the data that is kept out, and how often it is evaluated."""
    part = asked.get("val_size")
    if not isinstance(part, float):
        return
    yield ("val_size",), _setting("data.validation_fraction", part)
    if isinstance(asked.get("eval_steps"), int):
        keys = ("eval_steps", "eval_strategy", "evaluation_strategy")
        yield keys, _setting("training.evaluation.every_steps", asked["eval_steps"])


def _flag(*words: str, otherwise: _Arguments | None = ()) -> Callable[[Any], _Arguments | None]:
    """Return the reader of a key that is true or false."""
    return lambda value: words if value is True else otherwise if value is False else None


def _optimizer(value: Any) -> _Arguments | None:
    return ("--optimizer", value) if value in optimizers() else None


def _schedule(value: Any) -> _Arguments | None:
    kind = SCHEDULES.get(str(value))
    return None if kind is None else _setting("schedule.kind", kind)


def _attention(value: Any) -> _Arguments | None:
    known = {"auto": (), "sdpa": ("--attention", "sdpa"), "disabled": ("--attention", "eager")}
    return known.get(str(value))


def _trackers(value: Any) -> _Arguments | None:
    names = value if isinstance(value, list) else [value]
    if names == ["none"]:
        return ()
    if not all(name in get_args(Tracker) for name in names):
        return None
    return _setting("training.report_to", f"[{','.join(names)}]")


_READ: dict[str, Callable[[Any], _Arguments | None]] = {
    "max_steps": lambda steps: () if steps == -1 else _setting("training.max_steps", steps),
    "optim": _optimizer,
    "lr_scheduler_type": _schedule,
    "flash_attn": _attention,
    "report_to": _trackers,
    "bf16": _flag("--precision", "bf16"),
    "fp16": _flag("--precision", "fp16"),
    "pure_bf16": _flag("--precision", "pure-bf16"),
    "gradient_checkpointing": _flag(
        "--activation-checkpointing", otherwise=("--no-activation-checkpointing",)
    ),
    "disable_gradient_checkpointing": _flag("--no-activation-checkpointing"),
    "train_on_prompt": _flag("--set", "data.loss_on=everything"),
}
"""Readers of keys of one value: the arguments that say the same, which may be none; None where
nothing here does."""
