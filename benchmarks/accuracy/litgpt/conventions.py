"""How LitGPT trained when each of its tables was measured, declared as data, never fitted."""

from functools import cache
from pathlib import Path

from msgspec import field

from benchmarks.accuracy.litgpt.weights import Attention
from planner.base.strict_yaml import Spec, read_spec

DIRECTORY = Path(__file__).parent / "sources"


class Launch(Spec):
    """What the source's own configuration file of a run says and its table does not."""

    devices: int = 1
    """Several mean FSDP, with every block checkpointed."""
    accumulates: bool = True
    """Whether a step of the optimizer takes several micro-batches."""


class Conventions(Spec):
    """One table of LitGPT's, with where its conventions were seen."""

    name: str
    """Prefix of the ids of its rows."""
    seen_in: str
    models: dict[str, str]
    """The table's name of a model to LitGPT's own."""
    norm_scaled_in_fp32: bool
    longest_repeats: bool
    """Samples of the longest length come all through the run, also one after the other, when
    gradients and moments are there; otherwise only the first micro-batch has it."""
    attention: Attention
    """Kernel of scaled_dot_product_attention."""
    attention_of: dict[str, Attention] = field(default_factory=dict)
    """By model, where it is another."""
    launches: dict[str, Launch] = field(default_factory=dict)
    """By row."""
    aside: dict[str, str] = field(default_factory=dict)
    """Rows that the source does not specify in full, and what is missing."""


@cache
def sources() -> dict[str, Conventions]:
    """Every table by its name."""
    found = [read_spec(Conventions, path) for path in sorted(DIRECTORY.glob("*.yaml"))]
    return {source.name: source for source in found}
