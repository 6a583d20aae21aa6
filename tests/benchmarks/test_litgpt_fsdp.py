"""What :mod:`benchmarks.accuracy.litgpt.fsdp` says of FSDP, asked of FSDP itself on two ranks."""

from contextlib import nullcontext
from multiprocessing import get_context
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel

RANKS = 2
WIDTH, RANK = 8, 2
WHOLE = WIDTH * WIDTH + 2 * WIDTH * RANK


class Block(nn.Module):
    """A frozen matrix and a trained adapter, as a block with LoRA."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.Linear(WIDTH, WIDTH, bias=False).requires_grad_(False)
        self.down = nn.Linear(WIDTH, RANK, bias=False)
        self.up = nn.Linear(RANK, WIDTH, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.frozen(x) + self.up(self.down(x))
        return output


def _micro_batches(rank: int, store: str, found: str) -> None:
    """Elements of the gradient after a micro-batch without reducing, and after one with."""
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=RANKS)
    block = FullyShardedDataParallel(Block(), use_orig_params=True, device_id=torch.device("cpu"))
    handle, x = block._handle, torch.randn(3, WIDTH)
    assert handle is not None
    kept = []
    for context in (block.no_sync(), nullcontext()):
        with context:
            block(x).sum().backward()
        assert handle.flat_param.grad is not None
        kept.append(handle.flat_param.grad.numel())
    if rank == 0:
        Path(found).write_text(f"{kept[0]} {kept[1]}")
    dist.destroy_process_group()


def test_a_rank_keeps_gradients_of_frozen_weights_too_and_whole_while_they_accumulate(
    tmp_path: Path,
) -> None:
    found = tmp_path / "elements"
    context = get_context("fork")
    arguments = str(tmp_path / "store"), str(found)
    ranks = [
        context.Process(target=_micro_batches, args=(n, *arguments), daemon=True)
        for n in range(RANKS)
    ]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(timeout=60)
    assert [process.exitcode for process in ranks] == [0] * RANKS
    assert found.read_text() == f"{WHOLE} {WHOLE // RANKS}"
