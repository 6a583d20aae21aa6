"""Conventions under which LitGPT measured each of its tables, declared as data and never fitted."""

from functools import cache
from pathlib import Path

from msgspec import field

from benchmarks.accuracy.litgpt.weights import Attention
from planner.base.strict_yaml import Spec, read_spec

DIRECTORY = Path(__file__).parent / "sources"


class Launch(Spec):
    """Settings of a run that are in the source's configuration file and not in its table."""

    devices: int = 1
    """Number of devices; several mean FSDP with every block checkpointed."""
    accumulates: bool = True
    """Whether a step of the optimizer takes several micro-batches."""


class Conventions(Spec):
    """One table of LitGPT, with where its conventions were seen."""

    name: str
    """Prefix of the ids of its rows."""
    seen_in: str
    models: dict[str, str]
    """LitGPT's name of a model by the table's name."""
    norm_scaled_in_fp32: bool
    longest_repeats: bool
    """Whether samples of the longest length occur throughout the run, also in succession, when
    gradients and moments exist; otherwise only the first micro-batch has that length."""
    attention: Attention
    """Kernel of scaled_dot_product_attention."""
    losses: dict[str, str]
    """Words of its rows for the loss by method; ``other`` for all methods that are not named."""
    optimizers: tuple[str, ...]
    """Words of its rows for AdamW, paged where weights are packed."""
    attention_of: dict[str, Attention] = field(default_factory=dict)
    """Kernel by model, where it differs."""
    launches: dict[str, Launch] = field(default_factory=dict)
    """Launches by the id of their row; all others are of one process."""
    aside: dict[str, str] = field(default_factory=dict)
    """Rows that the source does not specify in full, with what is missing."""


@cache
def sources() -> dict[str, Conventions]:
    """Return every table by its name."""
    found = [read_spec(Conventions, path) for path in sorted(DIRECTORY.glob("*.yaml"))]
    return {source.name: source for source in found}
