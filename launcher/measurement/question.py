"""What the process that measures is asked."""

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """The devices to measure, and what is needed for it."""

    name: str
    """Name of the device, for people."""
    device: Literal["cuda", "cpu"]
    ranks: int
    """Number of ranks that measure at once: one per card, or so many that share the CPU."""
    tiny_steps: list[dict[str, Any]]
    """Plans of tiny models, each with the number of its kernels."""
    folder: str
    """Folder on the disk that is measured."""
    has_bf16: bool
