"""The choice of method: the customer's tiers, preferences, pins, and what is said of the rest."""

import re
from typing import Any

import pytest
from msgspec import structs

from planner.base.errors import InvalidRequestError, NothingFitsError
from planner.base.units import GIB, MIB, format_gib
from planner.decision.choose import decide
from planner.decision.model_parallelism import BRIEFLY, SENTENCE
from planner.decision.request import Prefer
from planner.decision.requested_workload import allowed_series, workload
from planner.hardware.cluster import Cluster
from planner.hardware.multi_node import over_nodes
from planner.plan.vocabulary import METHODS, Method
from planner.recipes.load_recipe import load_recipe
from planner.report.words import headline
from tests.planner.builders import cards, request


@pytest.mark.parametrize(
    ("count", "gib", "method", "strategies"),
    [
        (1, 24, "qlora", {"single"}),
        (1, 16, "qlora", {"single"}),
        (1, 12, "qlora", {"single"}),
        (2, 24, "lora", {"ddp", "zero3"}),
        (1, 48, "lora", {"single"}),
        (8, 24, "full", {"zero1", "zero2", "zero3"}),
        (4, 40, "full", {"zero1", "zero2", "zero3"}),
        (2, 80, "full", {"zero1", "zero2", "zero3"}),
    ],
)
def test_the_customers_tiers(count: int, gib: int, method: Method, strategies: set[str]) -> None:
    decision = decide(request(cards(count, gib)))
    assert decision.chosen.method == method
    assert decision.chosen.layout.strategy in strategies
    assert decision.chosen.memory.high_bytes <= gib * GIB


def test_alternatives_say_when_a_richer_method_also_fits() -> None:
    decision = decide(request(cards(1, 24)))
    richer = [x for x in decision.alternatives if x.candidate.method == "lora" and x.fits]
    assert richer
    assert "--method lora" in richer[0].reason
    assert "recomputed" in richer[0].reason


def test_what_the_next_richer_method_lacks_is_said() -> None:
    richer = decide(request(cards(1, 24))).richer
    assert richer is not None
    assert richer.startswith("full needs 88.51 GiB more per GPU; it fits on 8 such cards")


@pytest.mark.parametrize(
    ("prefer", "method"), [("tiers", "qlora"), ("quality", "lora"), ("memory", "qlora")]
)
def test_preferences(prefer: Prefer, method: Method) -> None:
    assert decide(request(cards(1, 24), prefer=prefer)).chosen.method == method


def test_speed_takes_the_most_tokens_per_second() -> None:
    decision = decide(request(cards(1, 48, speed="rtx-a6000"), prefer="speed"))
    others = [x.candidate.tokens_per_second or 0 for x in decision.alternatives if x.fits]
    assert (decision.chosen.tokens_per_second or 0) >= max(others)


def test_memory_takes_the_smallest_peak() -> None:
    decision = decide(request(cards(1, 24), prefer="memory"))
    for other in decision.alternatives:
        assert (
            decision.chosen.memory.peak_allocated_bytes
            <= other.candidate.memory.peak_allocated_bytes
        )


@pytest.mark.parametrize("method", METHODS)
def test_a_pinned_method_is_obeyed(method: Method) -> None:
    assert decide(request(cards(8, 80), method=method)).chosen.method == method


def test_pinned_settings_are_obeyed() -> None:
    decision = decide(
        request(
            cards(4, 80),
            method="full",
            zero_stage=3,
            micro_batch_size=2,
            global_batch_size=32,
            activation_checkpointing=True,
            sequence_length=1024,
        )
    )
    layout = decision.chosen.layout
    assert layout.strategy == "zero3"
    assert (layout.micro_batch_size, layout.gradient_accumulation_steps) == (2, 4)
    assert layout.activation_checkpointing
    assert decision.chosen.workload.settings.sequence_length == 1024


def test_every_layer_or_every_nth_is_recomputed_as_pinned() -> None:
    whole = decide(request(cards(1, 24), activation_checkpointing=True)).chosen
    third = decide(request(cards(1, 24), method="qlora", checkpoint_every=3)).chosen
    assert whole.layout.checkpointing == 1
    assert third.layout.checkpointing == 3
    assert third.layout.recomputed == "every 3rd layer"


def test_inputs_of_layers_wait_on_the_host_as_pinned() -> None:
    """Of 28 inputs of 512 MiB one or two are left on the device."""
    settings: dict[str, Any] = {"sequence_length": 8192, "micro_batch_size": 8}
    settings["checkpoint_every"] = 1
    long = request(cards(1, 80), method="qlora", **settings)
    kept = decide(long).chosen
    found = decide(structs.replace(long, activation_offloading=True)).chosen
    hidden = 8 * 8192 * 4096 * 2
    saved = kept.memory.peak_allocated_bytes - found.memory.peak_allocated_bytes
    assert 26 * hidden <= saved < 28 * hidden
    assert found.host.node_bytes - kept.host.node_bytes == 28 * hidden


def test_mlps_run_tile_by_tile_where_nothing_fits_otherwise() -> None:
    """Alone, with activations on the host, and as advice where the host's memory is unknown."""
    asked = request(cards(1, 80), model="llama-3.1-8b", method="lora", sequence_length=98304)
    alone = decide(asked).chosen.workload.settings
    assert (alone.tiled_mlp, alone.activation_offloading) == (True, False)
    with pytest.raises(NothingFitsError, match="--activation-offloading --tiled-mlp fits"):
        decide(structs.replace(asked, sequence_length=131072))
    host = structs.replace(asked.cluster, host_ram_bytes=128 * GIB)
    longer = structs.replace(asked, sequence_length=131072, cluster=host)
    both = decide(longer).chosen.workload.settings
    assert (both.tiled_mlp, both.activation_offloading) == (True, True)


def test_shards_of_fsdp_in_host_memory_leave_constants_alone() -> None:
    """The scales of 4-bit weights stay; two small cards train what four would be needed for."""
    asked = request(cards(2, 24), model="llama-2-70b", method="qlora", sequence_length=512)
    with pytest.raises(NothingFitsError, match=r"With .* GiB of host memory, --offload all fits"):
        decide(asked)
    chosen = decide(structs.replace(asked, offload="all")).chosen
    weights = chosen.footprint.phases["forward"]["weights"]
    assert chosen.layout.strategy == "fsdp"
    step = chosen.footprint.phases["optimizer_step"]
    assert {part for part, num_bytes in step.items() if num_bytes} == {"weights", "workspace"}
    assert weights < 0.03 * chosen.workload.model.num_params
    assert chosen.host.node_bytes > 0.5 * chosen.workload.model.num_params


@pytest.mark.parametrize(("gib", "copies"), [(80, 2), (24, 1)])
def test_a_copy_is_on_each_node_of_a_slow_network_where_it_fits(gib: int, copies: int) -> None:
    pair = over_nodes(cards(4, gib, speed="a100-sxm-80gb"), 2, "10gbe")
    asked = request(pair, model="qwen2.5-32b", method="lora", strategy="fsdp")
    decision = decide(asked)
    chosen = decision.chosen
    assert chosen.layout.copies == copies
    assert ("hybrid FSDP over 8, sharded within each node" in headline(chosen)) == (copies == 2)
    others = [each.candidate.layout.copies for each in decision.alternatives]
    assert {1, 2} <= {*others, copies}
    assert all(each.layout.copies == copies for each in decision.fallbacks)


def test_only_several_nodes_have_copies() -> None:
    (alone, pair, single_cards) = (
        over_nodes(cards(count, 80), nodes, None) for count, nodes in ((8, 1), (4, 2), (1, 2))
    )
    found = []
    for cluster in (alone, pair, single_cards):
        asked = request(cluster, strategy="fsdp")
        found.append({each.copies for each in allowed_series(asked, workload(asked, "lora"))})
    assert found == [{1}, {1, 2}, {1}]


def test_some_layers_are_recomputed_where_that_fits_and_is_faster() -> None:
    chosen = decide(request(cards(6, 48))).chosen
    assert chosen.layout.checkpointing > 1
    every = decide(request(cards(6, 48), activation_checkpointing=True)).chosen
    none = decide(request(cards(6, 48), method="full", activation_checkpointing=False)).chosen
    assert chosen.ranking_time_s < every.ranking_time_s
    assert chosen.ranking_time_s < none.ranking_time_s


@pytest.mark.parametrize(
    ("pinned", "message"),
    [
        ({"activation_checkpointing": False}, "leave one of the two out"),
        ({"checkpoint_every": 29}, "is beyond the 28 layers of chatglm3-6b-base"),
    ],
)
def test_layers_that_cannot_be_recomputed_are_refused(pinned: Any, message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        decide(request(cards(1, 24), **{"checkpoint_every": 2, **pinned}))


def test_a_discouraged_strategy_is_taken_where_it_is_pinned() -> None:
    assert decide(request(cards(2, 24), method="lora", zero_stage=2)).chosen.layout.zero_stage == 2


def test_rejections_are_counted_with_their_reason() -> None:
    rejected = decide(request(cards(2, 24))).rejected
    assert {each.code: number for each, number in rejected.items()}["over_memory_budget"] > 0
    assert any("4-bit" in reason for reason in rejected)


def test_the_plan_is_for_what_is_free() -> None:
    whole = decide(request(cards(1, 24)))
    half = decide(request(cards(1, 24, in_use_gib=12)))
    assert half.request.budget_bytes == 12 * GIB
    assert half.chosen.memory.high_bytes <= 12 * GIB < whole.chosen.memory.high_bytes


def test_the_global_batch_is_rounded_up_to_equal_shares() -> None:
    layout = decide(request(cards(3, 48))).chosen.layout
    assert layout.global_batch_size == 18


def test_fallbacks_get_leaner_and_keep_the_global_batch() -> None:
    decision = decide(request(cards(1, 24)))
    peaks = [decision.chosen.memory.peak_allocated_bytes]
    for candidate in decision.fallbacks:
        assert candidate.layout.global_batch_size == decision.chosen.layout.global_batch_size
        peaks.append(candidate.memory.peak_allocated_bytes)
    assert len(peaks) > 1
    assert peaks == sorted(peaks, reverse=True)


def test_the_shortfall_and_the_way_out_are_named() -> None:
    with pytest.raises(NothingFitsError, match=r"full needs .* GiB short\. --method lora fits"):
        decide(request(cards(1, 24), method="full"))
    asked = request(cards(1, 12), model="llama-3.2-3b", method="full")
    with pytest.raises(NothingFitsError) as error:
        decide(asked)
    (host_gib,) = re.findall(
        r"With (\d+\.\d\d) GiB of host memory, --offload all", str(error.value)
    )
    offloaded = decide(structs.replace(asked, offload="all")).chosen
    assert host_gib == format_gib(offloaded.host.node_bytes)
    known = structs.replace(asked.cluster, host_ram_bytes=offloaded.host.node_bytes)
    assert decide(structs.replace(asked, cluster=known)).chosen.layout.offload == "all"
    pinned: dict[str, Any] = {"memory_limit_bytes": 7900 * MIB, "optimizer": "adamw_torch_fused"}
    with pytest.raises(NothingFitsError, match="--sequence-length 1024 fits"):
        decide(request(cards(1, 8), **pinned))
    with pytest.raises(NothingFitsError, match="It fits on 4 such cards"):
        decide(request(cards(1, 24), model="llama-2-70b", recipe=None, sequence_length=128))


@pytest.mark.parametrize(
    ("where", "pinned", "way_out"),
    [
        (cards(8, 24), {"model": "deepseek-v3"}, SENTENCE),
        (cards(8, 80), {"sequence_length": 131072, "method": "full"}, SENTENCE),
        (
            cards(8, 24),
            {"model": "llama-4-scout-17b-16e"},
            "It does not fit on 8 hosts with 8 such cards each either",
        ),
        (cards(1, 24), {"method": "qlora"}, "It fits on 8 such cards."),
        (cards(1, 24), {"recipe": load_recipe("qlora")}, "It fits on 8 such cards."),
        (cards(1, 80), {"recipe": load_recipe("qlora-int8")}, "--recipe qlora fits."),
        (
            cards(1, 24),
            {"method": "qlora", "optimizer": "adamw_8bit"},
            "--method lora without --optimizer adamw_8bit fits on 2 hosts with 8 such cards each.",
        ),
        (
            cards(2, 24),
            {"method": "lora", "zero_stage": 1},
            "Without --zero-stage 1 it fits on 2 hosts with 8 such cards each.",
        ),
    ],
)
def test_the_way_out_is_one_that_there_is(
    where: Cluster, pinned: dict[str, Any], way_out: str
) -> None:
    """More cards help where states are too large, and not where one layer is."""
    with pytest.raises(NothingFitsError) as error:
        decide(request(where, **{"model": "llama-3.1-70b", **pinned}))
    assert f"GiB short. {way_out}" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_richer_method_that_no_number_of_cards_carries() -> None:
    assert (decide(request(cards(1, 2), model="smollm2-135m")).richer or "").endswith(BRIEFLY)


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize(
    "pinned", [{"method": "qlora"}, {"method": "full", "optimizer": "adafactor"}]
)
def test_a_last_resort_that_cannot_be_is_passed_over(pinned: dict[str, Any], count: int) -> None:
    """Offload, tried where the host's memory is known, is forbidden here, and nobody asked."""
    known = structs.replace(cards(count, 24), host_ram_bytes=64 * GIB)
    with pytest.raises(NothingFitsError, match=r"llama-3\.1-70b does not fit"):
        decide(request(known, model="llama-3.1-70b", **pinned))


@pytest.mark.parametrize(
    ("pinned", "message"),
    [
        ({"global_batch_size": 10}, "multiple of 4, such as 8 or 12"),
        ({"global_batch_size": 3}, "such as 4"),
        ({"global_batch_size": 24, "micro_batch_size": 4}, "not a multiple"),
        ({"sequence_length": 9000}, "choose at most 8192"),
        ({"method": "full", "lora_rank": 8}, "--lora-rank has no meaning"),
    ],
)
def test_contradictions(pinned: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        decide(request(cards(4, 24), **pinned))


def test_a_pinned_stage_leaves_out_the_methods_it_does_not_go_with() -> None:
    decision = decide(request(cards(2, 80), zero_stage=3))
    assert decision.chosen.layout.zero_stage == 3
    assert "qlora" not in {x.candidate.method for x in decision.alternatives}


def test_a_recipe_whose_matrices_the_model_lacks() -> None:
    """Some may be missing; of GPT-2's own names it has none."""
    recipe = load_recipe("qwen2.5-7b-lora")
    with pytest.raises(InvalidRequestError, match="gpt2 has none of these: give --lora-targets"):
        decide(request(cards(1, 24), model="gpt2", recipe=recipe))
    decide(request(cards(1, 24), model="gpt2", recipe=recipe, lora_targets="all-linear"))
    decide(request(cards(1, 24), model="phi-2", recipe=recipe, method="lora"))


def test_zero_needs_several_devices() -> None:
    with pytest.raises(InvalidRequestError, match="there is one"):
        decide(request(cards(1, 80), zero_stage=2))


@pytest.mark.parametrize(("dropout", "expected"), [(None, 0.0), (0.05, 0.05)])
def test_what_begins_as_a_part_of_the_base_is_dropped_only_where_asked(
    dropout: float | None, expected: float
) -> None:
    asked = request(
        cards(1, 24),
        model="qwen2.5-1.5b",
        method="lora",
        lora_init="pissa_niter_4",
        lora_dropout=dropout,
    )
    work = decide(asked).chosen.workload
    assert work.settings.adapter is not None
    assert work.settings.adapter.dropout == expected
    assert (work.dropout_note is not None) == (expected > 0)
