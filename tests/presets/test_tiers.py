"""The tiers: three methods in order, for a model that is a preset."""

from planner.base.preset_files import ROOT
from planner.base.strict_yaml import parse_yaml
from planner.base.text_files import read_text
from planner.models.model_presets import load_model

PATH = ROOT / "tiers.yaml"
TIERS = parse_yaml(read_text(PATH), PATH)


def test_tiers() -> None:
    assert TIERS["total_gpu_memory_gib"] == {"qlora": 24, "lora": 48, "full": 120}


def test_reference_model() -> None:
    assert TIERS["reference_params"] == load_model(TIERS["reference_model"]).spec.num_params
