"""Memory between steps against the real thing: a forward pass that nothing follows, and the keys
and values that generation keeps."""

from collections.abc import Iterator

import pytest
import torch

from launcher.rehearsal.operator_rules import ENGINE_RULES
from launcher.rehearsal.tracer import Tracer
from planner.base.units import ALLOCATOR_BLOCK_BYTES, round_up
from planner.memory.between_steps import cache_bytes, forward_bytes
from planner.memory.micro_batch import tape_forward
from planner.plan.vocabulary import Method
from planner.workload.dtypes import numerics
from planner.workload.workload import Batch
from tests.oracle.small_models import build, prepare, workload_of
from tests.oracle.test_peak import SEQUENCE_LENGTH, SHAPES, TOLERANCE, tile_width, trl_utils

__all__ = ["tile_width"]
NAMES = ("llama", "glm", "gemma2", "gpt2", "qwen2-moe", "deepseek-v2")


@pytest.fixture
def nothing_kept(tile_width: None) -> Iterator[None]:
    """Of tiles of another width."""
    tape_forward.cache_clear()
    yield
    tape_forward.cache_clear()


@pytest.mark.usefixtures("nothing_kept")
@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("name", NAMES)
def test_an_evaluation_takes_what_is_predicted(name: str, method: Method) -> None:
    work = workload_of(SHAPES[name], method, "bf16", 0.1, "all-linear")
    model = prepare(build(work.model), work, zero_stage=0).eval()
    base = model.get_base_model() if method == "lora" else model
    trl_utils.add_fused_lm_head(base, outputs=("log_probs", "entropy", "is_top1"))
    tracer = Tracer(ENGINE_RULES, left_out=("weights",))
    for tensor in (*model.parameters(), *model.buffers()):
        tracer.assign(tensor, "weights")
    ids = torch.randint(1, work.model.vocab_size, (1, SEQUENCE_LENGTH))
    autocast = torch.autocast("cpu", torch.bfloat16)
    with tracer, tracer.phase("forward"), torch.no_grad(), autocast:
        model(input_ids=ids.clone(), labels=ids.clone(), fused_lm_head=True, use_cache=False)
    batch = Batch(micro_batch_size=1, sequence_length=SEQUENCE_LENGTH, device="cpu")
    kinds = numerics(method=method, compute="bf16", zero_stage=0)
    predicted = forward_bytes(work, batch, kinds).whole.total()
    traced = sum(tracer.phases["forward"].values())
    assert TOLERANCE[0] < predicted / traced - 1 < TOLERANCE[1]


@pytest.mark.parametrize("name", [*NAMES, "qwen2-windows", "bloom"])
def test_every_key_and_value_is_counted(name: str) -> None:
    work = workload_of(SHAPES[name], "lora", "bf16", 0.1, "all-linear")
    model = build(work.model).eval()
    ids = torch.randint(1, work.model.vocab_size, (1, SEQUENCE_LENGTH))
    with torch.no_grad():
        cache = model(input_ids=ids, use_cache=True).past_key_values
    sizes = [
        round_up(tensor.numel() * 2, ALLOCATOR_BLOCK_BYTES)
        for layer in cache.layers
        for tensor in (layer.keys, layer.values)
    ]
    joined = max(a + b for a, b in zip(sizes[::2], sizes[1::2], strict=True))
    kinds = numerics(method="lora", compute="bf16", zero_stage=0)
    assert cache_bytes(work, SEQUENCE_LENGTH, kinds) == sum(sizes) + joined
