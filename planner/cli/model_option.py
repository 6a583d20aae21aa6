"""The option ``--model``: a preset, a directory with a config.json, or a model of the hub."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from planner.base.errors import (
    InvalidFileError,
    InvalidRequestError,
    NoFormulasError,
    UnknownNameError,
)
from planner.base.phrases import Phrase
from planner.base.preset_files import Source
from planner.base.strict_json import parse_json
from planner.base.text_files import read_text
from planner.models.config_json import NATIVE_CLASSES, spec_from_config
from planner.models.model_presets import ModelPreset, load_model
from planner.models.model_spec import ModelSpec
from planner.models.stored_quantization import QUANT_FILE, refuse_quantized_beside
from planner.models.traced_model import TracedSpec
from planner.plan.rope_scaling import rope_type_of

if TYPE_CHECKING:
    from planner.models.hub_config import HubName


def find_model(name: str) -> ModelPreset:
    """Return the model of a directory, else the preset of this name, else the model that the hub
    has under it.

    Raises UnknownNameError for a name that is none of these, InvalidRequestError for a path that
    is not there; for what the hub says, as ``hub_config`` does.
    """
    path = Path(name)
    if path.is_dir():
        return load_model_dir(path)
    try:
        return load_model(name)
    except UnknownNameError as unknown:
        from planner.models.hub_config import hub_name  # only a model of the hub needs it

        on_hub = hub_name(name)
        if on_hub is None and os.sep in name:
            folder = Phrase("model folder {source} does not exist", source=name)
            raise InvalidRequestError(folder) from None
        if on_hub is None:
            raise
        return load_hub_model(on_hub, unknown.question)


def load_hub_model(name: "HubName", hint: str = "") -> ModelPreset:
    """Return a model of the hub as a preset; ``hint`` ends the message if there is no such one."""
    from planner.models.hub_config import hub_config

    found = hub_config(name, os.environ, hint)
    place = f"{name.id}/config.json"
    spec = _spec_or_trace(found.content, Path(place))
    return _preset(
        spec,
        name.id.partition("/")[2],
        hub_id=name.id,
        revision=found.revision,
        place=place,
        rope_type=rope_type_of(found.content),
    )


def load_model_dir(directory: Path) -> ModelPreset:
    """Return a checkpoint directory as a preset whose published size is the computed one.

    Raises InvalidFileError if the directory has no config.json, or one that cannot be read, or if
    its weights are quantized.
    """
    path = directory / "config.json"
    if not path.is_file():
        raise InvalidFileError(
            directory, None, Phrase("holds no config.json. Name a model's directory or a preset")
        )
    content = _read_json(path)
    beside = directory / QUANT_FILE
    if beside.is_file():
        refuse_quantized_beside(parse_json(read_text(beside), beside), beside, content)
    spec = _spec_or_trace(content, path)
    return _preset(
        spec,
        directory.resolve().name,
        hub_id=str(directory),
        revision=None,
        place=str(path),
        rope_type=rope_type_of(content),
    )


def _preset(
    spec: ModelSpec,
    name: str,
    *,
    hub_id: str,
    revision: str | None,
    place: str,
    rope_type: str,
) -> ModelPreset:
    return ModelPreset(
        name=name,
        hub_id=hub_id,
        revision=revision,
        source=Source(title="config.json", url=place),
        native_class=(
            spec.native_class if isinstance(spec, TracedSpec) else NATIVE_CLASSES[spec.model_type]
        ),
        expected_params=spec.num_params,
        expected_params_source="Derived from the shape in config.json.",
        spec=spec,
        rope_type=rope_type,
    )


def _spec_or_trace(content: Mapping[str, Any], path: Path) -> ModelSpec:
    try:
        return spec_from_config(content, path)
    except NoFormulasError as missing:
        # Only a model without formulas has to wait for the training stack.
        from planner.training_stack.trace_client import tracing_service

        return tracing_service().shape(content, str(missing))


def _read_json(path: Path) -> Mapping[str, Any]:
    content = parse_json(read_text(path), path)
    if not isinstance(content, dict):
        raise InvalidFileError(
            path, None, Phrase("holds no keys. Copy the model's config.json here")
        )
    return content
