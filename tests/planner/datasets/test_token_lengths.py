"""Token lengths of a data set: quantiles, the length they ask for, padding, packing, a run."""

from itertools import product
from random import Random
from statistics import mean
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from trl.data_utils import _pack_bfd

from planner.base.errors import NothingFitsError
from planner.datasets.token_lengths import TokenLengths
from planner.datasets.training_data import KnownData, TrainingData
from planner.decision.choose import Decision, decide, decide_with_data
from planner.decision.epochs import epochs_of
from planner.plan.data_section import DataSection, data_keys
from planner.report.data_rows import data_document, data_rows, run_line, run_time_s
from tests.planner.builders import cards, request

ALPACA = TokenLengths({60: 500, 100: 300, 180: 150, 400: 40, 3000: 10})
LENGTHS = st.dictionaries(st.integers(1, 400), st.integers(1, 9), min_size=1, max_size=6)


def known(lengths: TokenLengths = ALPACA, num_samples: int = 1000) -> KnownData:
    return KnownData(name="a.jsonl", formats="alpaca", lengths=lengths, num_samples=num_samples)


def data(lengths: TokenLengths = ALPACA, **more: Any) -> TrainingData:
    return TrainingData(section=DataSection(source="a.jsonl"), known=known(lengths), **more)


def decided(**pinned: Any) -> Decision:
    return decide_with_data(
        request(cards(1, 24, speed="rtx-4090"), **{"model": "smollm2-135m", **pinned})
    )


@given(LENGTHS, st.integers(1, 400))
def test_a_quantile_holds_its_share(counts: dict[int, int], length: int) -> None:
    lengths = TokenLengths(counts)
    every = sorted(tokens for tokens, count in counts.items() for _ in range(count))
    for share in (0.5, 0.9, 1.0):
        at = lengths.quantile(share)
        assert sum(tokens <= at for tokens in every) >= share * len(every) - 1e-6
        assert sum(tokens < at for tokens in every) < share * len(every)
    assert lengths.num_truncated(length) == sum(tokens > length for tokens in every)
    assert lengths.tokens_lost(length) == sum(max(0, tokens - length) for tokens in every)
    assert lengths.cut(length).num_tokens == lengths.num_tokens - lengths.tokens_lost(length)


def test_padding_is_that_of_every_micro_batch_there_could_be() -> None:
    """The longest of two, over all pairs."""
    every = [10, 10, 20, 50]
    lengths = TokenLengths({10: 2, 20: 1, 50: 1})
    expected = mean(max(pair) for pair in product(every, repeat=2))
    assert lengths.padded_length(2) == pytest.approx(expected)
    assert lengths.padded_length(1) == mean(every)


@given(st.lists(st.integers(1, 130), min_size=1, max_size=200))
def test_packing_is_trls(every: list[int]) -> None:
    """As many rows as trl's own packing of the same samples, the longest cut as there."""
    table = pa.table({"input_ids": pa.array([[1] * length for length in every])})
    rows = len(_pack_bfd(table, 100))
    counts = {length: every.count(length) for length in set(every)}
    assert len(every) / TokenLengths(counts).records_per_row(100) == pytest.approx(rows)


def test_the_length_comes_from_the_data() -> None:
    """The least multiple of 64 that holds 99 of 100; the rest is told."""
    plan = decided(data=data())
    assert plan.chosen.workload.settings.sequence_length == 448
    found = epochs_of(plan.chosen, known())
    assert (found.num_truncated, found.tokens_lost) == (10, 25_520)
    assert found.num_steps == 3 * 63
    text = "\n".join(f"{name} {line}" for name, line in data_rows(plan.chosen, data(), plan.packed))
    assert "half have at most 60, 90 % at most 180, 99 % at most 400, the longest 3,000" in text
    assert "448 tokens: 10 samples are cut (1.0 %) and lose 25,520 tokens" in text
    assert run_line(plan.chosen, found).startswith("189 steps in 3 epochs, about")


def test_a_pinned_length_is_obeyed_and_told() -> None:
    plan = decided(data=data(), sequence_length=128)
    assert plan.chosen.workload.settings.sequence_length == 128
    (_, line) = data_rows(plan.chosen, data(), plan.packed)[1]
    assert line == "128 tokens: 200 samples are cut (20.0 %) and lose 47,400 tokens"


def test_the_models_positions_bound_it() -> None:
    long = TokenLengths({100_000: 1})
    plan = decided(data=data(long))
    positions = plan.request.model.spec.max_position_embeddings
    assert plan.chosen.workload.settings.sequence_length == positions


def test_what_does_not_fit_is_planned_at_the_recipes_length() -> None:
    long = data(TokenLengths({8000: 1}))
    asked = request(cards(1, 10), data=long, method="qlora", micro_batch_size=1)
    with pytest.raises(NothingFitsError, match="short"):
        decide(request(cards(1, 10), sequence_length=8000, method="qlora"))
    assert decide_with_data(asked).chosen.workload.settings.sequence_length == 2048


def test_packing_is_advised_where_it_pays() -> None:
    """Eight samples to a batch are mostly padding; one alone has none."""
    plan = decided(data=data(), micro_batch_size=8)
    found = epochs_of(plan.chosen, known())
    assert found.packing_pays
    assert (
        f"--packing computes {found.packing_gain:.1f} times fewer tokens"
        in (data_rows(plan.chosen, data(), plan.packed)[2][1])
    )
    alone = decided(data=data(), micro_batch_size=1)
    assert not epochs_of(alone.chosen, known()).packing_pays


def test_packing_is_taken_where_speed_is_preferred() -> None:
    plan = decided(data=data(), micro_batch_size=8, prefer="speed", method="lora")
    assert plan.chosen.workload.packing
    assert plan.why.endswith("packed: a run takes less time")
    apart = decided(data=data(), micro_batch_size=8, method="lora")
    assert apart.packed is not None
    assert apart.packed.candidate is not None
    took = [run_time_s(each, data()) or 0 for each in (apart.packed.candidate, apart.chosen)]
    assert 1.02 * took[0] < took[1]
    document = data_document(apart.chosen, data(), apart.packed)
    assert document is not None
    assert document["packed_run_time_s"] == took[0]


def test_packing_is_not_advised_where_documents_would_see_each_other() -> None:
    plan = decided(data=data(), model="opt-125m", micro_batch_size=8, prefer="speed")
    line = data_rows(plan.chosen, data(), plan.packed)[2][1]
    assert "times fewer tokens, but packed samples would see each other" in line
    assert not plan.chosen.workload.packing


def test_packed_as_asked() -> None:
    plan = decided(data=data(), packing=True)
    recipe = plan.chosen.workload.settings
    assert (recipe.packing, recipe.sequence_length) == (True, 2048)
    found = epochs_of(plan.chosen, known())
    assert found.packed
    assert 61 <= found.num_rows < 64
    assert found.num_steps == 3 * 4


def test_a_run_takes_as_long_as_its_real_samples() -> None:
    """Not as long as full ones."""
    plan = decided(
        data=data(), micro_batch_size=1, sequence_length=2048, method="lora", model="qwen2.5-1.5b"
    )
    assert plan.chosen.step_time_s is not None
    expected = run_time_s(plan.chosen, data())
    assert expected is not None
    assert 0.1 < expected / (189 * plan.chosen.step_time_s) < 0.6


def test_a_part_that_was_read_stands_for_the_whole() -> None:
    plan = decided(data=data())
    whole = epochs_of(plan.chosen, known(num_samples=50_000))
    assert whole.num_truncated == 500
    assert whole.num_steps == 3 * 3125


def test_an_unknown_tokenizer_is_told() -> None:
    unknown = TrainingData(
        section=DataSection(source="a.jsonl"), known=None, why_unknown="the hub cannot be reached"
    )
    plan = decided(data=unknown)
    assert plan.chosen.workload.settings.sequence_length == 2048
    assert data_rows(plan.chosen, unknown, plan.packed) == [
        ("Data", "token lengths unknown, planned for 2,048: the hub cannot be reached")
    ]
    assert data_document(plan.chosen, unknown, plan.packed) == {
        "lengths": None,
        "reason": "the hub cannot be reached",
        "num_records": None,
        "most_run_time_s": None,
    }
    assert data_rows(plan.chosen, None, plan.packed) == []


def test_several_files_may_be_named(tmp_path: Any) -> None:
    both = tmp_path / "a,b.jsonl"
    both.touch()
    assert data_keys(str(both)) == {"source": str(both), "sources": ()}
    named = DataSection(source="old.jsonl").reading("a.jsonl,b.jsonl")
    assert [source.source for source in named.every_source] == ["a.jsonl", "b.jsonl"]


def test_a_sample_of_lengths_keeps_their_shape() -> None:
    chance = Random(0)
    counts: dict[int, int] = {}
    for _ in range(20_000):
        length = min(2000, int(chance.lognormvariate(4.5, 0.8)) + 1)
        counts[length] = counts.get(length, 0) + 1
    lengths = TokenLengths(counts)
    filled = lengths.num_tokens / lengths.num_records * lengths.records_per_row(2048) / 2048
    assert 0.9 < filled <= 1.02
