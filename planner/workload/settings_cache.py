"""Results of a workload, kept by the settings that they depend on.

Many workloads of a search differ in settings that a computation does not read: the states of a
model are the same for every attention, its passes for every optimizer. A computation therefore
declares what it reads, ``@cached_by_settings(*PASS, "sequence_length")``, is given a workload that
has those settings and no others, and is run once for all workloads that agree in them.
"""

from collections.abc import Callable
from functools import cache, lru_cache, update_wrapper
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, cast

from msgspec import defstruct, structs

from planner.base.bounded_cache import MOST_KEPT, bounded_cache
from planner.workload.workload import Workload

P = ParamSpec("P")
R = TypeVar("R")

TRAINED = ("method", "adapter", "quantization")
"""Settings that decide which parameters a model has and which of them train."""
OUTER_PASS = (*TRAINED, "attention", "loss")
"""Settings that decide the tensors of a forward pass outside of its layers."""
PASS = (*OUTER_PASS, "tiled_mlp")
"""Settings that decide the tensors and kernels of a forward pass, whose size is not a setting."""
TRAINING_PASS = (*PASS, "activation_offloading")
"""The same for a micro-batch, some layers of which are recomputed."""


@cache  # one for each declaration in the source
def _settings_type(names: tuple[str, ...]) -> Callable[..., Any]:
    return defstruct("DeclaredSettings", names, frozen=True, cache_hash=True)


@bounded_cache
def with_only(workload: Workload, names: tuple[str, ...]) -> Workload:
    """Return the workload with the named settings alone; to read another raises AttributeError."""
    values = [getattr(workload.settings, name) for name in names]
    return structs.replace(workload, settings=_settings_type(names)(*values))


class CachedBySettings(Generic[P, R]):
    """A function of a workload that runs once for each combination of what it reads."""

    __name__: str

    def __init__(
        self, function: Callable[Concatenate[Workload, P], R], reads: tuple[str, ...]
    ) -> None:
        self.function = function
        self.reads = reads
        """Names of the settings that the function, and all that it calls, may read."""
        results = lru_cache(MOST_KEPT)(function)
        self._result = cast(Callable[Concatenate[Workload, P], R], results)
        self.cache_clear = results.cache_clear
        self.cache_info = results.cache_info
        update_wrapper(self, function)

    def __call__(self, workload: Workload, *args: P.args, **kwargs: P.kwargs) -> R:
        return self._result(with_only(workload, self.reads), *args, **kwargs)


def cached_by_settings(
    *reads: str,
) -> Callable[[Callable[Concatenate[Workload, P], R]], CachedBySettings[P, R]]:
    """Return a decorator for a function whose first argument is a workload of which it reads the
    model, the compute precision and these settings."""
    return lambda function: CachedBySettings(function, reads)
