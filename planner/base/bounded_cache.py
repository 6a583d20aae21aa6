"""Caches of values that follow from a request: each holds a bounded number of them.

A process that plans for days must not grow, so that there are three ways to keep a result:

* what is read from a file of presets/ is read once and kept (``functools.cache``): there are no
  more such results than files;
* what is computed from other values is kept by :func:`bounded_cache`;
* what is computed from a workload is kept by the settings that it reads
  (planner/workload/settings_cache.py), in as many places.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import ParamSpec, TypeVar, cast

P = ParamSpec("P")
R = TypeVar("R")

MOST_KEPT = 256
"""Number of results that one cache holds; the one that was used longest ago makes room. A request
over 10,080 candidates needs 168 of the cache that holds most."""


def bounded_cache(function: Callable[P, R]) -> Callable[P, R]:
    """Return ``function`` with its latest results kept by the values of its arguments."""
    return cast(Callable[P, R], lru_cache(MOST_KEPT)(function))
