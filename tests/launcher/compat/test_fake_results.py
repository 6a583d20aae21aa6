"""Remembered results of operators are those that PyTorch's own fake tensors give."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from launcher.compat.fake_results import known
from launcher.compat.torch import fake_tensors

Facts = tuple[Any, ...]


def facts(result: torch.Tensor, first: torch.Tensor) -> Facts:
    """Return all that a trace reads of a tensor, and of where it lies."""
    shared = result.untyped_storage()._cdata == first.untyped_storage()._cdata
    size = result.untyped_storage().nbytes()
    return (
        *(tuple(result.shape), result.stride(), result.storage_offset(), result.dtype),
        *(result.device, shared, size, result is first),
    )


def of_both_modes(run: Callable[[torch.Tensor], torch.Tensor]) -> tuple[list[Facts], list[Facts]]:
    """Return the facts of several runs under PyTorch's mode and under ours, whose second run is
    remembered."""
    found = list[list[Facts]]()
    known().clear()
    for mode in (FakeTensorMode(), fake_tensors()):
        with mode, torch.no_grad():
            bases = [torch.empty(4, 6, 8)[n:].transpose(1, 2) for n in (0, 0, 1)]
            found.append([facts(run(base), base) for base in bases])
    plain, remembered = found
    return plain, remembered


@pytest.mark.parametrize(
    "run",
    [
        lambda x: x + 1,
        lambda x: x + 1.5,
        lambda x: x.to(torch.int64) / 2,
        lambda x: x.mul_(2),
        lambda x: x[0],
        lambda x: x[-1],
        lambda x: x[:, 2],
        lambda x: x[:, 1:5:2],
        lambda x: x.unsqueeze(0).expand(3, -1, -1, -1),
        lambda x: x.contiguous().view(-1),
        lambda x: x.contiguous(),
        lambda x: torch.add(x, 1, out=torch.empty(0)),
        lambda x: x.as_strided((2,), (1,), 3),
        lambda x: x.sum(-1, dtype=torch.float64),
        lambda x: torch.cat([x, x]),
        lambda x: torch.ops.aten._unsafe_view(x.contiguous(), (-1,)),
        lambda x: torch.ops.aten.select_backward(x[0], x.shape, 0, 1),
    ],
)
def test_a_remembered_result_is_as_it_was(run: Callable[[torch.Tensor], torch.Tensor]) -> None:
    plain, remembered = of_both_modes(run)
    assert plain == remembered


@pytest.fixture
def none_known() -> Iterator[None]:
    known().clear()
    yield
    known().clear()


def test_places_of_a_tensor_are_one_result(none_known: None) -> None:
    with fake_tensors():
        whole = torch.empty(64, 8, requires_grad=True)
        once = len(known())
        rows = [whole[n] * 2 for n in range(64)]
    assert len(known()) <= once + 2
    assert [row.shape for row in rows[:1]] == [torch.Size([8])]


def test_numbers_of_another_type_are_another_result(none_known: None) -> None:
    with fake_tensors():
        whole = torch.empty(4, dtype=torch.int64)
        assert [(whole + one).dtype for one in (1, 1.0, True)] == [
            torch.int64,
            torch.float32,
            torch.int64,
        ]
