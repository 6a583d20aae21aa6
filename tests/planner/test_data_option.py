"""``--data``: what it names is read as the recipe says."""

from typing import Any

import pytest

from planner import cli
from planner.data_section import DataSection
from planner.presets import load_model
from planner.recipe import load_recipe
from planner.training_data import TrainingData


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[DataSection]:
    """Sections that the launcher would be asked about."""
    sections: list[DataSection] = []

    def known(section: DataSection, _model: Any) -> TrainingData:
        sections.append(section)
        return TrainingData(section=section, known=None)

    monkeypatch.setattr("planner.planned_data.training_data", known)
    return sections


def test_the_recipes_names_of_fields_stay(asked: list[DataSection]) -> None:
    names = {"instruction": "instruction_zh", "output": "output_zh"}
    data = DataSection.model_validate({"source": "old.jsonl", "fields": names})
    recipe = load_recipe("lora").model_copy(update={"data": data})
    cli._training_data("new.jsonl", "skip", recipe, load_model("smollm2-135m"))
    assert [section.source for section in asked] == ["new.jsonl"]
    assert asked[0].fields.given == names
    assert asked[0].errors == "skip"


def test_no_data_no_question(asked: list[DataSection]) -> None:
    assert cli._training_data(None, None, None, load_model("smollm2-135m")) is None
    assert not asked
