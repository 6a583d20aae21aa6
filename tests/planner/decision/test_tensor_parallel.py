"""Layers that are cut over the devices of one node: planned where asked for, or where nothing else
fits."""

from typing import Any

import pytest
from msgspec import structs

from planner.base.errors import InvalidRequestError, NothingFitsError
from planner.decision.assemble import plan_of
from planner.decision.choose import decide
from planner.decision.model_parallelism import BRIEFLY, fewest_cut
from planner.decision.request import Request
from planner.decision.requested_workload import workload
from planner.memory.footprint import footprint
from planner.models.model_spec import ModelSpec
from planner.models.traced_model import TracedSpec
from planner.plan.vocabulary import Method
from planner.speed.card_rates import NOMINAL
from planner.speed.pass_time import pass_time
from planner.workload.dtypes import numerics_of
from planner.workload.tensor_slice import sliced
from planner.workload.trained_tensors import trained_tensors
from tests.planner.builders import cards, request


def wide_layers(count: int, gib: int, *, width: int = 131072, **pinned: Any) -> Request:
    """Two layers whose inner width is 64 times the hidden size, which tiles would help, and samples
    of 8,192 tokens."""
    settings = {"method": "lora", "sequence_length": 8192, "tiled_mlp": False} | pinned
    asked = request(cards(count, gib), model="llama-2-7b", **settings)
    wide: ModelSpec = structs.replace(
        asked.model.spec,
        num_layers=2,
        hidden_size=2048,
        intermediate_size=width,
        num_attention_heads=16,
        num_key_value_heads=16,
        vocab_size=2048,
        max_position_embeddings=8192,
    )
    return structs.replace(asked, model=structs.replace(asked.model, spec=wide))


def test_nothing_is_cut_unless_nothing_else_fits() -> None:
    assert decide(wide_layers(8, 24)).chosen.layout.strategy == "zero3"
    assert decide(wide_layers(8, 16)).chosen.layout.sequence_ranks > 1
    decision = decide(wide_layers(8, 16, sequence_parallel_size=1))
    assert decision.chosen.layout.strategy == "tensor"
    assert "nothing fits unless each layer is cut over the devices" in decision.why
    with pytest.raises(NothingFitsError):
        decide(wide_layers(8, 16, strategy="zero3", sequence_parallel_size=1))


def test_fewer_cards_are_told_of_more() -> None:
    """Where no shorter sample fits either; quantized layers are not cut."""
    asked = wide_layers(1, 16)
    counts = [
        fewest_cut(workload(asked, method), asked.cluster, asked.budget_bytes)
        for method in ("lora", "full", "qlora")
    ]
    assert counts == [4, 4, None]


def test_a_richer_method_is_told_of_cut_layers_where_they_can_be_cut() -> None:
    """A layer of it in 16 bit is too large for one card, and one in 4 bit is not."""
    settings = {"width": 262144, "sequence_length": 512}
    found = decide(wide_layers(1, 8, method=None, **settings)).richer or ""
    assert found.endswith("it fits on 2 such cards of one node with --strategy tensor")
    cut = decide(wide_layers(2, 8, strategy="tensor", **settings))
    assert cut.chosen.method == "lora"
    refused = decide(wide_layers(1, 8, method=None, optimizer="adamw_8bit", **settings))
    assert (refused.richer or "").endswith(BRIEFLY)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_all_devices_have_the_same_samples(method: str) -> None:
    asked = request(cards(4, 80), model="llama-3.1-8b", method=method, strategy="tensor")
    decision = decide(asked)
    plan = plan_of(decision)
    batch = plan.batch
    assert plan.parallel.data_ranks == 1
    assert batch.micro_batch_size * batch.gradient_accumulation_steps == batch.global_batch_size
    assert decision.chosen.step_time_s is None  # a card of unknown speed
    assert decision.chosen.usual_time_s > 0
    assert not any(each.option.startswith("--gpus") for each in decision.improvements)


def test_a_rank_trains_its_part_of_each_matrix() -> None:
    """Of LoRA's matrices A is whole where outputs are cut, and B where inputs are."""
    asked = request(cards(4, 80), model="llama-3.1-8b", method="lora", strategy="tensor")
    chosen = decide(asked).chosen
    part = chosen.workload.of_a_rank(chosen.layout)
    r, h, i, kv = part.settings.adapter.rank, 4096, 14336 // 4, 1024 // 4  # type: ignore[union-attr]
    rows = [(r, h), (h // 4, r), (r, h), (kv, r), (r, h), (kv, r), (r, h // 4), (h, r)]
    rows += [(r, h), (i, r), (r, h), (i, r), (r, i), (h, r)]
    assert [tensor.shape for tensor in trained_tensors(part)] == 32 * rows


def test_a_matrix_that_holds_several_is_cut_between_whole_inputs_and_outputs() -> None:
    """Its adapter is whole; and of ten heads of keys each of eight devices has an equal part."""
    parts = {}
    for method in ("lora", "full"):
        asked = request(cards(8, 80), model="phi-4", method=method, strategy="tensor")
        chosen = decide(asked).chosen
        part = chosen.workload.of_a_rank(chosen.layout)
        parts[method] = [tensor.shape for tensor in trained_tensors(part)]
    r, h, i, qkv = parts["lora"][0][0], 5120, 17920, 7680
    assert parts["lora"][:4] == [(r, h), (qkv, r), (r, h), (h, r)]
    assert parts["full"][1:5] == [(qkv // 8, h), (h, h // 8), (2 * i // 8, h), (h, i // 8)]


def test_the_last_part_of_the_vocabulary_may_be_smaller() -> None:
    asked = request(cards(2, 80), model="granite-3.1-2b-instruct", strategy="tensor")
    assert decide(asked).chosen.layout.strategy == "tensor"
    assert sliced(asked.model.spec, 2).vocab_size == 24578  # of 49,155


@pytest.mark.parametrize(("method", "checkpointing"), [("full", 0), ("full", 1), ("lora", 1)])
def test_what_ranks_send_each_other(method: Method, checkpointing: int) -> None:
    """Megatron's two sums a layer in forward (arXiv:1909.08053, Figure 4); in backward transformers
    sums the gradient of each matrix's input, of which q, k, v, gate and up share one."""
    asked = request(cards(2, 900), model="llama-3.1-8b", method=method, strategy="tensor")
    layout = structs.replace(decide(asked).chosen.layout, micro_batch_size=1)
    part = decide(asked).chosen.workload.of_a_rank(layout)
    kinds, tokens, layers = numerics_of(part, layout), part.settings.sequence_length, 32
    sent = pass_time(part, kinds, 1, checkpointing=checkpointing, device="cuda", speed=NOMINAL)
    found = sent.collectives
    assert found is not None
    again = 1 if checkpointing else 0  # attention's, since what the MLP has summed is not saved
    if method == "lora":  # of each of 7 adapters, too; and the last of them saves what is summed
        assert found.all_reduces == layers * 2 * (2 + 2 + 5) + 1
    else:
        assert found.all_reduces == layers * (2 + again + 5) + 1
        elements = found.all_reduced_bytes / (tokens * 4096)
        assert elements == layers * ((2 + again) * 2 + 5 * 4) + 4  # autocast casts behind the sums
    assert found.all_gathers == 1  # the head's rows, for the fused loss


def test_what_is_sent_around_joined_matrices() -> None:
    """Of each layer the two matrices in front are gathered in forward, and the gradients of what
    the two behind take in backward."""
    asked = request(cards(2, 900), model="phi-4", method="full", strategy="tensor")
    chosen = decide(asked).chosen
    part = chosen.workload.of_a_rank(chosen.layout)
    kinds, layers = numerics_of(part, chosen.layout), 40
    sent = pass_time(part, kinds, 1, checkpointing=0, device="cuda", speed=NOMINAL).collectives
    assert sent is not None
    assert (sent.all_reduces, sent.all_gathers) == (4 * layers + 1, 4 * layers + 1)


def test_more_devices_take_less_memory_each() -> None:
    peaks = []
    for count in (2, 4, 8):
        asked = request(
            cards(count, 900),
            model="llama-3.1-8b",
            method="full",
            strategy="tensor",
            micro_batch_size=1,
        )
        chosen = decide(asked).chosen
        peaks.append(footprint(chosen.workload, chosen.layout, "cuda").peak_allocated_bytes)
    assert peaks == sorted(peaks, reverse=True)


@pytest.mark.parametrize(
    ("pinned", "why"),
    [
        ({"method": "qlora"}, "4-bit codes lie in one column"),
        ({"model": "mixtral-8x7b"}, "such as to experts"),
        ({"model": "gpt2"}, "no plan of tensor parallelism for the layers"),
        ({"optimizer": "adamw_8bit"}, "not seen to update DTensors"),
        ({"precision": "fp16"}, "takes no mixture"),
        ({"offload": "all"}, "no layout satisfies"),
        ({"cluster": cards(3, 80)}, "must each be a multiple"),
        ({"model": "gemma-3-1b-it"}, "must each be a multiple"),
        ({"cluster": structs.replace(cards(2, 80), num_nodes=2)}, "between nodes"),
        ({"cluster": cards(1, 80)}, "there is one"),
    ],
    ids=lambda each: str(each)[:20],
)
def test_what_is_refused_and_why(pinned: dict[str, Any], why: str) -> None:
    where = pinned.pop("cluster", cards(2, 80))
    with pytest.raises(InvalidRequestError, match=why):
        decide(request(where, **{"model": "llama-3.1-8b", "strategy": "tensor", **pinned}))


def test_a_model_without_formulas_is_refused_whatever_its_type() -> None:
    """What a rank has of it is not known."""
    asked = request(cards(2, 80), model="llama-3.1-8b", strategy="tensor")
    counts = ("total_params", "never_trained_params", "table_params", "output_params")
    none = ("varieties", "varieties_in_order", "text_matrices", "tower_matrices", "towers")
    content: dict[str, Any] = {
        **structs.asdict(asked.model.spec),
        **dict.fromkeys((*counts, "stacked_params", "active_weights"), 0),
        **dict.fromkeys((*none, "unadaptable"), ()),
        "config": "{}",
        "native_class": "LlamaForCausalLM",
        "attention": "sdpa",
        "loss": "standard",
        "recomputable": True,
    }
    traced = structs.replace(asked.model, spec=TracedSpec(**content))
    with pytest.raises(InvalidRequestError, match="planned for models with formulas, and llama"):
        decide(structs.replace(asked, model=traced))
