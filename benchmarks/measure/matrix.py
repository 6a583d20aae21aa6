"""The rows to measure, from a file of groups, each the product of its lists, in the order of the
file."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from planner.base.strict_yaml import Spec, read_spec
from planner.plan.vocabulary import Loss, Method, Offload, Strategy, data_ranks

AXES = (
    "model",
    "method",
    "micro_batch_size",
    "sequence_length",
    "activation_checkpointing",
    "loss",
    "attention",
    "optimizer",
    "strategy",
    "offload",
    "packing",
)
"""Lists of a group, of which the last varies fastest."""
USUAL = {
    "attention": "sdpa",
    "optimizer": "adamw_torch_fused",
    "strategy": "single",
    "offload": "none",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One run. A setting that no plan has is accepted here and refused when the row is planned."""

    model: str
    num_layers: int | None
    """Number of the model's layers to keep, or None for all."""
    method: Method
    micro_batch_size: int
    gradient_accumulation_steps: int
    sequence_length: int
    activation_checkpointing: bool
    loss: Loss
    attention: str
    optimizer: str
    strategy: Strategy
    offload: Offload
    world_size: int = 1
    packing: bool = False
    num_nodes: int = 1
    copies: int = 1
    """How often the whole of the parameters exists over all ranks that shard them."""
    sequence_parallel_size: int = 1
    """Number of ranks that share one sequence."""

    @property
    def global_batch_size(self) -> int:
        """Samples per optimizer step over all ranks."""
        ranks = data_ranks(self.strategy, self.world_size, self.sequence_parallel_size)
        return self.micro_batch_size * self.gradient_accumulation_steps * ranks

    @property
    def name(self) -> str:
        """Unique name that is fit for a file, without settings that have their usual value."""
        layers = "" if self.num_layers is None else f"-{self.num_layers}-layers"
        steps = self.gradient_accumulation_steps
        accumulated = "" if steps == 1 else f"x{steps}"
        parts = [
            f"{self.model}{layers}",
            self.method,
            f"{self.micro_batch_size}{accumulated}x{self.sequence_length}",
            "checkpointing" if self.activation_checkpointing else "whole",
            self.loss,
            *(["packed"] if self.packing else []),
            *(word for axis, usual in USUAL.items() if (word := getattr(self, axis)) != usual),
            *(
                f"{count}-{word}"
                for count, word in (
                    (self.world_size, "ranks"),
                    (self.num_nodes, "nodes"),
                    (self.copies, "copies"),
                    (self.sequence_parallel_size, "of-a-sequence"),
                )
                if count > 1
            ),
        ]
        return "--".join(parts)


class Group(Spec):
    """A group of rows: every combination of its lists."""

    about: str
    """Purpose of the group: what can be learnt from it."""
    model: tuple[str, ...]
    num_layers: int | None = None
    method: tuple[Method, ...]
    micro_batch_size: tuple[int, ...] = (1,)
    gradient_accumulation_steps: int = 1
    sequence_length: tuple[int, ...] = (1024,)
    activation_checkpointing: tuple[bool, ...] = (True,)
    loss: tuple[Loss, ...] = ("fused",)
    attention: tuple[str, ...] = (USUAL["attention"],)
    optimizer: tuple[str, ...] = (USUAL["optimizer"],)
    strategy: tuple[Strategy, ...] = ("single",)
    offload: tuple[Offload, ...] = ("none",)
    packing: tuple[bool, ...] = (False,)
    world_size: int = 1

    def rows(self) -> Iterator[Row]:
        fixed: dict[str, Any] = {
            "num_layers": self.num_layers,
            "gradient_accumulation_steps": self.gradient_accumulation_steps,
            "world_size": self.world_size,
        }
        for values in product(*(getattr(self, axis) for axis in AXES)):
            yield Row(**fixed, **dict(zip(AXES, values, strict=True)))


class Matrix(Spec):
    groups: tuple[Group, ...]


def read_matrix(path: Path) -> list[Row]:
    """Return every row once, at its first place."""
    groups = read_spec(Matrix, path).groups
    return list(dict.fromkeys(row for group in groups for row in group.rows()))
