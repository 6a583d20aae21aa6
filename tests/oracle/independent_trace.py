"""Bytes of one training step of a real model, traced with transformers and PyTorch alone.

Nothing of this project is imported here, so that what it assumes is not assumed twice. Tensors are
fake: they have sizes and lifetimes, and no values. A storage counts from the operator that made it
until nothing holds it, in blocks of the caching allocator.
"""

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import transformers
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

BLOCK = 512


class LiveStorages(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A count of the bytes of all storages that operators have made and that something holds."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = 0
        self.most = 0
        self.phases: dict[str, int] = {}
        """Most bytes within each phase."""
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operator and note what it returns."""
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self.note(leaf)
        return result

    def note(self, tensor: torch.Tensor) -> None:
        """Count a tensor's storage, if it is not counted yet, until it ends."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        size = -(-storage.nbytes() // BLOCK) * BLOCK
        self._known.add(key)
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._ends, key, size)

    def _ends(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Note the most bytes within the block."""
        self.most = self.now
        yield
        self.phases[name] = max(self.most, self.phases.get(name, 0))


MakeOptimizer = Callable[[Any], torch.optim.Optimizer]


def traced_step(
    config: Any,
    make_optimizer: MakeOptimizer,
    *,
    dtype: torch.dtype,
    samples: int,
    tokens: int,
    recomputes: bool,
) -> dict[str, int]:
    """Return the most bytes in forward, backward and the optimizer's step of full fine-tuning, in a
    second step, when the optimizer's states are there. Fake tensors have a mask, since nobody knows
    that all positions are seen; what decays is updated first."""
    live = LiveStorages()
    with FakeTensorMode(), live:
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype).train()
        for tensor in (*model.parameters(), *model.buffers()):
            live.note(tensor)
        if recomputes:
            model.activation_checkpointing_enable({"use_reentrant": False})
        every = list(model.parameters())
        groups = [[p for p in every if p.dim() > 1], [p for p in every if p.dim() == 1]]
        optimizer = make_optimizer([{"params": group} for group in groups])
        for _ in range(2):
            ids = torch.zeros((samples, tokens), dtype=torch.int64)
            labels = ids.clone()
            with live.phase("forward"):
                loss = model(input_ids=ids, labels=labels, use_cache=False).loss
            with live.phase("backward"):
                loss.backward()
            with live.phase("optimizer_step"):
                optimizer.step()
            del loss
            optimizer.zero_grad()
    return live.phases
