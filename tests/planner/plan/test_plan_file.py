"""``plan.yaml``: what is written reads back equal, and what is wrong is named with its line."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import ValidationError, convert, json, structs

from planner.base.errors import InvalidFileError
from planner.base.strict_yaml import parse_spec
from planner.decision.assemble import plan_of
from planner.decision.choose import decide
from planner.hardware.multi_node import over_nodes
from planner.plan.plan_file import is_untouched, render
from planner.plan.schema import ParallelSection, Plan
from planner.plan.vocabulary import METHODS, Method
from tests.planner.builders import cards, request

FILE = Path("plan.yaml")
MADE = plan_of(decide(request(cards(2, 24), zero_stage=0)))
TEXT = render(MADE, command="plan --model chatglm3-6b-base", file=FILE)


@settings(max_examples=20, deadline=None)
@given(
    method=st.sampled_from(METHODS),
    count=st.sampled_from([1, 2, 8]),
    length=st.sampled_from([256, 2048]),
)
def test_what_is_written_reads_back_equal(method: Method, count: int, length: int) -> None:
    made = plan_of(decide(request(cards(count, 141), method=method, sequence_length=length)))
    assert parse_spec(Plan, render(made, command="plan", file=FILE), FILE) == made


def test_the_header_asks_for_data_only_where_the_plan_has_none() -> None:
    assert "# run it:  launch plan.yaml --data FILE\n" in TEXT
    with_data = parse_spec(Plan, TEXT.replace("  source: null", "  source: demo", 1), FILE)
    assert with_data.data.source == "demo"
    assert "# run it:  launch plan.yaml\n" in render(with_data, command="plan", file=FILE)


def test_the_header_of_several_nodes_asks_where_they_meet() -> None:
    pair = over_nodes(cards(2, 24), 2, "100gbe")
    text = render(plan_of(decide(request(pair))), command="plan", file=FILE)
    assert "# run it:  launch plan.yaml --data FILE --rdzv-endpoint HOST\n" in text


@pytest.mark.parametrize(
    ("file", "line"),
    [
        (Path("r.yaml"), "launch r.yaml --data FILE"),
        (Path("plans/my run.yaml"), "launch 'plans/my run.yaml' --data FILE"),
        (Path("two\nlines.yaml"), "launch 'two lines.yaml' --data FILE"),
        (None, "save it as plan.yaml, then launch plan.yaml --data FILE"),
    ],
)
def test_the_header_names_the_file(file: Path | None, line: str) -> None:
    text = render(MADE, command="plan", file=file)
    assert text.splitlines()[2] == f"# run it:  {line}"
    assert is_untouched(text)
    assert parse_spec(Plan, text, FILE) == MADE


def test_the_digest_tells_an_edit() -> None:
    assert is_untouched(TEXT)
    assert not is_untouched(TEXT.replace("seed: 42", "seed: 7"))
    assert not is_untouched("just: a file\n")


@pytest.mark.parametrize("revision", ["0e6d3e4beaab66f4d3f93db72541a4abab8af28d", "2e4", "12_0e1"])
def test_a_revision_that_begins_or_looks_like_a_number_reads_back(revision: str) -> None:
    named = structs.replace(MADE, model=structs.replace(MADE.model, revision=revision))
    assert parse_spec(Plan, render(named, command="plan", file=FILE), FILE) == named


def test_a_commit_that_begins_like_a_number_needs_no_quotes() -> None:
    text = TEXT.replace("revision: null", "revision: 0e6d3e4beaab")
    assert parse_spec(Plan, text, FILE).model.revision == "0e6d3e4beaab"


def test_scientific_notation_is_a_number() -> None:
    plan = parse_spec(Plan, TEXT.replace("learning_rate: 0.0002", "learning_rate: 2e-4"), FILE)
    assert plan.optimizer.learning_rate == 0.0002


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("method: lora", "method: [", r"plan\.yaml:\d+: not YAML"),
        ("method: lora", "methode: lora", r"unknown key 'methode'. Did you mean 'method'\?"),
        ("  rank: 64", "  rnk: 64", r"unknown key 'adapter.rnk'. Did you mean 'rank'\?"),
        ("  rank: 64", "  rank: many", r"adapter.rank: .* not the text 'many'"),
        ("  rank: 64", "  rank: 0", r"adapter.rank: .*whole number >= 1"),
        ("schema_version: 1", "schema_version: 2", r"schema_version: "),
        ("  global_batch_size: 16", "  global_batch_size: 15", r"global_batch_size \(15\) must be"),
        (
            "parallel:\n  strategy: ddp",
            "parallel:\n  strategy: zero3",
            r"strategy zero3 means zero_stage 3, not 0",
        ),
        ("  world_size: 2", "  world_size: 3", r"world_size \(3\) must be num_nodes"),
        ("  copies: 1", "  copies: 2", r"copies 2 needs strategy fsdp, not ddp"),
        ("  sequence_parallel_size: 1", "  sequence_parallel_size: 2", r"needs a ZeRO .* not ddp"),
        ("  sequence_parallel_size: 1", "  sequence_parallel_size: 3", r"\(3\) must divide gpus_p"),
        ("  epochs: 3.0", "  epochs: null", r"give either epochs or max_steps"),
        ("method: lora", "method: full", r"method full must not have an adapter section"),
        (
            "activation_checkpointing: true\ncheckpoint_every: 1",
            "activation_checkpointing: false\ncheckpoint_every: 2",
            r"checkpoint_every \(2\) says which layers are recomputed",
        ),
        (
            "quantization: null",
            "quantization: {quant_type: int8, double_quant: true}",
            r"double_quant needs quant_type nf4",
        ),
        (
            "quantization: null",
            "quantization: {quant_type: int4}",
            r"quantization.quant_type: ",
        ),
        ("name: adamw_torch_fused", "name: adamw_8bits", "no optimizer.*Did you mean 'adamw_8bit'"),
        ("  seed: 42", "  seed: 42\n  seed: 43", r"plan\.yaml:\d+: the key 'seed' is given twice"),
        ("  seed: 42", "  seed: no", r"training.seed: .*the truth value False"),
    ],
)
def test_what_is_wrong_is_named(old: str, new: str, message: str) -> None:
    assert TEXT.count(old) == 1
    with pytest.raises(InvalidFileError, match=message) as caught:
        parse_spec(Plan, TEXT.replace(old, new), FILE)
    assert str(caught.value).startswith("plan.yaml:")


def test_copies_divide_the_ranks_into_two_or_more() -> None:
    section = {"strategy": "fsdp", "zero_stage": 0, "num_nodes": 1, "gpus_per_node": 8}
    for copies, shard_ranks in ((1, 8), (2, 4), (4, 2)):
        found = convert({**section, "world_size": 8, "copies": copies}, ParallelSection)
        assert found.shard_ranks == shard_ranks
    for copies in (3, 8):
        with pytest.raises(ValidationError, match="into two ranks or more for each copy"):
            convert({**section, "world_size": 8, "copies": copies}, ParallelSection)


def test_dora_does_not_go_with_int8() -> None:
    text = TEXT.replace("method: lora", "method: qlora")
    text = text.replace("quantization: null", "quantization: {quant_type: int8}")
    assert parse_spec(Plan, text, FILE).quantization is not None
    with pytest.raises(InvalidFileError, match="cannot be combined with quant_type int8"):
        parse_spec(Plan, text.replace("dora: false", "dora: true"), FILE)


def test_the_line_is_that_of_the_key() -> None:
    line = TEXT.splitlines().index("  rank: 64") + 1
    with pytest.raises(InvalidFileError, match=rf"^plan\.yaml:{line}: "):
        parse_spec(Plan, TEXT.replace("  rank: 64", "  rank: many"), FILE)


def test_the_schema_for_editors_names_every_key() -> None:
    schema = json.schema(Plan)["$defs"]["Plan"]
    assert list(schema["properties"]) == [field.name for field in structs.fields(Plan)]
    assert schema["additionalProperties"] is False
