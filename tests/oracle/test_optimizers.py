"""States and temporaries of optimizers against the real ones: exact, on a CPU."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from importlib import import_module
from math import prod
from typing import Any

import pytest
import torch
from msgspec import structs

from launcher.compat.optimizers import leave_kernels_to_cuda
from launcher.compat.torch import fake_tensors
from launcher.rehearsal.operator_rules import CUDA_RULES
from launcher.rehearsal.patched_functions import replaced_functions
from launcher.rehearsal.tracer import Tracer
from launcher.training.optimizer import build_optimizer, projected_modules
from planner.base.preset_files import preset_names
from planner.base.units import ALLOCATOR_BLOCK_BYTES, GIB
from planner.hardware.cluster import Device
from planner.memory.optimizer_step import step_bytes
from planner.models.model_presets import load_model
from planner.plan.optimizer_presets import optimizers
from planner.plan.vocabulary import Method, ZeroStage
from planner.recipes.load_recipe import load_recipe
from planner.workload.dtypes import numerics
from planner.workload.optimizers import NUM_GROUPS, states_bytes, tensor_states
from planner.workload.settings import settings_of
from planner.workload.trained_tensors import counted_tensors, trained_tensors
from planner.workload.workload import Workload
from tests.oracle.small_models import SHAPES, build, prepare, workload_of
from tests.torchao import marked

NAMES = tuple(optimizers())
ON_CPU = tuple(name for name in NAMES if optimizers()[name].library != "bitsandbytes")
PAGED_ON_CUDA_ALONE = ("paged_ademamix_8bit", "paged_ademamix_32bit")
"""Optimizers that ask for managed memory on any device."""
LARGE = {"vocab_size": 2048, "intermediate_size": 1600}
"""An embedding that is paged, and a matrix that is."""
UNUSED_TABLE_BYTES = 1024
"""The unsigned map of an 8-bit optimizer with one state, which a trace on the CPU counts and which
stays on the host."""


def workload(name: str, method: Method, shape: str, decay: float = 0.0) -> Workload:
    work = workload_of(structs.replace(SHAPES[shape], **LARGE), method, "bf16", 0.0, "all-linear")
    handed = decay if optimizers()[name].decays else 0.0
    changed = structs.replace(work.settings.optimizer, name=name, weight_decay=handed)
    return work.with_settings(optimizer=changed)


def parts(state: Any) -> list[Any]:
    """Tensors of one entry of an optimizer's states."""
    if hasattr(state, "codes"):
        return [state.codes, state.scale, state.qmap]
    return [getattr(state, "ortho_matrix", state)]


@contextmanager
def world(device: Device, name: str) -> Iterator[None]:
    """Real tensors for a plan on the CPU; for CUDA fake ones, and CUDA's defaults."""
    on_cuda = device == "cuda"
    fake: Any = fake_tensors() if on_cuda else nullcontext()
    library = optimizers()[name].library
    with replaced_functions(on_cuda=on_cuda, optimizer_library=library), fake:
        yield


def give_new_weights(model: Any) -> list[torch.nn.Parameter]:
    """Trained weights of this mode's kind, a tied one once, each with a gradient."""
    made: dict[int, torch.nn.Parameter] = {}
    for module in model.modules():
        for name, old in module._parameters.items():
            if old is not None and old.requires_grad:
                if id(old) not in made:
                    made[id(old)] = torch.nn.Parameter(torch.ones(old.shape, dtype=old.dtype))
                module._parameters[name] = made[id(old)]
    for parameter in made.values():
        parameter.grad = torch.ones_like(parameter)
    return list(made.values())


def limit_growth(optimizer: torch.optim.Optimizer) -> None:
    """Have the next update of APOLLO be limited, as one is that has grown."""
    for state in optimizer.state.values():
        if "scaled_grad" in state:
            state["scaled_grad"].mul_(0.5)


def traced_step(work: Workload, device: Device, zero_stage: ZeroStage = 0) -> tuple[int, int]:
    """Bytes of the states, and of what the second step makes at its largest moment."""
    tracer = Tracer(CUDA_RULES if device == "cuda" else None, left_out=("weights",))
    model = prepare(build(work.model), work, zero_stage=zero_stage)
    with world(device, work.settings.optimizer.name):
        trained = give_new_weights(model)
        settings = work.settings.optimizer
        for parameter in trained:
            assert parameter.grad is not None
            tracer.assign(parameter, "weights")
            tracer.assign(parameter.grad, "weights")
        with tracer:
            optimizer = build_optimizer(settings, model)
            optimizer.step()
            limit_growth(optimizer)
            states = tracer.live_bytes
            with tracer.phase("optimizer_step"):
                _norm = torch.nn.utils.clip_grad_norm_(trained, settings.max_grad_norm)
                optimizer.step()
    return states, sum(tracer.phases["optimizer_step"].values()) - states


def counted_on_the_host(name: str, work: Workload, device: Device) -> int:
    """Bytes that a trace for CUDA counts, and that stay on the host: the table, and RMSprop's
    counters, which ``torch.zeros`` makes without a device; less those of scalars that StableAdamW
    makes with a device, which a trace takes for the host's, and of torchao's learning rates, which
    accelerate puts on the device."""
    optimizer = optimizers()[name]
    if (optimizer.library, device) == ("torchao", "cuda"):
        return -ALLOCATOR_BLOCK_BYTES * NUM_GROUPS
    if (name, device) == ("stable_adamw", "cuda"):
        return -ALLOCATOR_BLOCK_BYTES * len(trained_tensors(work))
    if (optimizer.kept_in, optimizer.states) == ("8bit", 1):
        return UNUSED_TABLE_BYTES
    made_without_device = (name, device) == ("rmsprop", "cuda")
    return ALLOCATOR_BLOCK_BYTES * len(trained_tensors(work)) if made_without_device else 0


CASES: list[tuple[str, Device]] = [
    *((name, "cuda") for name in NAMES),
    *((name, "cpu") for name in ON_CPU),
]


@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")
@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize(
    ("method", "shape"), [("full", "qwen2"), ("full", "glm4"), ("lora", "llama")]
)
@pytest.mark.parametrize(("name", "device"), marked(CASES))
def test_states_and_step_are_those_of_the_real_optimizer(
    name: str, device: Device, method: Method, shape: str, decay: float
) -> None:
    work = workload(name, method, shape, decay)
    states, made = traced_step(work, device)
    width = numerics(method=method, compute="bf16", zero_stage=0).home
    ours = states_bytes(optimizers()[name], counted_tensors(work), width=width, device=device)
    assert ours.on_device == states - counted_on_the_host(name, work, device)
    assert step_bytes(work, width=width, device=device) == made


@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")
@pytest.mark.parametrize(("name", "device"), marked(CASES))
def test_weights_of_16_bits(name: str, device: Device) -> None:
    """As other trainers have them on one device, and this one gives them to DeepSpeed."""
    work = workload(name, "full", "llama", 0.1)
    states, made = traced_step(work, device, zero_stage=2)
    ours = states_bytes(optimizers()[name], counted_tensors(work), width=2, device=device)
    assert ours.on_device == states - counted_on_the_host(name, work, device)
    assert step_bytes(work, width=2, device=device) == made


@pytest.mark.filterwarnings("ignore:Paged optimizers are not supported on CPU")
@pytest.mark.parametrize("name", marked(name for name in NAMES if name not in PAGED_ON_CUDA_ALONE))
def test_every_state_is_a_tensor_of_the_state_dictionary(name: str) -> None:
    """On real tensors of the CPU, where nothing is paged: size by size."""
    work = workload(name, "full", "qwen2")
    model = prepare(build(work.model), work, zero_stage=0)
    give_new_weights(model)
    library = optimizers()[name].library
    with replaced_functions(on_cuda=False, optimizer_library=library):
        optimizer = build_optimizer(work.settings.optimizer, model)
        optimizer.step()
    assert type(optimizer).__name__ == optimizers()[name].class_name
    shared = [table.data_ptr() for table in getattr(optimizer, "name2qmap", {}).values()]
    found = [
        value.nbytes
        for state in optimizer.state.values()
        for each in state.values()
        for value in parts(each)
        if isinstance(value, torch.Tensor) and value.data_ptr() not in shared
    ]
    ours = [
        state.num_bytes
        for tensor in trained_tensors(work)
        for state in tensor_states(optimizers()[name], tensor, width=4, device="cpu")
    ]
    assert sorted(ours) == sorted(found)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("method", "dora"), [("full", False), ("lora", False), ("lora", True)])
def test_trained_tensors_have_the_models_shapes(shape: str, method: Method, dora: bool) -> None:
    work = workload_of(SHAPES[shape], method, "bf16", 0.0, "all-linear", dora=dora)
    model = prepare(build(work.model), work, zero_stage=0)
    projected = {f"{name}.weight" for name in projected_modules(model)}
    found = sorted(
        (tuple(x.shape), name in projected)
        for name, x in model.named_parameters()
        if x.requires_grad
    )
    ours = [(tensor.shape, tensor.role == "matrix") for tensor in trained_tensors(work)]
    assert sorted(ours) == found


@pytest.mark.parametrize("shape", ["llama", "gpt2", "phi3"])
def test_vera_trains_two_vectors_per_matrix(shape: str) -> None:
    work = workload_of(SHAPES[shape], "lora", "bf16", 0.0, "all-linear", vera=True)
    model = prepare(build(work.model), work, zero_stage=0)
    found = [tuple(x.shape) for x in model.parameters() if x.requires_grad]
    assert sorted(tensor.shape for tensor in trained_tensors(work)) == sorted(found)
    assert work.trainable_params == sum(map(prod, found))
    shared = (model.base_model.vera_A["default"], model.base_model.vera_B["default"])
    assert work.shared_matrices == tuple(each.numel() for each in shared)
    kinds = numerics(method="lora", compute="bf16", zero_stage=0)
    assert {each.element_size() for each in shared} == {kinds.shared} == {2}


def test_vera_keeps_as_much_less_than_lora_as_peft_has_measured() -> None:
    """Tensors after a step of Llama-3.2-3B on an L40S, on average: 6.4489 GiB with LoRA of rank 32
    and 6.3199 with VeRA of rank 256, both on q and v and all in fp32 but the base, without autocast
    (huggingface/peft at b8bf407, method_comparison/MetaMathQA/results)."""
    model, lora = load_model("llama-3.2-3b").spec, load_recipe("vera")
    kinds = structs.replace(numerics(method="lora", compute="bf16", zero_stage=0), autocast=False)
    kept = []
    for vera, rank in ((False, 32), (True, 256)):
        assert lora.adapter is not None
        adapter = structs.replace(lora.adapter, vera=vera, rank=rank)
        settings = settings_of(structs.replace(lora, adapter=adapter))
        work = Workload(model=model, settings=settings, compute="bf16")
        states = kinds.trainable + kinds.gradient + 2 * 4
        kept.append(work.trainable_params * states + sum(work.shared_matrices) * kinds.shared)
    assert (kept[0] - kept[1]) / GIB == pytest.approx(6.4489 - 6.3199, abs=1e-4)


@pytest.mark.parametrize("name", preset_names("models"))
def test_trained_tensors_are_all_parameters(name: str) -> None:
    model = load_model(name).spec
    work = Workload(model=model, settings=settings_of(load_recipe("full")), compute="bf16")
    trained = sum(tensor.elements for tensor in trained_tensors(work))
    assert trained == model.num_params - model.untrained_params


def test_stable_adamw_takes_kernels_wherever_triton_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """So launch turns them off on the CPU."""
    from optimi import stableadamw, utils

    module = import_module(stableadamw.__module__)
    taken = list[bool]()
    monkeypatch.setattr(utils, "HAS_TRITON", True)
    monkeypatch.setattr(module, "stableadamw", lambda **given: taken.append(given["triton"]))
    for on_cuda_alone in (False, True):
        weight = torch.nn.Parameter(torch.ones(2))
        weight.grad = torch.ones(2)
        optimizer = module.StableAdamW([weight], lr=0.1)
        if on_cuda_alone:
            leave_kernels_to_cuda(optimizer)
        optimizer.step()
    assert taken == [True, False]


def test_what_refused_optimizers_do() -> None:
    """As presets/other_optimizers.yaml says of those that are installed."""
    from transformers.trainer_pt_utils import LayerWiseDummyOptimizer

    weight = torch.nn.Parameter(torch.ones(4))
    with pytest.raises(ValueError, match="only supports 2D"):
        torch.optim.Muon([weight])
    weight.grad = torch.ones(4)
    inner = torch.optim.AdamW([weight])
    inner.step()
    assert inner.state_dict()["state"]
    assert not LayerWiseDummyOptimizer({weight: inner}).state_dict()["state"]


def test_names_are_transformers_own() -> None:
    from transformers.training_args import OptimizerNames

    assert set(NAMES) <= {each.value for each in OptimizerNames}
