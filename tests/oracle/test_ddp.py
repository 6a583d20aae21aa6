"""Buckets against the reducer's own account of them: one gloo rank on the CPU."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from msgspec import structs
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from planner.base.units import ALLOCATOR_BLOCK_BYTES, MIB, round_up
from planner.memory.ddp_buckets import bucket_sizes, ddp_bytes
from planner.plan.vocabulary import Method
from planner.workload.trained_tensors import trained_tensors
from tests.oracle.small_models import SHAPES, build, prepare, workload_of

WIDER = {"hidden_size": 512, "intermediate_size": 2048, "vocab_size": 8192, "num_layers": 6}


@pytest.fixture
def _one_rank(tmp_path: Path) -> Iterator[None]:
    place = f"file://{tmp_path / 'store'}"
    distributed.init_process_group("gloo", init_method=place, rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.usefixtures("_one_rank")
@pytest.mark.parametrize(
    ("name", "method"), [("llama", "full"), ("qwen3", "full"), ("llama", "lora")]
)
def test_buckets_are_the_reducers(name: str, method: Method) -> None:
    spec = structs.replace(SHAPES[name], **WIDER, head_dim=128)
    work = workload_of(spec, method, "fp32", 0.0, "all-linear")
    model: Any = DistributedDataParallel(prepare(build(spec), work, zero_stage=0))
    ids = torch.ones((1, 4), dtype=torch.int64)
    for _ in range(3):
        model(input_ids=ids, use_cache=False).logits.sum().backward()
    facts = model._get_ddp_logging_data()
    found = [int(size) for size in facts["rebuilt_bucket_sizes"].split(", ")]
    ours = bucket_sizes(4 * tensor.elements for tensor in reversed(trained_tensors(work)))
    assert len(ours) == len(found)
    assert sum(ours) == sum(found)
    assert ddp_bytes(work, 4) == pytest.approx(
        sum(round_up(size, ALLOCATOR_BLOCK_BYTES) for size in found), abs=512 * len(found)
    )
    assert method == "lora" or max(found) >= 25 * MIB
