"""Every formula that ``--explain`` prints comes to the cell of the memory report beside it."""

import io
import re
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs
from rich.console import Console

from planner.base.errors import UserError
from planner.base.units import MIB
from planner.decision.choose import Decision, decide
from planner.decision.method_search import search_method
from planner.plan.optimizer_presets import optimizers
from planner.plan.vocabulary import METHODS, Method, Offload, Part, Phase, ZeroStage
from planner.report.explain.explained import Explained
from planner.report.explain.formulas import formulas, managed_memory
from planner.report.explain_tables import explanation
from planner.search.candidate import Candidate
from planner.search.candidate_between_steps import between_steps
from planner.workload.optimizers import states_bytes
from tests.golden.predictions import MACHINES, shapes
from tests.planner.builders import cards, request
from tests.planner.cli.test_plan_command import plan
from tests.planner.report.explain.arithmetic import evaluate

MODELS = ("chatglm3-6b-base", "qwen2.5-3b", "gpt2", "mixtral-8x7b", "deepseek-v2-lite")
ONE_DEVICE: list[dict[str, Any]] = [
    {},
    {"micro_batch_size": 4, "activation_checkpointing": True},
    {"precision": "fp16", "loss": "standard"},
    {"precision": "fp32", "attention": "eager"},
]
SHARDED: list[dict[str, Any]] = [
    {"zero_stage": stage, "offload": offload, "micro_batch_size": 1, "global_batch_size": batch}
    for stage, offload, batch in product((0, 1, 2, 3), ("none", "optimizer", "all"), (3, 12))
    if stage >= {"none": 0, "optimizer": 2, "all": 3}[offload]
]
"""Three ranks divide nothing evenly; with 12 samples gradients are accumulated."""


def cells(chosen: Candidate) -> dict[tuple[Phase, Part], int]:
    """The memory report's cells, as the printed formulas have them."""
    found = {}
    for row in formulas(Explained(chosen)):
        assert row.num_bytes == evaluate(row.text), row.text
        assert all(row.sources)
        for phase in row.phases:
            assert (phase, row.part) not in found
            found[phase, row.part] = row.num_bytes
    return found


def reported(chosen: Candidate) -> dict[tuple[Phase, Part], int]:
    phases = chosen.footprint.phases.items()
    return {(phase, part): size for phase, parts in phases for part, size in parts.items() if size}


@pytest.mark.parametrize("pinned", ONE_DEVICE, ids=str)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("model", MODELS)
def test_formulas_of_one_device(model: str, method: Method, pinned: dict[str, Any]) -> None:
    chosen = decide(request(cards(1, 900), model=model, method=method, **pinned)).chosen
    assert cells(chosen) == reported(chosen)


@pytest.mark.parametrize("pinned", SHARDED, ids=str)
@pytest.mark.parametrize(
    ("model", "method"), [("gpt2", "full"), ("qwen2.5-3b", "lora"), ("mixtral-8x7b", "full")]
)
def test_formulas_of_several_devices(model: str, method: Method, pinned: dict[str, Any]) -> None:
    try:
        chosen = decide(request(cards(3, 900), model=model, method=method, **pinned)).chosen
    except UserError:
        pytest.skip("a rule forbids it")
    assert cells(chosen) == reported(chosen)


@pytest.mark.parametrize(("batch", "offload"), [(6, "none"), (12, "all")])
def test_formulas_of_copies(batch: int, offload: Offload) -> None:
    """Offloaded, the parts that are summed over the copies stay until backward has ended."""
    pinned: dict[str, Any] = {"offload": offload, "micro_batch_size": 1, "global_batch_size": batch}
    asked = request(cards(6, 900), model="gpt2", method="full", strategy="fsdp", **pinned)
    one = decide(asked).chosen
    two, half = (
        structs.replace(one, layout=structs.replace(one.layout, **changes))
        for changes in ({"copies": 2}, {"world_size": 3})
    )
    assert cells(two) == reported(two)
    differs = {place for place, size in cells(two).items() if size != cells(half).get(place)}
    kept = {("backward", "gradients"), ("forward", "gradients")} if offload == "all" else set()
    assert differs <= kept
    assert (("backward", "gradients") in differs) == (offload == "all")


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("model", ["llama-3.1-8b", "qwen2.5-3b", "phi-4"])
def test_formulas_of_layers_that_are_cut(model: str, method: Method) -> None:
    asked = request(cards(2, 900), model=model, method=method, strategy="tensor")
    chosen = decide(asked).chosen
    assert cells(chosen) == reported(chosen)


@pytest.mark.parametrize("stage", [None, 2, 3])
@pytest.mark.parametrize("name", optimizers())
def test_formulas_of_optimizers(name: str, stage: ZeroStage | None) -> None:
    ranks = 1 if stage is None else 4
    pinned = {"method": "full", "optimizer": name, "zero_stage": stage}
    try:
        chosen = decide(request(cards(ranks, 900), model="qwen2.5-0.5b", **pinned)).chosen
    except UserError:
        pytest.skip("a rule forbids it")
    assert cells(chosen) == reported(chosen)

    explained = Explained(chosen)
    managed = managed_memory(explained)
    expected = states_bytes(
        explained.optimizer, explained.handed, width=explained.kinds.home, device="cuda"
    ).paged
    assert (managed.num_bytes if managed else 0) == expected
    assert managed is None or evaluate(managed.text) == expected


@pytest.mark.long
@pytest.mark.parametrize(("number", "model"), list(enumerate(shapes())))
def test_formulas_of_the_golden_requests(number: int, model: str) -> None:
    """One of each model's requests, another for each; all of them would take minutes."""
    requests = list(product(MACHINES, METHODS))
    start = 4 * number % len(requests)
    for (count, gib), method in requests[start:] + requests[:start]:
        asked = request(cards(count, gib), model=model, method=method)
        chosen = search_method(asked, method).best
        if chosen is not None:
            assert cells(chosen) == reported(chosen)
            return


def printed(decision: Decision, width: int) -> str:
    console = Console(width=width, file=io.StringIO(), record=True)
    console.print(explanation(decision))
    return console.export_text()


@pytest.mark.parametrize(
    "pinned",
    [
        {"method": "qlora"},
        {"method": "full", "zero_stage": 1, "global_batch_size": 16},
        {"method": "full", "zero_stage": 3, "offload": "all"},
        {"method": "full", "optimizer": "paged_adamw_8bit"},
    ],
    ids=str,
)
def test_what_is_printed_is_what_is_evaluated(pinned: dict[str, Any]) -> None:
    decision = decide(request(cards(4, 900), **pinned))
    explained = Explained(decision.chosen)
    text = printed(decision, 400)
    managed = managed_memory(explained)
    terms = [term for row in formulas(explained) for term in row.terms]
    for term in [*terms, *([managed] if managed else [])]:
        assert term.text in text
        assert term.source in text

    numbers = re.compile(r"^(\w*) +([\d,.]+|-|<0.1) +([\d,.]+|-|<0.1) +[\d,]+   ", re.MULTILINE)
    tensors = [tuple(map(mib, row)) for _, *row in numbers.findall(text)]
    ledgers = explained.ledgers.values()
    for column, ledger in zip(zip(*tensors, strict=True), ledgers, strict=True):
        total = sum(tensor.num_bytes for tensor in ledger) / MIB
        assert sum(column) == pytest.approx(total, abs=0.05 * len(column))


def mib(cell: str) -> float:
    return 0.0 if cell in ("-", "<0.1") else float(cell.replace(",", ""))


@pytest.mark.parametrize("width", [60, 80, 100, 140])
def test_no_number_is_cut_or_parted_from_its_unit(width: int) -> None:
    lines = printed(decide(request(cards(2, 80), method="full")), width).splitlines()
    assert max(map(len, lines)) <= width
    for line in lines:
        assert not re.search(r"[ (]\d(?:[\d,]*\d)? *$", line), line


def test_the_tables_name_formulas_and_tensors(tmp_path: Path) -> None:
    result = plan("--model", "chatglm3-6b-base", "--gpus", "24G", "--explain", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    for words in ("NF4 codes: 5,710,544,896 weights", "arXiv:2305.14314", "silu", "Memory per GPU"):
        assert words in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("stage", [0, 3])
def test_what_comes_between_steps_takes_less_than_a_step(method: Method, stage: ZeroStage) -> None:
    if method == "qlora" and stage == 3:
        return
    chosen = decide(request(cards(4, 141), method=method, zero_stage=stage)).chosen
    found = between_steps(chosen)
    forward = chosen.footprint.total_bytes("forward")
    assert sum(found.evaluation.values()) < forward
    assert sum(found.generation.values()) < forward
    assert found.generation["activations"] > 0 == found.generation["loss"]
