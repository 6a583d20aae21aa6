"""A configuration file of LLaMA-Factory, which is no recipe: it has options here
(docs/how-to/from-llama-factory.md)."""

import shlex
from collections.abc import Iterator, Mapping
from typing import Any

OPTIONS = {
    "model_name_or_path": "--model",
    "lora_rank": "--lora-rank",
    "cutoff_len": "--sequence-length",
    "learning_rate": "--learning-rate",
    "num_train_epochs": "--epochs",
}
"""Options of ``plan`` for keys whose values they take as they are."""


def is_llama_factory(content: Any) -> bool:
    """Return whether the content of a YAML file is such a configuration."""
    return isinstance(content, Mapping) and "model_name_or_path" in content


def plan_command(content: Mapping[str, Any]) -> str:
    """Return the command that plans what the file asks for; batch and DeepSpeed are chosen.

    >>> plan_command({"model_name_or_path": "a/b", "finetuning_type": "lora", "lora_rank": 8})
    'plan --model a/b --method lora --lora-rank 8'
    """
    return shlex.join(["plan", *_options(content)])


def _options(content: Mapping[str, Any]) -> Iterator[str]:
    for key, option in OPTIONS.items():
        if content.get(key) is not None:
            yield from (option, str(content[key]))
        if key == "model_name_or_path":
            yield from _method(content)
    if content.get("packing"):
        yield "--packing"


def _method(content: Mapping[str, Any]) -> Iterator[str]:
    kind = content.get("finetuning_type", "lora")
    if kind in ("lora", "full"):
        yield from ("--method", "qlora" if content.get("quantization_bit") else kind)
