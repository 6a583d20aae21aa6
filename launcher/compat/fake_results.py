"""Fake tensors that are made from what the same operator has returned before.

A trace calls an operator with the same sizes again and again: a model that loops over chunks of a
sequence calls a hundred thousand, of which a few hundred differ. ``FakeTensorMode`` remembers
results too, by everything that any tensor may have; here only strided tensors of plain operators
are remembered, which takes a third of its time.

read: PyTorch 2.13.0, torch/_subclasses/fake_tensor.py, ``FakeTensorMode._cached_dispatch_impl``.
"""

from collections.abc import Iterable
from functools import cache
from typing import Any, NamedTuple

import torch
from torch._subclasses.fake_tensor import (
    FakeTensor,
    FakeTensorMode,
    in_kernel_invocation_manager,
)

MOST_KEPT = 2**17
"""Results that are remembered."""
_NEVER = (
    torch.Tag.data_dependent_output,
    torch.Tag.dynamic_output_shape,
    torch.Tag.inplace_view,
)
_SELECT = torch.ops.aten.select.int
_INDEXES = {_SELECT: 2, torch.ops.aten.select_backward.default: 3}
"""Arguments by operator that say which of several alike things is meant."""
_UNSAFE_VIEW = torch.ops.aten._unsafe_view.default
"""A view that its schema does not call one."""
_SCALARS = frozenset(
    {int, float, bool, str, type(None), torch.dtype, torch.device, torch.layout}
    | {torch.memory_format}
)
"""Types of arguments that are part of what is remembered as they are."""


class Made(NamedTuple):
    """A tensor that an operator has returned."""

    view: bool
    """Whether it has the storage of the first argument."""
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    """Where in its storage it begins; of a view, how many elements behind the first argument."""
    dtype: torch.dtype
    device: torch.device
    attributes: dict[str, Any]
    """What a fake tensor has beside its sizes, its mode aside."""


class FirstArgument(NamedTuple):
    """A result that is the first argument itself, as of operators in place."""


class RememberingFakes(FakeTensorMode):  # type: ignore[no-untyped-call]
    """A mode of fake tensors that remembers the results of plain operators."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Return False: nothing is compiled, and keeping dynamo away takes two calls each time."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        key = _key(func, args, kwargs)
        if key is None:
            return super().__torch_dispatch__(func, types, args, kwargs or {})
        made = known().get(key)
        if isinstance(made, FirstArgument):
            return args[0]
        if made is not None:
            return self._again(made, args[0], _selected(func, args))
        result = super().__torch_dispatch__(func, types, args, kwargs or {})
        found = _made(func, args, result)
        if found is not None:
            if len(known()) == MOST_KEPT:
                known().clear()
            known()[key] = found
        return result

    def _again(self, made: Made, first: Any, selected: int) -> Any:
        with in_kernel_invocation_manager(self):
            meta = torch.empty_strided(made.shape, made.stride, dtype=made.dtype, device="meta")
            if made.view:
                offset = first.storage_offset() + made.offset + selected
                meta.set_(first.untyped_storage(), offset, made.shape, made.stride)
        again: Any = torch.Tensor._make_subclass(
            FakeTensor, meta, False, dispatch_device=True, device_for_backend_keys=made.device
        )
        torch._C._set_warn_deprecated_on_mutable_data_ptr(again)
        vars(again).update(made.attributes)
        again.fake_mode = self
        return again


@cache
def known() -> dict[Any, Made | FirstArgument]:
    """Return the results that this process remembers."""
    return {}


@cache
def _is_plain(func: Any) -> bool:
    """Return whether an operator's result depends on nothing but the sizes of its arguments, and
    shares memory with the first of them at most."""
    if not isinstance(func, torch._ops.OpOverload) or func.namespace != "aten":
        return False
    if "lift" in str(func) or func is torch.ops.aten.as_strided.default:
        return False
    if any(tag in func.tags for tag in _NEVER):
        return False
    others = func._schema.arguments[1:]
    if any(each.alias_info is not None and each.alias_info.is_write for each in others):
        return False
    return not (func.is_view and _is_composite(func))


def _is_composite(func: Any) -> bool:
    """Return whether an operator is made of others, so that it may copy in the place of viewing."""
    kind = "CompositeImplicitAutograd"
    return bool(torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), kind))


def _key(func: Any, args: Any, kwargs: Any) -> tuple[Any, ...] | None:
    if not _is_plain(func) or not args or type(args[0]) is not FakeTensor:
        return None
    parts: list[Any] = [func, torch.get_default_dtype()]
    index = _INDEXES.get(func)
    if index is not None:
        args = (*args[:index], *args[index + 1 :])
    if _add(parts, args) and (not kwargs or _add_named(parts, kwargs)):
        return tuple(parts)
    return None


def _add_named(parts: list[Any], kwargs: dict[str, Any]) -> bool:
    parts.extend(kwargs)
    return _add(parts, kwargs.values())


def _add(parts: list[Any], arguments: Iterable[Any]) -> bool:
    """Add what tells arguments apart; return whether all are known."""
    for each in arguments:
        kind = type(each)
        if kind is FakeTensor:
            if each.constant is not None:
                return False
            parts += (
                each.shape,
                each.stride(),
                each.dtype,
                each.fake_device,
            )
        elif kind in _SCALARS:
            parts += (kind, each)
        elif kind is list or kind is tuple:
            parts.append(len(each))
            if not _add(parts, each):
                return False
        else:
            return False
    return True


def _selected(func: Any, args: Any) -> int:
    """Return how many elements lie before the one of several alike things that is meant."""
    if func is not _SELECT:
        return 0
    first, dim, index = args
    place = index if index >= 0 else index + first.shape[dim]
    return int(place * first.stride(dim))


def _made(func: Any, args: Any, result: Any) -> Made | FirstArgument | None:
    first = args[0]
    if result is first:
        return FirstArgument()
    if type(result) is not FakeTensor or result.constant is not None:
        return None
    if result.layout != torch.strided or result.dtype.is_complex or first.dtype.is_complex:
        return None
    view = func.is_view or func is _UNSAFE_VIEW
    made = Made(
        view=view,
        shape=tuple(result.shape),
        stride=result.stride(),
        offset=result.storage_offset() - view * (first.storage_offset() + _selected(func, args)),
        dtype=result.dtype,
        device=result.fake_device,
        attributes={name: one for name, one in vars(result).items() if name != "fake_mode"},
    )
    storage = result.untyped_storage()
    if (storage._cdata == first.untyped_storage()._cdata) != made.view:
        return None
    if made.view:
        return made
    whole = torch.empty_strided(made.shape, made.stride, dtype=made.dtype, device="meta")
    alike = made.offset == 0 and storage.nbytes() == whole.untyped_storage().nbytes()
    return made if alike else None
