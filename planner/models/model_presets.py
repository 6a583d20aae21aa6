"""Models that ship with tuneplan: where each lives, its shape and its published size."""

from planner.base.preset_files import ROOT, Source, resolve_name
from planner.base.strict_yaml import Spec, read_spec
from planner.models.model_spec import ModelSpec


class ModelPreset(Spec):
    """A model people fine-tune: where it lives, its shape, and its published size."""

    name: str
    hub_id: str
    source: Source
    native_class: str | None
    """The transformers class the launcher builds; nothing where only remote code exists."""
    expected_params: int
    expected_params_source: str
    spec: ModelSpec


def load_model(name: str) -> ModelPreset:
    return read_spec(ModelPreset, ROOT / "models" / f"{resolve_name('models', 'model', name)}.yaml")
