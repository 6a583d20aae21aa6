"""``plan --schema``: what the schema of a file accepts and refuses, the strict reader does too."""

import json
from collections.abc import Callable
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from msgspec import to_builtins

from planner.base.errors import InvalidFileError, InvalidRequestError
from planner.base.preset_files import ROOT, preset_names
from planner.base.strict_yaml import dump_yaml, parse_spec, parse_yaml
from planner.cli.plan_command import plan
from planner.cli.schema_option import KINDS, SchemaKind, schema_of, show_schema
from planner.hardware.saved_machine import render_machine
from planner.plan.file_schema import key_descriptions, sections_of
from planner.plan.plan_file import is_untouched
from planner.plan.schema import Plan
from planner.recipes.load_recipe import load_recipe, recipe_names
from tests.launcher.plans import full, parallel, plan_content
from tests.planner.hardware.test_machine import gpu, machine

HERE = Path("file.yaml")
PLANS = [
    plan_content(),
    plan_content(**full()),
    plan_content(parallel=parallel("zero3"), batch__gradient_accumulation_steps=1),
    plan_content(data={"sources": [{"source": "a.jsonl", "fields": {"prompt": "q"}}]}),
    plan_content(
        data__validation_fraction=0.1, training={"epochs": 2, "evaluation": {"every_steps": 5}}
    ),
]
Change = Callable[[dict[str, Any]], Any]


@cache
def validator(kind: SchemaKind) -> Draft202012Validator:
    schema = schema_of(kind)
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def errors(kind: SchemaKind, content: object) -> list[str]:
    return [error.message for error in validator(kind).iter_errors(content)]


@pytest.mark.parametrize("kind", KINDS)
def test_every_key_of_every_section_has_a_description(kind: SchemaKind) -> None:
    for section in sections_of(KINDS[kind]).values():
        undescribed = [key for key, text in key_descriptions(section).items() if not text]
        assert not undescribed, section
    definitions = schema_of(kind)["$defs"].values()
    keys = [key for each in definitions for key in each["properties"].values()]
    assert all(key["description"].strip() for key in keys)


@pytest.mark.parametrize("content", PLANS)
def test_plans_are_valid(content: dict[str, Any]) -> None:
    parse_spec(Plan, dump_yaml(content), HERE)
    assert errors("plan", content) == []


@pytest.mark.parametrize("gpus", ["24G", "2x24G", "8xh100", "cpu"])
def test_a_written_plan_is_valid(
    gpus: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["plan"])
    plan(model="qwen2.5-0.5b", gpus=gpus, output=Path("-"))
    assert errors("plan", parse_yaml(capsys.readouterr().out, HERE)) == []


@pytest.mark.parametrize("name", recipe_names())
def test_recipes_are_valid(name: str) -> None:
    assert errors("recipe", json.loads(json.dumps(to_builtins(load_recipe(name))))) == []


def test_cards_are_valid() -> None:
    for name in preset_names("gpus"):
        file = ROOT / "gpus" / f"{name}.yaml"
        assert errors("card", parse_yaml(file.read_text(encoding="utf-8"), file)) == [], name


def test_a_saved_machine_is_valid() -> None:
    saved = render_machine(machine(gpu(0, "NVIDIA H100 80GB HBM3", 81_559)))
    assert errors("machine", json.loads(saved)) == []


def changed(section: str, key: str, value: object) -> Change:
    return lambda content: (content[section] if section else content).update({key: value})


@pytest.mark.parametrize(
    "change",
    [
        changed("", "colour", "red"),
        changed("batch", "colour", "red"),
        changed("batch", "micro_batch_size", "two"),
        changed("batch", "micro_batch_size", 0),
        changed("batch", "sequence_length", 1),
        changed("batch", "packing", "yes"),
        changed("adapter", "dropout", 1.0),
        changed("adapter", "target_modules", "all"),
        changed("", "method", "prefix"),
        changed("", "schema_version", 2),
        changed("optimizer", "learning_rate", "2e-4"),
        changed("training", "report_to", "wandb"),
        changed("data", "format", "parquet"),
        lambda content: content.pop("batch"),
        lambda content: content["batch"].pop("sequence_length"),
        lambda content: content["prediction"].pop("phases"),
    ],
)
def test_what_one_refuses_the_other_does(change: Change) -> None:
    content = deepcopy(plan_content())
    change(content)
    assert errors("plan", content)
    with pytest.raises(InvalidFileError):
        parse_spec(Plan, dump_yaml(content), HERE)


def test_a_plan_beside_the_schema_tells_editors_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The line is in the header, so that the plan counts as unedited."""
    monkeypatch.setattr("sys.argv", ["plan"])
    file = tmp_path / "plan.yaml"
    show_schema("plan", tmp_path / "tuneplan-plan.schema.json", force=False)
    plan(model="qwen2.5-0.5b", gpus="24G", output=file, as_json=True)
    text = file.read_text(encoding="utf-8")
    mark = "# yaml-language-server: $schema=tuneplan-plan.schema.json"
    assert text.splitlines()[0] == mark
    assert is_untouched(text)
    assert not is_untouched(text.replace("sequence_length: 2048", "sequence_length: 1024"))


def test_only_a_schema_is_replaced(tmp_path: Path) -> None:
    file = tmp_path / "schema.json"
    show_schema("card", file, force=False)
    show_schema("recipe", file, force=False)
    assert json.loads(file.read_text(encoding="utf-8"))["title"] == "recipe of tuneplan"
    file.write_text("{}", encoding="utf-8")
    with pytest.raises(InvalidRequestError, match="is not a schema"):
        show_schema("recipe", file, force=False)
