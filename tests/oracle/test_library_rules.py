"""What presets/rules.yaml says of the libraries, seen in the libraries that are installed.

int8-before-turing needs such a card, and is read in bitsandbytes' documentation alone;
attention-compiled a compiler, and is read in transformers' source; eager-on-cpu and
compiled-update-before-volta are read in torch's; compiled-update-offloaded says what is not
modelled.
"""

import contextlib
from collections.abc import Iterator
from importlib import import_module
from inspect import getsource, signature
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest
import torch
from accelerate import Accelerator
from bitsandbytes.nn import Int8Params, Linear8bitLt
from msgspec import structs
from peft import LoraConfig, get_peft_model
from peft.utils.integrations import dequantize_module_weight
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import distribute_tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    FalconConfig,
    LlamaConfig,
    LlamaForCausalLM,
    TrainingArguments,
)
from transformers.models.falcon.modeling_falcon import FalconForCausalLM

from launcher.compat.deepspeed import compile_no_collectives
from launcher.compat.optimizers import compile_alike_in_every_step
from launcher.compat.peft import mark_packed
from launcher.compat.transformers import trainer_optimizer
from launcher.training.optimizer import begin_training
from launcher.training.text_model import towers
from planner.memory.model_states import frozen_bytes
from planner.models.model_presets import load_model
from planner.models.model_spec import ModelSpec
from planner.plan.optimizer_presets import optimizers
from planner.plan.vocabulary import METHODS, Attention
from planner.recipes.load_recipe import load_recipe
from planner.workload.dtypes import numerics
from planner.workload.optimizers import states_bytes
from planner.workload.rules import rule_book
from planner.workload.settings import settings_of
from planner.workload.tensor_slice import COLUMNS, ROWS, CutLinear, sliced
from planner.workload.trained_tensors import counted_tensors
from planner.workload.workload import Workload
from tests.oracle.small_models import SHAPES, build, prepare, quantized_layer, workload_of
from tests.oracle.zero_cases import CUT, ZeroCase
from tests.torchao import marked, needs_torchao

SEEN = {
    "qlora-zero3",
    "fsdp-int8",
    "fsdp-fp16",
    "fsdp-other-optimizer",
    "adapters-zero1-zero2",
    "adapters-offloaded-optimizer",
    "adapted-experts-zero3",
    "parted-base-quantized",
    "parted-base-zero3",
    "parted-base-experts",
    "shared-matrices-sharded",
    "offloaded-other-optimizer",
    "offloaded-pure-bf16",
    "qlora-falcon",
    "qlora-gemma3n",
    "full-beside-towers",
    "bitsandbytes-cpu",
    "whole-tensors-zero",
    "averaged-weights-zero",
    "apollo-adapters",
    "bitsandbytes-zero",
    "untested-optimizer-zero",
    "attention-packages",
    "sequence-parallel-strategy",
    "sequence-parallel-eager",
    "sequence-parallel-packing",
    "tensor-without-plan",
    "tensor-other-model",
    "tensor-fp16",
}
READ_ONLY = {
    "int8-before-turing",
    "attention-compiled",
    "compiled-update-before-volta",
    "compiled-update-offloaded",
    "eager-on-cpu",
    "tensor-quantized",
    "tensor-uneven",
    "tensor-nodes",
    "tensor-dora",
    "tensor-vera",
    "tensor-parted-base",
    "tensor-other-optimizer",
    "tiled-mlp-int8",
    "tiled-mlp-tensor",
    "tiled-mlp-adapters-zero3",
}
SEEN_ELSEWHERE = {
    "packing-without-positions",
    "packing-across-states",
    "eager-beside-flash",
    "sequence-parallel-model",
}
"""In tests/launcher/training/test_packed_batches.py, tests/planner/workload/test_rules.py,
test_search.py and tests/oracle/test_shared_attention.py."""


def test_every_rule_is_seen_or_said_to_be_read_only() -> None:
    assert {rule.name for rule in rule_book()} == SEEN | READ_ONLY | SEEN_ELSEWHERE


@pytest.mark.parametrize("version", [2, 3, 4])
def test_flash_attention_needs_a_package_of_its_own(version: int) -> None:
    """None of those that launch runs with has it; sdpa and eager need none."""
    sizes = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    config = LlamaConfig(vocab_size=32, intermediate_size=64, **sizes)
    for name in get_args(Attention):
        LlamaForCausalLM._from_config(config, attn_implementation=name)
    with pytest.raises(ImportError, match=r"(?i)flash"):
        LlamaForCausalLM._from_config(config, attn_implementation=f"flash_attention_{version}")


@pytest.mark.parametrize("quantized", [False, True])
def test_zero3_shards_no_quantized_model(monkeypatch: Any, quantized: bool) -> None:
    import deepspeed
    from transformers import modeling_utils

    sharding = contextlib.nullcontext()
    monkeypatch.setattr(modeling_utils, "is_deepspeed_zero3_enabled", lambda: True)
    monkeypatch.setattr(modeling_utils, "deepspeed_config", dict, raising=False)
    monkeypatch.setattr(deepspeed.zero, "Init", lambda **_: sharding)
    contexts = LlamaForCausalLM.get_init_context(
        torch.bfloat16, quantized, _is_ds_init_called=False, allow_all_kernels=False
    )
    assert (sharding in contexts) != quantized


def test_sequences_are_shared_under_deepspeed_alone_and_without_a_mask() -> None:
    from accelerate import ParallelismConfig
    from deepspeed.runtime.sequence_parallel.ulysses_sp import UlyssesSPAttentionHF
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    with pytest.raises(ValueError, match="sp_backend must be one of"):
        ParallelismConfig(sp_size=2, sp_backend="torch")
    registers = getsource(UlyssesSPAttentionHF.register_with_transformers)
    assert 'unsupported_attn_implementation = ["eager", "paged|eager"]' in registers
    assert "attention_mask = None" in registers
    assert "position_ids" not in getsource(sdpa_attention_forward)


@pytest.fixture
def _alone(tmp_path: Path) -> Iterator[None]:
    place = f"file://{tmp_path / 'store'}"
    torch.distributed.init_process_group("gloo", init_method=place, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("_alone")
@pytest.mark.parametrize(
    ("name", "takes_shards"),
    [
        *marked([("adamw_torch_8bit", True)]),
        ("adamw_torch", True),
        ("sgd", True),
        ("rmsprop", True),
        ("schedule_free_adamw", True),
        ("schedule_free_radam", True),
        ("schedule_free_sgd", True),
        ("adafactor", False),
        ("adamw_8bit", False),
        ("apollo_adamw", False),
    ],
)
def test_optimizers_that_update_shards_of_fsdp(name: str, takes_shards: bool) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(64, 64))
    fully_shard(module, mesh=init_device_mesh("cpu", (1,)))
    arguments = TrainingArguments(
        output_dir="unused", use_cpu=True, optim=name, optim_target_modules="all-linear"
    )
    if optimizers()[name].is_compiled:
        compile_alike_in_every_step()
    optimizer = trainer_optimizer(module, arguments)
    begin_training(optimizer)
    module(torch.ones(2, 64)).sum().backward()
    raised = contextlib.nullcontext() if takes_shards else pytest.raises(RuntimeError)
    with raised:
        optimizer.step()


def planned_styles(shape: ModelSpec) -> dict[str, str]:
    """How each matrix of a layer is cut, in transformers' words."""
    styles = {}
    part = sliced(shape, 2)
    for matrix in (matrix for kind in part.kinds for matrix in part.linears(kind)):
        around = isinstance(matrix, CutLinear)
        by_inputs = "rowwise_split_input" if around else "rowwise"
        by_outputs = "colwise_gather_output" if around else "colwise"
        assert matrix.key in COLUMNS | ROWS
        styles[matrix.name] = by_inputs if matrix.key in ROWS else by_outputs
    return styles


def test_layers_that_are_planned_to_be_cut_are_cut_so() -> None:
    for model_type in CUT:
        shape = ZeroCase(method="full", strategy="tensor", model_type=model_type).shape
        config = AutoConfig.for_model(model_type)
        found = {
            name.rpartition(".")[2]: style for name, style in config.base_model_tp_plan.items()
        }
        of_norms = {found.pop(name) for name in ("q_norm", "k_norm") if name in found}
        assert found == planned_styles(structs.replace(shape, model_type=model_type))
        norms = {"replicated_with_grad_allreduce"} if shape.qk_norm == "heads" else set()
        assert of_norms == norms
        head = AutoModelForCausalLM._model_mapping[type(config)]
        assert head._tp_plan == {"lm_head": "colwise_gather_output"}


def test_layers_that_are_said_to_have_no_plan_have_none() -> None:
    (rule,) = (rule for rule in rule_book() if rule.name == "tensor-without-plan")
    for model_type in rule.when.model_type or ():
        assert not AutoConfig.for_model(model_type).base_model_tp_plan


@pytest.mark.usefixtures("_alone")
def test_a_scaler_takes_no_mixture_of_parts_and_whole_gradients() -> None:
    mesh = init_device_mesh("cpu", (1,))
    whole = torch.nn.Parameter(torch.ones(4))
    part = torch.nn.Parameter(distribute_tensor(torch.ones(4), mesh))
    whole.grad, part.grad = torch.ones(4), distribute_tensor(torch.ones(4), mesh)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    scaler.scale(torch.ones(1))
    with pytest.raises(RuntimeError, match=r"mixed torch\.Tensor and DTensor"):
        scaler.step(torch.optim.AdamW([{"params": [part]}, {"params": [whole]}], fused=False))


@pytest.mark.usefixtures("_alone")
def test_a_sharded_int8_weight_has_lost_its_scales() -> None:
    weight = Int8Params(torch.ones(64, 64), requires_grad=False, has_fp16_weights=False)
    layer = Linear8bitLt(64, 64, bias=False, has_fp16_weights=False)
    layer.weight = weight
    layer.to("cpu")
    assert layer.weight.SCB is not None
    fully_shard(layer, mesh=init_device_mesh("cpu", (1,)))
    with pytest.raises(AttributeError, match="CB"):
        layer(torch.ones(2, 64, dtype=torch.bfloat16))


def test_accelerate_scales_gradients_for_its_own_fp16_alone() -> None:
    source = getsource(Accelerator.__init__)
    made = source.index("get_fsdp2_grad_scaler")
    assert source.rindex('mixed_precision == "fp16"', 0, made) < made


def test_linear_layers_of_falcon_are_not_quantized() -> None:
    from transformers.integrations.bitsandbytes import replace_with_bnb_linear

    sizes: dict[str, Any] = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    kinds = {}
    for name, made_by, config in (
        ("falcon", FalconForCausalLM, FalconConfig(vocab_size=32, **sizes)),
        ("llama", LlamaForCausalLM, LlamaConfig(vocab_size=32, intermediate_size=64, **sizes)),
    ):
        with torch.device("meta"):
            model: torch.nn.Module = made_by(config)
        replace_with_bnb_linear(
            model,
            modules_to_not_convert=["lm_head"],
            quantization_config=BitsAndBytesConfig(load_in_4bit=True),
        )
        kinds[name] = any(type(module).__name__ == "Linear4bit" for module in model.modules())
    assert kinds == {"falcon": False, "llama": True}


def test_gemma_3n_clamps_matrices_that_cannot_be_packed() -> None:
    work = workload_of(SHAPES["gemma3n"], "qlora", "fp32", 0.0, "all-linear")
    model = prepare(build(work.model), work, zero_stage=0).train()
    with pytest.raises(RuntimeError, match="can't be cast to the desired output type"):
        model(input_ids=torch.ones((1, 8), dtype=torch.int64))


def test_a_text_alone_gives_towers_no_gradients() -> None:
    model = build(SHAPES["gemma4-wrapper"])
    ids = torch.ones((1, 8), dtype=torch.int64)
    model(input_ids=ids, labels=ids).loss.backward()
    without = {name for name, each in model.named_parameters() if each.grad is None}
    of_towers = {name for name, _ in model.named_parameters() if name.startswith(towers(model))}
    assert without == of_towers != set()


def test_bitsandbytes_pages_nothing_on_the_cpu() -> None:
    from bitsandbytes.optim import PagedAdamW32bit

    parameter = torch.nn.Parameter(torch.ones(400, 400))
    parameter.grad = torch.ones_like(parameter)
    optimizer = PagedAdamW32bit([parameter])
    with pytest.warns(UserWarning, match=r"(?i)paged"):
        optimizer.step()
    states = [x for x in optimizer.state[parameter].values() if isinstance(x, torch.Tensor)]
    assert states
    assert not any(getattr(state, "is_paged", False) for state in states)


def test_adafactor_factors_a_matrix_and_no_flat_shard() -> None:
    from transformers.optimization import Adafactor

    for shape, factored in (((8, 8), True), ((64,), False)):
        parameter = torch.nn.Parameter(torch.ones(shape))
        parameter.grad = torch.ones(shape)
        optimizer = Adafactor([parameter])
        optimizer.step()
        assert ("exp_avg_sq_row" in optimizer.state[parameter]) == factored


def test_apollo_projects_a_matrix_and_no_flat_shard() -> None:
    from apollo_torch import APOLLOAdamW

    settings = {"rank": 2, "proj": "random", "update_proj_gap": 1, "scale": 1.0}
    settings |= {"proj_type": "std", "scale_type": "channel"}
    for shape, raised in (
        ((8, 8), contextlib.nullcontext()),
        ((64,), pytest.raises(IndexError)),
    ):
        parameter = torch.nn.Parameter(torch.ones(shape))
        parameter.grad = torch.ones(shape)
        with raised:
            APOLLOAdamW([{"params": [parameter], **settings}]).step()


def test_states_of_apollo_are_larger_than_adapters() -> None:
    model = load_model("llama-2-7b").spec
    states = {}
    for name in ("apollo_adamw", "adamw_torch"):
        work = Workload(model=model, settings=settings_of(load_recipe("lora")), compute="bf16")
        tensors = counted_tensors(work)
        states[name] = states_bytes(optimizers()[name], tensors, width=4, device="cuda").on_device
    assert states["apollo_adamw"] > 2 * states["adamw_torch"]


def test_stable_adamw_scales_the_step_of_a_tensor_and_no_part_of_a_flat_shard() -> None:
    from optimi import StableAdamW

    def updated(*parts: tuple[int, int]) -> torch.Tensor:
        """Both halves after two steps, the first half's second gradient being large."""
        whole, second = torch.zeros(8), torch.tensor([100.0] * 4 + [1.0] * 4)
        parameters = [torch.nn.Parameter(whole[slice(*part)].clone()) for part in parts]
        optimizer = StableAdamW(parameters, lr=0.1)
        for gradient in (torch.ones(8), second):
            for parameter, part in zip(parameters, parts, strict=True):
                parameter.grad = gradient[slice(*part)].clone()
            optimizer.step()
        return torch.cat([parameter.detach() for parameter in parameters])

    assert not torch.allclose(updated((0, 4), (4, 8))[4:], updated((0, 8))[4:])


@pytest.mark.usefixtures("_alone")
def test_stable_adamw_hands_shards_of_fsdp_to_its_kernels(monkeypatch: Any) -> None:
    """Which raise there, seen on simulated cards."""
    from optimi import stableadamw, utils

    library = import_module(stableadamw.__module__)
    handed = list[tuple[bool, str]]()
    monkeypatch.setattr(utils, "HAS_TRITON", True)
    monkeypatch.setattr(
        library,
        "stableadamw",
        lambda **given: handed.append((given["triton"], type(given["params"][0]).__name__)),
    )
    module = torch.nn.Linear(8, 8, bias=False)
    fully_shard(module, mesh=init_device_mesh("cpu", (1,)))
    module.weight.grad = torch.ones_like(module.weight)
    library.StableAdamW(module.parameters(), lr=0.1).step()
    assert handed == [(True, "DTensor")]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.usefixtures("_alone")
def test_under_zero_an_average_does_not_reach_the_model(monkeypatch: Any) -> None:
    import deepspeed
    from accelerate.utils.deepspeed import DeepSpeedOptimizerWrapper
    from schedulefree import SGDScheduleFree

    for variable, value in (("LOCAL_RANK", "0"), ("DS_ACCELERATOR", "cpu")):
        monkeypatch.setenv(variable, value)
    compile_no_collectives()
    module = torch.nn.Linear(8, 8)
    averaging = SGDScheduleFree(module.parameters(), lr=0.1)
    averaging.train()
    engine, *_ = deepspeed.initialize(
        model=module,
        optimizer=averaging,
        dist_init_required=False,
        config={
            "train_batch_size": 1,
            "bf16": {"enabled": True},
            "zero_optimization": {"stage": 1},
            "zero_allow_untested_optimizer": True,
        },
    )
    for _ in range(2):
        engine.backward(engine(torch.ones(1, 8, dtype=torch.bfloat16)).float().square().sum())
        engine.step()
    weights = module.weight.detach().clone()
    (shard,) = engine.optimizer.single_partition_of_fp32_groups
    trained = shard.detach().clone()
    wrapped = DeepSpeedOptimizerWrapper.__new__(DeepSpeedOptimizerWrapper)
    wrapped.optimizer = engine.optimizer
    wrapped.eval()
    assert not torch.equal(shard, trained)
    assert torch.equal(module.weight, weights)


@pytest.mark.parametrize(
    ("name", "tested"), [("AdamW", True), ("SGD", False), ("AdamW8bit", False)]
)
def test_optimizers_that_deepspeed_has_tested_under_zero(name: str, tested: bool) -> None:
    import bitsandbytes.optim
    from deepspeed.runtime.zero.utils import ZERO_SUPPORTED_OPTIMIZERS

    kind = getattr(torch.optim, name, None) or getattr(bitsandbytes.optim, name)
    assert (kind in ZERO_SUPPORTED_OPTIMIZERS) == tested


@needs_torchao
def test_deepspeed_has_tested_none_of_torchaos_optimizers() -> None:
    from deepspeed.runtime.zero.utils import ZERO_SUPPORTED_OPTIMIZERS
    from torchao.optim import AdamW4bit, AdamW8bit

    assert not {AdamW4bit, AdamW8bit} & set(ZERO_SUPPORTED_OPTIMIZERS)


def test_accelerate_puts_deepspeeds_adam_in_the_place_of_others(monkeypatch: Any) -> None:
    import bitsandbytes.optim
    import deepspeed.ops.adam
    from accelerate.utils.deepspeed import map_pytorch_optim_to_deepspeed

    class Adam:
        def __init__(self, _params: Any, **settings: Any) -> None:
            self.settings = settings

    monkeypatch.setattr(deepspeed.ops.adam, "DeepSpeedCPUAdam", Adam)
    parameter = torch.nn.Parameter(torch.ones(2))
    for made, adamw in (
        (torch.optim.AdamW([parameter]), True),
        (torch.optim.SGD([parameter], lr=0.1), False),
        (bitsandbytes.optim.AdamW8bit([parameter]), False),
    ):
        taken = map_pytorch_optim_to_deepspeed(made)
        assert isinstance(taken, Adam)
        assert taken.settings["adamw_mode"] is adamw
        assert "fp32_optimizer_states" not in taken.settings


def test_offloaded_states_are_bf16_only_in_an_adam_that_accelerate_does_not_make() -> None:
    """It names no dtype of states, so DeepSpeed's default is what there is."""
    from deepspeed.ops.adam import DeepSpeedCPUAdam
    from deepspeed.runtime.base_optimizer import ZeROOptimizer

    class Offloaded(ZeROOptimizer):  # type: ignore[misc]
        def __init__(self) -> None:
            default = signature(DeepSpeedCPUAdam).parameters["fp32_optimizer_states"].default
            self.optimizer = SimpleNamespace(fp32_optimizer_states=default)

    with pytest.raises(AssertionError, match="fp32_optimizer_states=False"):
        Offloaded()._configure_master_weights(
            bf16_master_weights_and_gradients=True,
            bf16_optimizer_states=True,
            offload_enabled=True,
            bf16_offload_validator=lambda: None,
        )


def test_adapters_leave_stages_1_and_2_next_to_nothing_to_shard() -> None:
    """All that trains, its gradients and states, against what is frozen and stays whole."""
    model = load_model("llama-2-7b").spec
    for method in METHODS[:2]:
        work = Workload(model=model, settings=settings_of(load_recipe(method)), compute="bf16")
        kinds = numerics(method=method, compute="bf16", zero_stage=2)
        states = work.trainable_params * (kinds.trainable + kinds.gradient + 4 + 8)
        assert states < frozen_bytes(work, kinds)


def test_adapters_of_experts_are_read_outside_of_their_modules_turn() -> None:
    """ZeRO-3 gathers what a module holds as the module runs."""
    work = workload_of(SHAPES["mixtral"], "lora", "fp32", 0.0, ("all-linear", "experts"))
    model = prepare(build(SHAPES["mixtral"]), work, zero_stage=0)
    run = set[bool]()
    for name, module in model.named_modules():
        if name.endswith(".lora_A.default"):
            of_experts = ".experts." in name
            module.register_forward_pre_hook(lambda *_, of_experts=of_experts: run.add(of_experts))
    model(input_ids=torch.ones(1, 4, dtype=torch.long))
    assert run == {False}


def test_packed_weights_are_parted_by_no_beginning() -> None:
    """PiSSA is refused, and OLoRA packs what is left once more, which rounds it otherwise."""
    torch.manual_seed(0)
    weight = torch.randn(64, 64)
    layer = quantized_layer(weight, None, "fp32", in_8bit=False)
    layer.load_state_dict({"weight": weight}, strict=False)
    model = torch.nn.ModuleDict({"q_proj": layer.to("cpu")})
    mark_packed(model, in_4bit=True, in_8bit=False)
    before = dequantize_module_weight(layer).float()
    with pytest.raises(TypeError, match="Please initialize PiSSA under float32"):
        get_peft_model(model, LoraConfig(init_lora_weights="pissa", target_modules=["q_proj"]))
    adapted = get_peft_model(
        model, LoraConfig(init_lora_weights="olora", target_modules=["q_proj"])
    )
    projection = adapted.base_model.model["q_proj"]
    rest = dequantize_module_weight(projection.get_base_layer()).float()
    after = rest + projection.get_delta_weight("default").float()
    assert (after - before).norm() > 0.03 * before.norm()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.usefixtures("_alone")
def test_zero3_has_cut_a_matrix_when_adapters_are_made(monkeypatch: Any) -> None:
    import deepspeed

    for variable, value in (("LOCAL_RANK", "0"), ("DS_ACCELERATOR", "cpu")):
        monkeypatch.setenv(variable, value)
    compile_no_collectives()
    settings = {"train_batch_size": 1, "zero_optimization": {"stage": 3}}
    with deepspeed.zero.Init(config_dict_or_path=settings):
        layer = torch.nn.Linear(8, 8)
    assert layer.weight.numel() == 0


def test_no_adapter_of_experts_begins_as_a_part_of_them() -> None:
    settings = LoraConfig(init_lora_weights="pissa", target_parameters=["experts.down_proj"])
    with pytest.raises(AttributeError, match="no attribute 'weight'"):
        get_peft_model(build(SHAPES["mixtral"]), settings)


@pytest.mark.usefixtures("_alone")
def test_fsdp_leaves_what_vera_shares_as_it_is() -> None:
    work = workload_of(SHAPES["llama"], "lora", "fp32", 0.0, ("q_proj",), vera=True)
    model = prepare(build(SHAPES["llama"]), work, zero_stage=0)
    shared = [model.base_model.vera_A, model.base_model.vera_B]
    fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
    assert {type(each).__name__ for each in model.parameters()} == {"DTensor"}
    assert {type(each["default"]) for each in shared} == {torch.Tensor}
