"""Models that ship with tuneplan: where each lives, its shape and its published size."""

import re
from functools import cache

from planner.base.phrases import Phrase
from planner.base.preset_files import ROOT, Source, preset_names, resolve_name
from planner.base.strict_yaml import Spec, read_spec
from planner.base.text_files import read_text
from planner.models.model_spec import ModelSpec
from planner.plan.schema import RopeScaling

_HUB_ID = re.compile(r"^hub_id: (\S+)$", re.MULTILINE)


class ModelPreset(Spec):
    """A model that people fine-tune: where it lives, its shape, and its published size."""

    name: str
    hub_id: str
    revision: str | None = None
    """The revision on the hub that the shape was read of; None where any will do."""
    source: Source
    native_class: str | None
    """The transformers class that the launcher builds; None where only remote code exists."""
    expected_params: int
    expected_params_source: str
    spec: ModelSpec
    rope_type: str = "default"
    """Scaling of rotary positions that the model comes with, by transformers' name."""
    rope_scaling: RopeScaling | None = None
    """Scaling to positions beyond the model's own."""


def load_model(name: str) -> ModelPreset:
    """Return the preset of this name, alias or hub id.

    Raises ``UnknownNameError`` where there is none.
    """
    hub_ids = _hub_ids() if "/" in name else None
    file_name = resolve_name("models", Phrase("model"), name, hub_ids)
    return read_spec(ModelPreset, ROOT / "models" / f"{file_name}.yaml")


@cache
def _hub_ids() -> dict[str, str]:
    """Return presets by their hub id in lower case: to parse every file would take longer than to
    plan."""
    texts = {name: read_text(ROOT / "models" / f"{name}.yaml") for name in preset_names("models")}
    found = ((_HUB_ID.search(text), name) for name, text in texts.items())
    return {match[1].lower(): name for match, name in found if match is not None}
