"""The option ``--model``: a preset's name, or a directory with a config.json."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from planner.base.errors import InvalidFileError, NoFormulasError
from planner.base.preset_files import Source
from planner.base.strict_json import parse_json
from planner.base.text_files import read_text
from planner.models.config_json import NATIVE_CLASSES, spec_from_config
from planner.models.model_presets import ModelPreset, load_model
from planner.models.model_spec import ModelSpec
from planner.models.stored_quantization import QUANT_FILE, refuse_quantized_beside
from planner.models.traced_model import TracedSpec


def find_model(name: str) -> ModelPreset:
    """Return the model of a directory, or the preset of this name if there is no such directory."""
    path = Path(name)
    return load_model_dir(path) if path.is_dir() else load_model(name)


def load_model_dir(directory: Path) -> ModelPreset:
    """Return a checkpoint directory as a preset whose published size is the computed one.

    Raises InvalidFileError if the directory has no config.json, or one that cannot be read, or if
    its weights are quantized.
    """
    path = directory / "config.json"
    if not path.is_file():
        raise InvalidFileError(
            directory, None, "holds no config.json. Name a model's directory or a preset"
        )
    content = _read_json(path)
    beside = directory / QUANT_FILE
    if beside.is_file():
        refuse_quantized_beside(parse_json(read_text(beside), beside), beside, content)
    spec = _spec_or_trace(content, path)
    return ModelPreset(
        name=directory.resolve().name,
        hub_id=str(directory),
        source=Source(title="config.json", url=str(path)),
        native_class=(
            spec.native_class if isinstance(spec, TracedSpec) else NATIVE_CLASSES[spec.model_type]
        ),
        expected_params=spec.num_params,
        expected_params_source="Derived from the shape in config.json.",
        spec=spec,
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
        raise InvalidFileError(path, None, "holds no keys. Copy the model's config.json here")
    return content
