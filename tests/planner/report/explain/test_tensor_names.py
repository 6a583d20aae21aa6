"""Names of tensors on the tape in other languages: those of every architecture, by every method."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from planner.base.phrases import Phrase
from planner.base.preset_files import ROOT as PRESETS
from planner.base.preset_files import translations
from planner.base.strict_yaml import parse_yaml
from planner.decision.method_search import search_method
from planner.plan.vocabulary import Method
from planner.report.explain.explained import Explained
from planner.report.explain.tensor_names import tensor_words
from tests.oracle.small_models import SHAPES
from tests.planner.builders import cards, request
from tests.test_layering import ROOT

TABLES: Mapping[str, Mapping[str, str]] = parse_yaml(
    (PRESETS / "languages" / "zh.yaml").read_text(encoding="utf-8"), Path("zh.yaml")
)
MOST_NAMES = ("glm4-moe", "gpt2", "gemma3")
"""Architectures that have most of the names; the others are run for long."""
WAYS: list[tuple[Method, dict[str, Any]]] = [
    ("qlora", {}),
    ("qlora", {"attention": "eager", "loss": "standard", "precision": "fp16"}),
    (
        "lora",
        {
            "activation_checkpointing": True,
            "precision": "fp32",
            "lora_targets": ("all-linear", "experts"),
            "lora_dropout": 0.0,
        },
    ),
    ("full", {"loss": "standard"}),
    ("full", {"attention": "eager", "micro_batch_size": 2}),
]


def leaves(phrase: str) -> Iterator[str]:
    """Yield the parts of a name that a table has by themselves; single words may be modules."""
    assert isinstance(phrase, Phrase)
    if not phrase.values:
        yield phrase
    for part in phrase.values.values():
        yield from leaves(part) if isinstance(part, Phrase) else ()


def names_of(shape: str, method: Method, options: dict[str, Any]) -> Iterator[str]:
    asked = request(cards(1, 80, speed="a100-sxm-80gb"), model="gpt2", method=method, **options)
    model = structs.replace(asked.model, spec=SHAPES[shape])
    found = search_method(structs.replace(asked, model=model, sequence_length=64), method)
    if found.best is None:
        return
    for ledger in Explained(found.best).ledgers.values():
        yield from (tensors.name for tensors in ledger)


@pytest.mark.parametrize(
    "shape",
    [each if each in MOST_NAMES else pytest.param(each, marks=pytest.mark.long) for each in SHAPES],
)
def test_every_name_of_several_words_is_translated(shape: str) -> None:
    names = {name for method, options in WAYS for name in names_of(shape, method, options)}
    several = {
        leaf
        for name in names
        for leaf in leaves(tensor_words(name))
        if re.search("[a-z]{2,} .*[a-z]{2,}", leaf)
    }
    assert names
    assert several <= translations("zh").keys()


def test_no_translation_is_left_of_a_name_that_is_gone() -> None:
    files = [
        *(ROOT / "planner" / "forward").rglob("*.py"),
        *(ROOT / "planner" / "tape").rglob("*.py"),
        *(ROOT / "planner" / "workload").rglob("*.py"),
        ROOT / "planner" / "memory" / "optimizer_step.py",
    ]
    sources = "\n".join(file.read_text(encoding="utf-8") for file in files)
    gone = [name for name in TABLES["tensors"] if not re.search(re.escape(name), sources)]
    assert not gone
