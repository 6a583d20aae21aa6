"""Local copies of the files that an estimator would fetch from the hub, made from our model
presets.

The layout is that of Hugging Face's cache, so that a peer that names a model by its hub id finds it
offline, and a peer that reads a directory gets the same files.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from planner.base.errors import UnknownNameError
from planner.models.config_json import config_from_spec
from planner.models.model_presets import ModelPreset, load_model

REVISION = "0" * 40
SAME_SHAPE = {"llama-3-8b": "llama-3.1-8b", "qwen2.5-coder-1.5b": "qwen2.5-1.5b"}
"""Presets with the same matrices, by the name of other weights."""
TUNED = re.compile(r"-(instruct|chat|base|hf)(?=-|$)")
PARAMS_TOLERANCE = 0.005
"""Share by which a row's model size may differ: rows round it to a million parameters or to 0.01
billion."""


@dataclass(frozen=True, slots=True)
class LocalModel:
    hub_id: str
    directory: str


def preset_for(model: str, params: float | None) -> ModelPreset | None:
    """Return the preset with the shape of a row's model; tuned versions share that of their base.

    A name alone is not trusted: the size in the row must be the preset's.
    """
    name = TUNED.sub("", model.rpartition("/")[2].lower())
    try:
        preset = load_model(SAME_SHAPE.get(name, name))
    except UnknownNameError:
        return None
    if params is None or preset.native_class is None:
        return None
    near = abs(preset.expected_params - params) <= PARAMS_TOLERANCE * preset.expected_params
    return preset if near else None


def config(preset: ModelPreset) -> dict[str, object]:
    """Return the keys of ``config.json`` that decide how large a model is."""
    shape = config_from_spec(preset.spec)
    return {**shape, "architectures": [preset.native_class], "torch_dtype": "bfloat16"}


def write_model(preset: ModelPreset, hub: Path) -> LocalModel:
    """Write ``preset`` as a snapshot into the cache below ``hub``; the index holds its exact
    size."""
    repository = hub / "hub" / f"models--{preset.hub_id.replace('/', '--')}"
    snapshot = repository / "snapshots" / REVISION
    snapshot.mkdir(parents=True, exist_ok=True)
    (repository / "refs").mkdir(exist_ok=True)
    (repository / "refs" / "main").write_text(REVISION, encoding="utf-8")
    index = {"metadata": {"total_size": 2 * preset.expected_params}, "weight_map": {}}
    for name, content in (
        ("config.json", config(preset)),
        ("model.safetensors.index.json", index),
    ):
        (snapshot / name).write_text(json.dumps(content), encoding="utf-8")
    return LocalModel(hub_id=preset.hub_id, directory=str(snapshot))
