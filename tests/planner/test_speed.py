"""Counted work and traffic against the closed forms of the papers, and what a time is made of."""

import pytest

from planner.candidate import Candidate
from planner.communication import traffic
from planner.flops import micro_batch_flops
from planner.numerics import numerics
from planner.plan import METHODS, Method, Strategy
from planner.presets import load_gpu, load_model
from planner.recipe import Batch, Workload, load_recipe
from planner.step_time import rates, speed_data, utilisation
from planner.strategy import Layout, divisors, series
from tests.planner.builders import cards

LLAMA = load_model("llama-2-7b").spec


def workload(method: Method) -> Workload:
    return Workload(model=LLAMA, recipe=load_recipe(method), compute="bf16")


def layout(strategy: Strategy, ranks: int, steps: int = 1) -> Layout:
    return Layout(
        strategy=strategy,
        world_size=ranks,
        micro_batch_size=1,
        gradient_accumulation_steps=steps,
        activation_checkpointing=False,
    )


@pytest.mark.parametrize(("method", "passes"), [("full", 6), ("lora", 4)])
def test_matrices_cost_two_flops_a_parameter_and_pass(method: Method, passes: int) -> None:
    """arXiv:2001.08361, section 2.1: 6 N a token; 4 N where no weight has a gradient."""
    batch = Batch(micro_batch_size=1, sequence_length=128)
    flops = micro_batch_flops(workload(method), batch, checkpointing=False)
    matrices = LLAMA.matrix_params + LLAMA.embedding_params
    assert flops.model / batch.tokens == pytest.approx(passes * matrices, rel=0.07)


def test_recomputation_is_one_more_forward_pass() -> None:
    batch = Batch(micro_batch_size=2, sequence_length=1024)
    kept = micro_batch_flops(workload("full"), batch, checkpointing=False)
    again = micro_batch_flops(workload("full"), batch, checkpointing=True)
    head = 2 * batch.tokens * LLAMA.embedding_params
    assert again.recompute - kept.recompute == kept.forward - head
    assert again.model == kept.model


def test_zero_traffic_is_the_papers() -> None:
    """arXiv:1910.02054, section 7: stages 1 and 2 send 2 Psi, stage 3 sends 3 Psi."""
    ranks, work = 8, workload("full")
    share = (ranks - 1) / ranks
    psi_bytes = 2 * LLAMA.num_params
    kinds = numerics(method="full", compute="bf16", zero_stage=2)
    for strategy in ("zero1", "zero2"):
        sent = traffic(work, layout(strategy, ranks), kinds)
        total = sent.overlapped_bytes + sent.exposed_bytes
        assert total == pytest.approx(2 * psi_bytes * share, rel=1e-6)
    third = traffic(work, layout("zero3", ranks), kinds)
    assert third.overlapped_bytes == pytest.approx(3 * psi_bytes * share, rel=1e-6)


def test_one_device_sends_nothing() -> None:
    kinds = numerics(method="lora", compute="bf16", zero_stage=0)
    sent = traffic(workload("lora"), layout("single", 1), kinds)
    assert sent.overlapped_bytes == sent.exposed_bytes == 0


@pytest.mark.parametrize("method", METHODS)
def test_a_card_without_known_rates_has_no_time(method: Method) -> None:
    candidate = Candidate(
        workload=workload(method), layout=layout("single", 1), cluster=cards(1, 24)
    )
    assert candidate.step_time_s is None
    assert candidate.tokens_per_second is None
    assert candidate.ranking_time_s > 0


def test_published_utilisation_is_met_by_construction() -> None:
    """Compute alone at the expected utilisation: seconds are counted FLOPs over reached rate."""
    card = load_gpu("a100-sxm-80gb")
    cluster = cards(1, 80, speed="a100-sxm-80gb")
    candidate = Candidate(workload=workload("lora"), layout=layout("single", 1), cluster=cluster)
    flops = micro_batch_flops(
        candidate.workload, Batch(micro_batch_size=1, sequence_length=2048), checkpointing=False
    )
    reached = (card.dense_bf16_flops_per_s or 0) * utilisation(candidate.workload).expected
    assert candidate.step_time_s == pytest.approx(flops.hardware / reached, rel=0.02)
    assert rates(cluster) is not None


def test_utilisation_is_an_ordered_range() -> None:
    kinds = speed_data().flops_utilisation
    for kind in (kinds.adapters, kinds.full):
        assert 0 < kind.low <= kind.expected <= kind.high < 1
        assert kind.runs > 0


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_every_layout_keeps_the_share_of_each_rank(ranks: int) -> None:
    every = [
        layout
        for each in series(samples_per_rank=12, world_size=ranks)
        for layout in each.layouts()
    ]
    assert every
    assert {x.global_batch_size for x in every} == {12 * ranks}
    assert {x.micro_batch_size for x in every} == set(divisors(12))
