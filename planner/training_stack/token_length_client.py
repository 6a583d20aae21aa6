"""Token lengths of the data that a plan is for, measured by the launcher in a process of its own.

That process loads the model's tokenizer and chat template, which the planner does not import.
"""

from collections.abc import Mapping
from contextlib import closing
from typing import Any

from msgspec import to_builtins

from planner.base.errors import InvalidRequestError, reason_of
from planner.base.phrases import from_data
from planner.datasets.record_count import num_records
from planner.datasets.token_lengths import TokenLengths
from planner.datasets.training_data import KnownData, TrainingData
from planner.models.model_presets import ModelPreset
from planner.plan.data_section import DataSection
from planner.plan.schema import ModelSection
from planner.training_stack.stack_process import StackProcess, StackProcessError

MODULE = "launcher.data.token_length_server"
SEED = 42
"""``training.seed`` of every new plan."""


def training_data(section: DataSection, model: ModelPreset) -> TrainingData:
    """Return the data's token lengths, or the reason why they are unknown.

    Raise ``InvalidRequestError`` if the data are missing or a record is bad.
    """
    request = {
        "data": to_builtins(section),
        "model": to_builtins(_model_section(model)),
        "seed": SEED,
    }
    try:
        with closing(StackProcess(MODULE)) as process:
            answer = process.ask(request)
    except StackProcessError as failed:
        return _of_unknown_length(section, reason_of(failed))
    if "error" in answer:
        raise InvalidRequestError(from_data(answer["error"]))
    if "no_tokenizer" in answer:
        return _of_unknown_length(section, from_data(answer["no_tokenizer"]))
    return TrainingData(section=section, known=known_data(answer))


def known_data(answer: Mapping[str, Any]) -> KnownData:
    """Return the data that an answer is about."""
    formats: dict[str, str] = answer["formats"]
    return KnownData(
        name=", ".join(formats),
        formats=", ".join(dict.fromkeys(formats.values())),
        lengths=TokenLengths.of_samples(
            {(tokens, first): count for tokens, first, count in answer["samples"]}
        ),
        num_samples=answer["num_samples"],
    )


def _of_unknown_length(section: DataSection, why: str) -> TrainingData:
    return TrainingData(
        section=section, known=None, why_unknown=why, num_records=num_records(section)
    )


def _model_section(model: ModelPreset) -> ModelSection:
    return ModelSection(
        name=model.name,
        source=model.hub_id,
        revision=model.revision,
        model_type=model.spec.model_type,
        num_params=model.spec.num_params,
        trainable_params=0,
    )
