"""Counted work and traffic against the closed forms of the papers, and what a time is made of."""

from typing import Any

import pytest
from msgspec import structs

from planner.base.errors import InvalidRequestError, UnknownNameError
from planner.base.preset_files import preset_names
from planner.base.units import GIB
from planner.decision.model_parallelism import must_be_split
from planner.hardware.cards import load_gpu
from planner.hardware.cluster import Cluster
from planner.hardware.detect import parse_gpus
from planner.hardware.multi_node import over_nodes
from planner.hardware.network import Ranks, network_name, network_named, networks
from planner.models.model_presets import load_model
from planner.plan.vocabulary import METHODS, Method, Strategy
from planner.recipes.load_recipe import load_recipe
from planner.report.machine_report import machine_line
from planner.search.candidate import Candidate
from planner.speed.bottleneck import bottleneck_of
from planner.speed.card_rates import NOMINAL, card_class, rates, speed_data
from planner.speed.communication import Communication
from planner.speed.flops import micro_batch_flops
from planner.speed.pass_time import PassTime, counted_once, of_model, pass_time, timed
from planner.speed.step_time import StepTime, step_time
from planner.speed.throughput import throughput
from planner.tape.counting_tape import Kernel
from planner.workload.dtypes import numerics
from planner.workload.layout import Layout, divisors, series
from planner.workload.measured_ratios import time_ratio
from planner.workload.settings import settings_of
from planner.workload.workload import Batch, Workload
from tests.planner.builders import cards

LLAMA = load_model("llama-2-7b").spec
BATCH = Batch(micro_batch_size=1, sequence_length=1024)
A100 = parse_gpus("8xa100-sxm-80gb")


def workload(method: Method, length: int = 1024, **changes: Any) -> Workload:
    recipe = structs.replace(load_recipe(method), sequence_length=length, **changes)
    return Workload(model=LLAMA, settings=settings_of(recipe), compute="bf16")


def layout(strategy: Strategy, ranks: int, steps: int = 1, **changes: Any) -> Layout:
    plain = Layout(
        strategy=strategy,
        world_size=ranks,
        micro_batch_size=1,
        gradient_accumulation_steps=steps,
        activation_checkpointing=False,
    )
    return structs.replace(plain, **changes)


def step(work: Workload, where: Layout, cluster: Cluster = A100) -> StepTime:
    return step_time(work, where, cluster, rates(cluster) or NOMINAL)


def passed(work: Workload, *, checkpointing: int = 0, samples: int = 1) -> PassTime:
    kinds = numerics(method=work.method, compute=work.compute, zero_stage=0)
    return pass_time(
        work, kinds, samples, checkpointing=checkpointing, device="cuda", speed=NOMINAL
    )


@pytest.mark.parametrize(("method", "passes"), [("full", 6), ("lora", 4)])
def test_matrices_cost_two_flops_a_parameter_and_pass(method: Method, passes: int) -> None:
    """arXiv:2001.08361, section 2.1: 6 N a token; 4 N where no weight has a gradient."""
    short = structs.replace(BATCH, sequence_length=128)
    flops = micro_batch_flops(workload(method), short, checkpointing=0)
    matrices = LLAMA.matrix_params + LLAMA.embedding_params
    assert flops.model / short.tokens == pytest.approx(passes * matrices, rel=0.07)


@pytest.mark.parametrize("method", METHODS)
def test_the_tape_counts_what_the_closed_form_does(method: Method) -> None:
    """The loss leaves out the last position of each sample."""
    closed = micro_batch_flops(workload(method), BATCH, checkpointing=0)
    found = passed(workload(method))
    assert found.model_flops == pytest.approx(closed.model, rel=1e-3)
    assert found.hardware_flops == pytest.approx(closed.hardware, rel=1e-3)


def test_recomputation_is_one_more_forward_pass_less_its_last_product() -> None:
    """Checkpointing stops at the last tensor that backward needs: the MLP's last product."""
    kept, again = passed(workload("full")), passed(workload("full"), checkpointing=1)
    closed = micro_batch_flops(workload("full"), BATCH, checkpointing=1)
    last = 2 * BATCH.tokens * LLAMA.num_layers * LLAMA.hidden_size * LLAMA.intermediate_size
    assert again.hardware_flops - kept.hardware_flops == pytest.approx(
        closed.recompute - kept.hardware_flops + kept.model_flops - last, rel=1e-3
    )
    assert again.model_flops == kept.model_flops


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("samples", [1, 5, 20])
def test_growth_by_samples_is_that_of_a_pass_of_that_size(method: Method, samples: int) -> None:
    work = workload(method)
    kinds = numerics(method=method, compute="bf16", zero_stage=0)
    counted = counted_once(work, kinds, structs.replace(BATCH, micro_batch_size=samples))
    whole = timed(of_model(counted, work.model, 2), samples, NOMINAL)
    grown = passed(work, checkpointing=2, samples=samples)
    assert grown.busy_s == pytest.approx(whole.busy_s, rel=1e-3)
    assert grown.kernels == pytest.approx(whole.kernels, rel=1e-3)


def test_a_kernel_takes_the_slower_of_its_operations_and_its_bytes() -> None:
    product = Kernel("forward", "product", 2, 10**12, 10**6)
    assert NOMINAL.seconds(product) == 10**12 / NOMINAL.products_16_per_s
    assert NOMINAL.seconds(structs.replace(product, width=4)) == 10**12 / NOMINAL.products_32_per_s
    moving = structs.replace(product, num_bytes=10**12)
    assert NOMINAL.seconds(moving) == 10**12 / NOMINAL.bandwidth_bytes_per_s
    assert NOMINAL.seconds(structs.replace(product, kind="attention")) > NOMINAL.seconds(product)


def test_eager_attention_moves_more_than_fused() -> None:
    fused, eager = passed(workload("lora")), passed(workload("lora", attention="eager"))
    assert eager.elementwise_s > 1.5 * fused.elementwise_s
    assert eager.model_flops > fused.model_flops


def test_unpacking_takes_time_in_every_pass() -> None:
    once, again = passed(workload("qlora")), passed(workload("qlora"), checkpointing=1)
    assert again.dequantize_s == pytest.approx(1.5 * once.dequantize_s, rel=0.01)
    assert passed(workload("lora")).dequantize_s == 0


def test_many_small_kernels_wait_for_the_host() -> None:
    card = parse_gpus("h100-sxm-80gb")
    short, long = (
        step(workload("lora", length), layout("single", 1), card) for length in (64, 4096)
    )
    assert short.launch_s > 0.5 * short.total_s
    assert long.launch_s < 0.05 * long.total_s


# --- links -----------------------------------------------------------------------------------


def ranks(count: int, nodes: int = 1) -> Ranks:
    return Ranks(count, nodes, NOMINAL.links)


def test_a_ring_moves_all_but_a_rank_s_own_share() -> None:
    """arXiv:1910.02054, section 7: an all-reduce moves 2 n (R - 1) / R, a pass half of it."""
    one = ranks(8)
    moved = 10**9 * 7 / 8 / NOMINAL.links.device_bytes_per_s
    assert one.pass_s(10**9) == pytest.approx(moved + one.ring_latency_s)
    assert one.all_reduce_s(10**9) == pytest.approx(2 * (moved + one.ring_latency_s))
    assert ranks(1).all_reduce_s(10**9) == ranks(1).pass_s(10**9) == 0


def test_between_nodes_the_slower_link_decides() -> None:
    slow = structs.replace(NOMINAL.links, node_bytes_per_s=1e9)
    many = Ranks(16, 2, slow)
    assert many.moved_s(10**9) == 10**9 / 2 / slow.node_bytes_per_s
    assert ranks(16, nodes=2).moved_s(10**9) == ranks(16).moved_s(10**9)
    steps = 13 * NOMINAL.links.device_step_s + 2 * NOMINAL.links.network_step_s
    assert many.ring_latency_s == pytest.approx(NOMINAL.links.start_s + steps)


def test_a_tree_needs_fewer_steps_than_a_long_ring() -> None:
    many = ranks(4096, nodes=512)
    assert many.all_reduce_s(1) < many.ring_latency_s / 10


@pytest.mark.parametrize("method", METHODS)
def test_sharding_weights_is_never_faster_on_fast_links(method: Method) -> None:
    times = {
        name: step(workload(method), layout(name, 8, steps=4)).total_s
        for name in ("zero1", "zero2", "zero3")
    }
    assert times["zero1"] <= times["zero2"] <= times["zero3"]


def test_what_is_sent_is_hidden_or_exposed() -> None:
    work, kinds = workload("full"), numerics(method="full", compute="bf16", zero_stage=3)
    between = Communication(work, kinds, "zero3", ranks(8), NOMINAL.bandwidth_bytes_per_s)
    slow = between.of_step(structs.replace(passed(work), forward_s=0.0, backward_s=0.0), 1)
    fast = between.of_step(structs.replace(passed(work), forward_s=1e3, backward_s=1e3), 1)
    assert slow.hidden_s == 0
    assert fast.exposed_s < 0.2 * slow.exposed_s
    sent = 3 * 2 * LLAMA.num_params * 7 / 8 / NOMINAL.links.device_bytes_per_s
    assert slow.exposed_s > sent


def test_copies_of_shards_send_gradients_alone_between_nodes() -> None:
    """Once per step, all-reduced in fp32: 2 n (N - 1) / N past every node, whose adapters serve all
    of its ranks at once. A copy on each node needs no network to gather."""
    work, kinds = workload("full"), numerics(method="full", compute="bf16", zero_stage=0, fsdp=True)
    links = structs.replace(NOMINAL.links, device_bytes_per_s=1e15, node_bytes_per_s=1e8)
    no_work = structs.replace(passed(work), forward_s=0.0, backward_s=0.0)
    hybrid, full = (
        Communication(work, kinds, "fsdp", Ranks(16, 4, links), 1e15, copies) for copies in (4, 1)
    )
    between = 2 * 4 * LLAMA.num_params * 3 / 4 / links.node_bytes_per_s
    for micro_batches in (1, 3):
        sent = hybrid.of_step(no_work, micro_batches)
        assert sent.exposed_s == pytest.approx(between, rel=0.01)
        gathered_and_reduced = micro_batches * (2 + 2 + 4) * LLAMA.num_params * 3 / 4
        whole = gathered_and_reduced / links.node_bytes_per_s
        assert full.of_step(no_work, micro_batches).exposed_s == pytest.approx(whole, rel=0.03)


def test_slower_links_take_longer() -> None:
    slow, quick = parse_gpus("8xrtx-4090"), A100
    speed = rates(quick)
    assert speed is not None
    slower = structs.replace(speed, links=(rates(slow) or NOMINAL).links)
    where = layout("zero3", 8)
    assert (
        step_time(workload("full"), where, quick, slower).total_s
        > step_time(workload("full"), where, quick, speed).total_s
    )


# --- the rest of a step ----------------------------------------------------------------------


def test_one_device_sends_nothing() -> None:
    alone = step(workload("lora"), layout("single", 1), parse_gpus("a100-sxm-80gb"))
    assert alone.exposed_communication_s == alone.hidden_communication_s == alone.offload_s == 0


def test_offload_takes_what_the_host_and_its_slot_take() -> None:
    where = layout("zero2", 1, offload="optimizer")
    found = step(workload("full"), where, parse_gpus("a100-sxm-80gb"))
    on_host = LLAMA.num_params * speed_data().adam_on_host_s_per_parameter
    assert found.offload_s > on_host
    assert found.update_s == 0


def test_offloaded_activations_cross_the_slot_twice() -> None:
    work = workload("lora").with_settings(activation_offloading=True)
    where = layout("single", 1, steps=4, activation_checkpointing=True)
    kept = step(workload("lora"), where)
    found = step(work, where)
    inputs = LLAMA.num_layers * 1024 * LLAMA.hidden_size * 2
    speed = rates(A100)
    assert speed is not None
    copied = 4 * 2 * inputs / speed.links.host_bytes_per_s
    launched = 4 * 2 * LLAMA.num_layers * speed.kernel_gap_s
    assert found.offload_s == pytest.approx(copied)
    assert found.total_s == pytest.approx(kept.total_s + copied + launched)


def test_the_ranks_of_a_node_share_its_host() -> None:
    """Each has a slot of its own: what a card moves is halved, what the host updates is not."""
    machines = [parse_gpus("2xa100-sxm-80gb"), parse_gpus("4xa100-sxm-80gb")]
    two, four = (
        step(workload("full"), layout("zero2", m.world_size, offload="optimizer"), m).offload_s
        for m in machines
    )
    on_host = LLAMA.num_params * speed_data().adam_on_host_s_per_parameter
    assert two - on_host == pytest.approx(2 * (four - on_host))


def test_a_choice_counts_on_no_link_that_a_machine_may_lack() -> None:
    """Cards on PCIe may hang on two processors; NVLink reaches all cards alike."""
    work, where = workload("full"), layout("zero3", 8)
    for gpus, slower in (("8xrtx-4090", True), ("8xa100-sxm-80gb", False)):
        machine = parse_gpus(gpus)
        speed = rates(machine)
        assert speed is not None
        usual, slowest = (
            step_time(work, where, machine, speed, slowest_links=slow).total_s
            for slow in (False, True)
        )
        assert (slowest > usual) == slower
        assert slowest >= usual


def test_zero_shares_the_update() -> None:
    ddp, zero = (step(workload("full"), layout(name, 8)) for name in ("ddp", "zero1"))
    assert zero.update_s < ddp.update_s / 4


@pytest.mark.parametrize("method", METHODS)
def test_a_card_without_known_rates_has_no_time(method: Method) -> None:
    candidate = Candidate(
        workload=workload(method), layout=layout("single", 1), cluster=cards(1, 24)
    )
    assert candidate.step_time_s is None
    assert candidate.tokens_per_second is None
    assert candidate.ranking_time_s > 0
    assert throughput(candidate.workload, candidate.layout, candidate.cluster) is None


@pytest.mark.parametrize("name", preset_names("gpus"))
def test_every_card_has_a_class_of_its_capability(name: str) -> None:
    card = load_gpu(name)
    found = card_class(card)
    assert float(found.capability) <= float(card.compute_capability)
    assert 0.3 < found.product_16 < 1.2
    assert found.product_32 < found.product_16
    assert 0.6 < found.bandwidth < 1


def test_a_geforce_takes_the_class_of_geforce_cards() -> None:
    unlisted = structs.replace(load_gpu("rtx-4090"), name="rtx-4060")
    assert card_class(unlisted).name == "Ada, GeForce"
    assert card_class(load_gpu("rtx-4000-ada")).name == "Ada, workstation"


def test_cards_that_a_class_names_exist() -> None:
    named = [name for each in speed_data().classes for name in each.cards]
    assert set(named) <= set(preset_names("gpus"))
    assert len(named) == len(set(named))


@pytest.mark.parametrize("count", [1, 2, 4])
def test_every_layout_keeps_the_share_of_each_rank(count: int) -> None:
    every = [
        each.layout(size)
        for each in series(samples_per_rank=12, world_size=count)
        for size in each.micro_batch_sizes
    ]
    assert every
    assert {x.global_batch_size for x in every} == {12 * count}
    assert {x.micro_batch_size for x in every} == set(divisors(12))


# --- what people are told --------------------------------------------------------------------


def test_utilisation_is_of_the_dense_rate_and_below_what_products_reach() -> None:
    told = throughput(workload("full", 4096), layout("single", 1, 4), parse_gpus("a100-sxm-80gb"))
    assert told is not None
    assert 0.3 < told.mfu < 0.848
    assert told.hfu >= told.mfu
    assert told.low_s <= told.step.total_s <= told.high_s
    assert told.tokens_per_second == told.tokens_per_second_per_gpu


def test_energy_is_that_of_the_power_limit_that_was_read() -> None:
    cluster = parse_gpus("a100-sxm-80gb")
    capped = structs.replace(
        cluster, accelerator=structs.replace(cluster.accelerator, power_limit_watts=200)
    )
    whole, half = (
        throughput(workload("lora"), layout("single", 1), each) for each in (cluster, capped)
    )
    assert whole is not None
    assert half is not None
    costs = [each.cost(10**6, 2.0) for each in (whole, half)]
    assert costs[0].kilowatt_hours == pytest.approx(2 * (costs[1].kilowatt_hours or 0))
    assert costs[0].price == pytest.approx(costs[0].seconds / 3600 * 2.0)


@pytest.mark.parametrize("method", METHODS)
def test_ranges_are_ordered_and_counted(method: Method) -> None:
    found = time_ratio(method, "single")
    assert found.low <= found.expected <= found.high
    assert found.runs >= 5


@pytest.mark.parametrize(
    ("where", "method", "length", "gpus", "name"),
    [
        (layout("single", 1, 4), "full", 2048, "a100-sxm-80gb", "compute"),
        (layout("single", 1, 4), "lora", 64, "h100-sxm-80gb", "host"),
        (layout("single", 1, 1), "full", 128, "rtx-4090", "update"),
        (layout("zero3", 8), "full", 512, "8xrtx-4090", "communication"),
        (layout("zero2", 1, offload="optimizer"), "full", 512, "rtx-4090", "offload"),
    ],
)
def test_what_a_step_waits_for_is_named(
    where: Layout, method: Method, length: int, gpus: str, name: str
) -> None:
    work, cluster = workload(method, length), parse_gpus(gpus)
    found = bottleneck_of(step(work, where, cluster), work, where)
    assert found.name == name
    assert bool(found.help) == (name != "compute")


def test_eager_attention_is_named_where_it_binds() -> None:
    work = workload("lora", 4096, attention="eager")
    where = layout("single", 1)
    found = bottleneck_of(step(work, where, parse_gpus("rtx-4090")), work, where)
    assert found.name == "memory"
    assert "sdpa" in found.help


# --- clusters --------------------------------------------------------------------------------


def test_nodes_multiply_a_machine() -> None:
    found = over_nodes(parse_gpus("8xh100"), 512, "infiniband-400g")
    assert machine_line(found).startswith("512 nodes of 8 x NVIDIA H100 80GB HBM3, 79.10 GiB")
    assert found.world_size == 4096
    assert found.network == "infiniband-400g"
    assert not any("network" in note for note in found.notes)
    unknown = over_nodes(parse_gpus("8xh100"), 2, None)
    assert any(networks().reference in note for note in unknown.notes)


@pytest.mark.parametrize(
    ("gpus", "nodes", "network", "says"),
    [
        ("8xh100", 1, "100gbe", "add --nodes"),
        ("8xh100", 513, None, "up to 4,096"),
        ("cpu", 2, None, "needs GPUs"),
    ],
)
def test_nodes_that_make_no_sense(gpus: str, nodes: int, network: str | None, says: str) -> None:
    with pytest.raises(InvalidRequestError, match=says):
        over_nodes(parse_gpus(gpus), nodes, network)


def test_a_network_is_found_however_it_is_spelt() -> None:
    assert network_name("InfiniBand 400G") == "infiniband-400g"
    with pytest.raises(UnknownNameError, match="Did you mean '100gbe'"):
        network_name("100gbs")


@pytest.mark.parametrize(
    ("spelt", "name", "bytes_per_s"),
    [
        ("400GbE:2", "400gbe:2", 100_000_000_000),
        ("25 GB/s", "25GB/s", 25_000_000_000),
        ("200Gbit/s : 2", "200Gbit/s:2", 50_000_000_000),
        ("infiniband-200g", "infiniband-200g", 8 * 25_000_000_000),
        ("infiniband-200g:4", "infiniband-200g:4", 4 * 25_000_000_000),
    ],
)
def test_a_network_is_a_name_or_a_rate_and_a_number_of_adapters(
    spelt: str, name: str, bytes_per_s: int
) -> None:
    assert network_name(spelt) == name == network_name(name)
    assert network_named(name).node_bytes_per_s(8) == bytes_per_s


@pytest.mark.parametrize("spelt", ["0GB/s", "400gbe:0", "400gbe:two", "400gbe:", "400gbe:1000"])
def test_no_network_has_no_rate_and_no_such_adapters(spelt: str) -> None:
    with pytest.raises(InvalidRequestError, match="is no network"):
        network_name(spelt)


def test_a_faster_network_is_faster() -> None:
    work, where = workload("full"), layout("zero3", 64)
    slow, quick = (
        step(work, where, over_nodes(parse_gpus("8xh100"), 8, name))
        for name in ("25gbe", "infiniband-400g")
    )
    assert quick.total_s < slow.total_s / 2


def test_where_layers_would_have_to_be_split() -> None:
    large = Workload(
        model=load_model("llama-2-70b").spec,
        settings=settings_of(load_recipe("full")),
        compute="bf16",
    )
    assert must_be_split(large, parse_gpus("8xrtx-4090"), 3 * GIB)
    assert not must_be_split(large, parse_gpus("8xh100"), 79 * GIB)
