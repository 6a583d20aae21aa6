"""Which gradients the view of a projection as heads copies: real models against the tape."""

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from planner.forward.model_pass import ModelPass, passed_layers
from planner.workload.dtypes import numerics
from planner.workload.workload import Batch
from tests.oracle.small_models import SHAPES, build, workload_of

LENGTH = 24
CASES = {
    "llama": (True, False, "eager"),
    "qwen3": (True,),
    "phi3": (True, False),
    "gemma": (True,),
    "smollm3": (True, False),
    "gpt2": (False,),
    "minimax-m2": (False,),
}
"""Whether samples are padded, or which attention has whole scores."""


class _Copies(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts what views copy of tensors by heads, from when it is told to."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count: int = 0

    def __torch_dispatch__(
        self, operator: Any, _types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = operator(*args, **(kwargs or {}))
        by_heads = operator is torch.ops.aten.clone.default and result.dim() == 4
        self.count += by_heads and _node_name() == "ViewBackward0"
        return result


def _node_name() -> str:
    node = torch._C._current_autograd_node()
    return "" if node is None else str(node.name())


def copied(name: str, *, padded: bool, attention: str) -> int:
    torch.manual_seed(0)
    model = build(SHAPES[name]).train().requires_grad_(True)
    model.set_attn_implementation(attention)
    ids = torch.randint(1, SHAPES[name].vocab_size, (2, LENGTH))
    mask = torch.ones_like(ids)
    if padded:
        mask[1:, -5:] = 0
    loss = model(input_ids=ids, attention_mask=mask, labels=ids, use_cache=False).loss
    copies = _Copies()
    with copies:
        loss.backward()
    return copies.count


@pytest.mark.parametrize(
    ("name", "setting"),
    [(name, setting) for name, settings in CASES.items() for setting in settings],
)
def test_views_copy_the_gradients_that_the_tape_copies(name: str, setting: bool | str) -> None:
    attention = setting if isinstance(setting, str) else "sdpa"
    work = workload_of(SHAPES[name], "full", "bf16", 0.0, "all-linear")
    work = work.with_settings(attention=attention)
    batch = Batch(micro_batch_size=2, sequence_length=LENGTH, masked=setting is True, device="cpu")
    run = ModelPass(
        work,
        batch,
        numerics(method="full", compute="bf16", zero_stage=0),
        layers=passed_layers(work.model, 0),
        sink="keep",
    )
    found = [name for size, *_, name in run.tape.log if size > 0 and name.endswith(", copied")]
    assert len(found) == copied(name, padded=setting is True, attention=attention)
