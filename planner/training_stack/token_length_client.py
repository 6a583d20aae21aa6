"""Token lengths of the data that a plan is for, from the launcher, in a process of its own.

Only there are the real tokenizer and its chat template; the planner imports neither.
"""

import json
import subprocess
import sys
from typing import Any

from msgspec import to_builtins

from planner.base.errors import InvalidRequestError
from planner.datasets.token_lengths import TokenLengths
from planner.datasets.training_data import KnownData, TrainingData
from planner.models.model_presets import ModelPreset
from planner.plan.data_section import DataSection
from planner.plan.schema import ModelSection

SEED = 42
"""A plan's own until somebody changes it."""


def training_data(section: DataSection, model: ModelPreset) -> TrainingData:
    """What is known of the data, or why the model's tokenizer cannot be had. Bad data are an
    error."""
    answer = _ask(
        {
            "data": to_builtins(section),
            "model": to_builtins(_model_section(model)),
            "seed": SEED,
        }
    )
    if "error" in answer:
        raise InvalidRequestError(answer["error"])
    if "no_tokenizer" in answer:
        return TrainingData(section=section, known=None, why_unknown=answer["no_tokenizer"])
    formats: dict[str, str] = answer["formats"]
    known = KnownData(
        name=", ".join(formats),
        formats=", ".join(dict.fromkeys(formats.values())),
        lengths=TokenLengths({int(tokens): count for tokens, count in answer["counts"].items()}),
        num_samples=answer["num_samples"],
    )
    return TrainingData(section=section, known=known)


def _ask(request: dict[str, Any]) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "launcher.data.token_lengths"],
        input=json.dumps(request),
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode != 0 or not done.stdout:
        return {
            "no_tokenizer": "the training stack is not installed (pip install 'tuneplan[train]')"
        }
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def _model_section(model: ModelPreset) -> ModelSection:
    return ModelSection(
        name=model.name,
        source=model.hub_id,
        model_type=model.spec.model_type,
        num_params=model.spec.num_params,
        trainable_params=0,
    )
