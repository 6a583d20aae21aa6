"""The memory model: the ZeRO paper's figure, published weights, and laws."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from planner.base.units import ALLOCATOR_BLOCK_BYTES, GIB
from planner.memory.footprint import footprint, load_without_files
from planner.memory.model_states import frozen_bytes, model_states
from planner.memory.quantized_loading import in_order_of_names, quantized_from
from planner.memory.workspaces import cublas_bytes
from planner.models.model_presets import load_model
from planner.plan.optimizer_presets import optimizers
from planner.plan.vocabulary import METHODS, PHASES, Method, Strategy, ZeroStage
from planner.recipes.load_recipe import load_recipe
from planner.workload.dtypes import Numerics, numerics, numerics_of
from planner.workload.layout import Layout
from planner.workload.quantization import quantized_bytes
from planner.workload.settings import settings_of
from planner.workload.trained_tensors import TrainedTensor, trained_tensors
from planner.workload.workload import Workload

GB = 10**9  # the paper counts in powers of ten
CHATGLM3 = load_model("chatglm3-6b-base").spec


def workload(method: Method, *, sequence_length: int = 2048) -> Workload:
    recipe = structs.replace(load_recipe(method), sequence_length=sequence_length)
    return Workload(model=CHATGLM3, settings=settings_of(recipe), compute="bf16")


def layout(
    *,
    strategy: Strategy = "single",
    world_size: int = 1,
    micro_batch_size: int = 1,
    steps: int = 1,
    checkpointing: bool = False,
) -> Layout:
    return Layout(
        strategy=strategy,
        world_size=world_size,
        micro_batch_size=micro_batch_size,
        gradient_accumulation_steps=steps,
        activation_checkpointing=checkpointing,
    )


@pytest.mark.parametrize(("zero_stage", "printed_gb"), [(0, 120), (1, 31.4), (2, 16.6), (3, 1.9)])
def test_zero_figure_1(zero_stage: ZeroStage, printed_gb: float) -> None:
    """arXiv:1910.02054, Figure 1: Psi = 7.5e9, N_d = 64, K = 12."""
    states = model_states(
        frozen_bytes=0,
        tensors={TrainedTensor((7_500_000_000,)): 1},
        optimizer=optimizers()["adamw_torch"],
        device="cuda",
        numerics=Numerics(
            compute=2,
            frozen=2,
            outside=2,
            trainable=2,
            gradient=2,
            master=4,
            residual=2,
            autocast=False,
        ),
        zero_stage=zero_stage,
        data_parallel_size=64,
    )
    assert states.total_bytes / GB == pytest.approx(printed_gb, abs=0.05)


@pytest.mark.parametrize(("method", "printed_gib"), [("qlora", 3.74), ("lora", 11.63)])
def test_chatglm3_weights(method: Method, printed_gib: float) -> None:
    """12,487,168,064 bytes of the published checkpoint in 16 bit; 4-bit layers of it."""
    kinds = numerics(method=method, compute="bf16", zero_stage=0)
    assert frozen_bytes(workload(method), kinds) / GIB == pytest.approx(printed_gib, abs=0.005)


def test_full_fine_tuning_states_are_16_bytes_a_parameter() -> None:
    """fp32 weights, gradients and two moments (arXiv:1910.02054, section 3.1), and fused AdamW's
    step count of each tensor."""
    work = workload("full")
    parts = footprint(work, layout(), "cuda").phases["optimizer_step"]
    states = parts["weights"] + parts["gradients"] + parts["optimizer_states"]
    counters = ALLOCATOR_BLOCK_BYTES * len(trained_tensors(work))
    assert states == 16 * CHATGLM3.num_params + counters


@pytest.mark.parametrize("method", METHODS)
def test_the_peak_is_the_largest_phase(method: Method) -> None:
    result = footprint(workload(method), layout(), "cuda")
    totals = [result.total_bytes(phase) for phase in PHASES]
    assert result.peak_allocated_bytes == max(totals)
    assert result.total_bytes(result.peak_phase) == max(totals)


LAYOUTS: tuple[tuple[Strategy, int], ...] = (
    ("single", 1),
    ("ddp", 2),
    ("zero1", 2),
    ("zero2", 2),
    ("zero3", 2),
)


@pytest.mark.parametrize("capability", ["9.0", "10.0", "12.0"])
@pytest.mark.parametrize(("strategy", "ranks"), LAYOUTS)
def test_cublas_keeps_its_workspaces_from_the_first_product_on(
    strategy: Strategy, ranks: int, capability: str
) -> None:
    where = layout(strategy=strategy, world_size=ranks)
    old, new = (
        footprint(workload("lora"), where, "cuda", compute_capability=each)
        for each in ("8.0", capability)
    )
    grown = [new.total_bytes(phase) - old.total_bytes(phase) for phase in PHASES]
    assert grown == [0, *[cublas_bytes("cuda", "9.0") - cublas_bytes("cuda", "8.0")] * 4]


@pytest.mark.parametrize(("strategy", "ranks"), LAYOUTS)
@pytest.mark.parametrize("method", METHODS)
def test_random_weights_of_a_mixture_are_not_stacked(
    method: Method, strategy: Strategy, ranks: int
) -> None:
    """Under ZeRO-3 those that nothing quantizes are stacked on the host; where all is trained,
    setting up ZeRO-1 and 2 takes more than the stacks."""
    recipe = load_recipe(method)
    work = Workload(
        model=load_model("olmoe-1b-7b").spec, settings=settings_of(recipe), compute="bf16"
    )
    where = layout(strategy=strategy, world_size=ranks)
    from_files = footprint(work, where, "cuda").phases["load"]
    random = load_without_files(work, where, "cuda")
    same = (strategy == "zero3" and method != "qlora") or (
        strategy in ("zero1", "zero2") and method == "full"
    )
    assert (sum(random.values()) == sum(from_files.values())) == same
    assert random["weights"] == from_files["weights"]


@settings(max_examples=40, deadline=None)
@given(
    method=st.sampled_from(METHODS),
    length=st.sampled_from([128, 512, 1024, 4096]),
    micro_batch_size=st.sampled_from([1, 2, 4, 8]),
    checkpointing=st.booleans(),
)
def test_more_tokens_never_need_less(
    method: Method, length: int, micro_batch_size: int, checkpointing: bool
) -> None:
    def peak(sequence_length: int, samples: int) -> int:
        return footprint(
            workload(method, sequence_length=sequence_length),
            layout(micro_batch_size=samples, checkpointing=checkpointing),
            "cuda",
        ).peak_allocated_bytes

    here = peak(length, micro_batch_size)
    assert peak(2 * length, micro_batch_size) >= here
    assert peak(length, 2 * micro_batch_size) >= here


@settings(max_examples=40, deadline=None)
@given(ranks=st.sampled_from([2, 4, 8, 64]), steps=st.sampled_from([1, 4]))
def test_each_zero_stage_keeps_no_more_states_than_the_one_before(ranks: int, steps: int) -> None:
    def states(strategy: Strategy) -> int:
        parts = footprint(
            workload("full"), layout(strategy=strategy, world_size=ranks, steps=steps), "cuda"
        ).phases["optimizer_step"]
        return parts["weights"] + parts["gradients"] + parts["optimizer_states"]

    stages = [states("zero1"), states("zero2"), states("zero3")]
    assert stages == sorted(stages, reverse=True)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("length", [512, 2048, 8192])
def test_checkpointing_never_costs_memory(method: Method, length: int) -> None:
    work = workload(method, sequence_length=length)
    kept = footprint(work, layout(), "cuda").peak_allocated_bytes
    assert footprint(work, layout(checkpointing=True), "cuda").peak_allocated_bytes <= kept


def test_a_load_holds_a_whole_matrix_beside_what_comes_before_it() -> None:
    """Of the last layer, up_proj comes before attention: what follows it is less than the matrix,
    whose scales are in fp32, and once more less their mean."""
    model = load_model("llama-3.1-8b").spec
    recipe = load_recipe("qlora")
    work = Workload(model=model, settings=settings_of(recipe), compute="bf16")
    quantization, adapter = work.settings.quantization, work.settings.adapter
    assert quantization is not None
    assert adapter is not None
    work = work.with_settings(adapter=structs.replace(adapter, rank=1))
    kind = model.layers[-1]
    names = [matrix.name for matrix in in_order_of_names(work, kind)]
    assert names == [f"{x}_proj" for x in ("down", "gate", "up", "k", "o", "q", "v")]
    after = 4 * work.trainable_params
    up = next(matrix for matrix in model.linears(kind) if matrix.name == "up_proj")
    for matrix in in_order_of_names(work, kind)[3:]:
        after += quantized_bytes(matrix, quantization)
    whole = up.weight_params * 2 + up.weight_params // 64 * 4 * 2
    assert whole > after
    assert quantized_from(work, numerics_of(work, layout())) == whole - after
    assert footprint(work, layout(), "cuda").phases["load"]["workspace"] == whole - after
