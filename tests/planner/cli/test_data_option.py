"""``--data``: what it names is read as the recipe says."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from msgspec import convert, structs

from planner.base.strict_yaml import read_spec
from planner.cli import plan_command as cli
from planner.datasets.token_lengths import TokenLengths
from planner.datasets.training_data import KnownData, TrainingData
from planner.models.model_presets import load_model
from planner.plan.data_section import DataSection
from planner.plan.schema import Plan
from planner.recipes.load_recipe import load_recipe
from planner.search.repredict import predicted


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[DataSection]:
    """Sections that the launcher would be asked about."""
    sections: list[DataSection] = []

    def known(section: DataSection, _model: Any) -> TrainingData:
        sections.append(section)
        return TrainingData(section=section, known=None)

    monkeypatch.setattr("planner.training_stack.token_length_client.training_data", known)
    return sections


def test_the_recipes_names_of_fields_stay(asked: list[DataSection]) -> None:
    names = {"instruction": "instruction_zh", "output": "output_zh"}
    data = convert({"source": "old.jsonl", "fields": names}, DataSection)
    recipe = structs.replace(load_recipe("lora"), data=data)
    cli._training_data("new.jsonl", "skip", recipe, load_model("smollm2-135m"))
    assert [section.source for section in asked] == ["new.jsonl"]
    assert asked[0].fields.given == names
    assert asked[0].errors == "skip"


def test_no_data_no_question(asked: list[DataSection]) -> None:
    assert cli._training_data(None, None, None, load_model("smollm2-135m")) is None
    assert not asked


@pytest.fixture
def alpaca(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A data set whose lengths are known, in a directory to write plans to."""
    known = KnownData(
        name="a.jsonl",
        formats="alpaca",
        lengths=TokenLengths({60: 500, 100: 300, 180: 150, 400: 50}),
        num_samples=1000,
    )
    monkeypatch.setattr(
        "planner.training_stack.token_length_client.training_data",
        lambda section, _model: TrainingData(section=section, known=known),
    )
    monkeypatch.chdir(tmp_path)


MACHINES = pytest.mark.parametrize("gpus", ["24G", "rtx-4090", "2x24G", "8xh100", "cpu"])


def plan(gpus: str, **options: Any) -> None:
    cli.plan(model="smollm2-135m", gpus=gpus, data="a.jsonl", **options)


@MACHINES
@pytest.mark.parametrize("packing", [None, True])
@pytest.mark.usefixtures("alpaca")
def test_the_report_tells_of_the_data(
    gpus: str, packing: bool | None, capsys: pytest.CaptureFixture[str]
) -> None:
    plan(gpus, packing=packing)
    out = capsys.readouterr().out
    assert "a.jsonl (alpaca), 1,000 samples per epoch" in out
    assert bool(re.search(r"packed into [\d,]+ rows", out)) == bool(packing)
    assert ("fewest cards like these" in out) == (gpus != "cpu")


@MACHINES
@pytest.mark.parametrize("packing", [None, True])
@pytest.mark.usefixtures("alpaca")
def test_the_document_tells_of_the_data(
    gpus: str, packing: bool | None, capsys: pytest.CaptureFixture[str]
) -> None:
    plan(gpus, packing=packing, as_json=True)
    document = json.loads(capsys.readouterr().out)
    assert document["data"]["num_samples"] == 1000
    assert document["data"]["packed"] is document["plan"]["batch"]["packing"] is bool(packing)
    assert document["plan"]["batch"]["sequence_length"] == (2048 if packing else 448)


@MACHINES
@pytest.mark.parametrize("packing", [None, True])
@pytest.mark.usefixtures("alpaca", "capsys")
def test_the_plan_predicts_itself(gpus: str, packing: bool | None) -> None:
    """As ``launch --set`` predicts it anew: packed where it is packed, whose rows take a mask."""
    plan(gpus, packing=packing, micro_batch_size=1, method="lora")
    made = read_spec(Plan, Path("plan.yaml"))
    assert made.data.source == "a.jsonl"
    assert made.batch.packing is bool(packing)
    assert predicted(made).prediction == made.prediction
