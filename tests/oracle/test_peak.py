"""The closed-form peak against a traced step: every storage that a real step allocates.

The step is the launcher's: trl's fused head, autocast, adapters, checkpointing. What is
not as on CUDA is made so: trl's Triton kernels work inside the logits tile, while its
torch stand-ins allocate copies of it, so those are left out here.
"""

from collections.abc import Iterator

import pytest
import torch

from launcher.trace import Tracer
from planner.memory import worst_batch
from planner.micro_batch import micro_batch
from planner.model import ModelSpec
from planner.numerics import numerics
from planner.plan import Method, ZeroStage
from planner.recipe import Workload
from planner.strategy import Layout
from tests.oracle.small_models import SHAPES as SMALL
from tests.oracle.small_models import build, prepare, workload_of

trl_utils = pytest.importorskip("trl.trainer.utils")
chunked_logprob = pytest.importorskip("trl.kernels.chunked_logprob")

TOLERANCE = (-0.02, 0.02)
"""Worst case on the grid; most are within 0.1 %."""
SEQUENCE_LENGTH = 256


LARGER = {
    "num_layers": 4,
    "hidden_size": 256,
    "intermediate_size": 768,
    "num_attention_heads": 8,
    "head_dim": 32,
    "vocab_size": 8192,
    "max_position_embeddings": 1024,
}
NAMES = (
    *("llama", "glm", "qwen3", "phi3", "glm4", "gemma", "gemma2", "gemma3", "qwen2-windows"),
    *("olmo2", "exaone4", "granite", "hunyuan", "smollm3", "mixtral", "qwen2-moe"),
)
LARGER_EXPERTS = {"intermediate_size": 384, "shared_intermediate_size": 512}


def _larger(spec: ModelSpec) -> ModelSpec:
    experts = spec.experts
    if experts is not None:
        shared = LARGER_EXPERTS if experts.shared_intermediate_size else {"intermediate_size": 384}
        experts = experts.model_copy(update=shared)
    return spec.model_copy(update={**LARGER, "experts": experts})


SHAPES = {name: _larger(SMALL[name]) for name in NAMES}


@pytest.fixture(params=[32768, 128], ids=["wide-tile", "narrow-tile"])
def tile_width(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """trl's own tile, where the loss is the peak, and a narrow one, where a layer is."""
    micro_batch.cache_clear()
    monkeypatch.setattr(trl_utils, "_CHUNKED_LOGPROB_CHUNK_SIZE", request.param)
    monkeypatch.setattr("planner.loss.FUSED_LOSS_VOCABULARY", request.param)
    monkeypatch.setattr("planner.loss.TORCH_TILE_BYTES", {"forward": 0, "backward": 0})
    monkeypatch.setattr(trl_utils, "_use_triton", lambda _device: True)
    for name in ("_forward_tile", "_backward_tile", "_addmm_fp32"):
        monkeypatch.setattr(chunked_logprob, name, lambda *_args, **_kwargs: None)
    yield
    micro_batch.cache_clear()


def traced_peak(work: Workload, layout: Layout, *, zero_stage: ZeroStage) -> int:
    """Bytes beyond the parameters at the peak of one forward and backward pass."""
    torch.manual_seed(0)
    model = prepare(build(work.model), work, zero_stage=zero_stage).train()
    base = model.get_base_model() if work.recipe.adapter is not None else model
    trl_utils.add_fused_lm_head(base, outputs=("log_probs", "entropy", "is_top1"))
    if layout.activation_checkpointing:
        base.activation_checkpointing_enable({"use_reentrant": False})
        base.enable_input_require_grads()
    kinds = numerics(method=work.method, compute=work.compute, zero_stage=zero_stage)
    shape = (layout.micro_batch_size, SEQUENCE_LENGTH)
    tracer = Tracer(left_out=("weights",))
    for tensor in (*model.parameters(), *model.buffers()):
        tracer.own(tensor, "weights")
    with tracer, tracer.phase("backward"):
        ids = torch.randint(1, work.model.vocab_size, shape)
        mask = torch.ones_like(ids)
        mask[1:, -9:] = 0
        with torch.autocast("cpu", torch.bfloat16, enabled=kinds.autocast):
            output = model(
                input_ids=ids,
                attention_mask=mask,
                labels=ids.clone(),
                fused_lm_head=True,
                use_cache=False,
            )
            loss = -output.log_probs.sum() / 10
        loss.backward()
    return sum(tracer.phases["backward"].values())


@pytest.mark.usefixtures("tile_width")
@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(
    ("method", "zero_stage", "micro_batch_size"),
    [("lora", 0, 1), ("lora", 0, 2), ("lora", 2, 1), ("full", 0, 1), ("full", 2, 1)],
)
def test_peak_is_what_a_traced_step_allocates(
    name: str,
    checkpointing: bool,
    method: Method,
    zero_stage: ZeroStage,
    micro_batch_size: int,
) -> None:
    work = workload_of(SHAPES[name], method, "bf16", 0.1, "all-linear")
    recipe = work.recipe.model_copy(update={"sequence_length": SEQUENCE_LENGTH})
    work = work.model_copy(update={"recipe": recipe})
    layout = Layout(
        strategy="zero2" if zero_stage else "single",
        world_size=1,
        micro_batch_size=micro_batch_size,
        gradient_accumulation_steps=1,
        activation_checkpointing=checkpointing,
    )
    traced = traced_peak(work, layout, zero_stage=zero_stage)
    alive = micro_batch(
        work,
        worst_batch(work, layout, "cpu"),
        numerics(method=method, compute="bf16", zero_stage=zero_stage),
        checkpointing=checkpointing,
        sink="keep",
    )
    peak = max(sum(alive.forward.values()), sum(alive.backward.values()))
    low, high = TOLERANCE
    assert low <= peak / traced - 1 <= high
