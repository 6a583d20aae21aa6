"""The derivation of every cell of the memory report: a formula with its numbers put in.

Cells of one part that have the same formula in several phases are one row.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from planner.base.phrases import Joined
from planner.memory.buffers import PART_OF, Buffer
from planner.plan.vocabulary import PARTS, PHASES, Part, Phase, Strategy
from planner.report.explain.device_terms import DEVICE_TERMS, Terms, states_source
from planner.report.explain.explained import Explained
from planner.report.explain.fsdp_terms import FSDP_TERMS
from planner.report.explain.state_terms import optimizer_states
from planner.report.explain.terms import Term
from planner.report.explain.zero_1_2_terms import FLAT_TERMS
from planner.report.explain.zero_3_terms import SLICED_TERMS

TERMS: dict[Strategy, Mapping[Buffer, Terms]] = {
    "single": DEVICE_TERMS,
    "ddp": DEVICE_TERMS,
    "zero1": FLAT_TERMS,
    "zero2": FLAT_TERMS,
    "zero3": SLICED_TERMS,
    "fsdp": FSDP_TERMS,
    "tensor": DEVICE_TERMS,
}
"""The terms of each buffer, by strategy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Formula:
    """One part of the memory report, in the phases where it is made of the same terms."""

    part: Part
    phases: tuple[Phase, ...]
    terms: tuple[Term, ...]

    @property
    def num_bytes(self) -> int:
        return sum(term.num_bytes for term in self.terms)

    @property
    def text(self) -> str:
        """A line per term."""
        return Joined("\n+ ", (term.text for term in self.terms))

    @property
    def sources(self) -> tuple[str, ...]:
        """The source of each term, once."""
        return tuple(dict.fromkeys(term.source for term in self.terms))


def formulas(plan: Explained) -> list[Formula]:
    """Return the formulas of every part, in the report's order."""
    phases: dict[tuple[Part, tuple[Term, ...]], list[Phase]] = {}
    for phase in PHASES:
        for part, terms in _cells(plan, phase).items():
            phases.setdefault((part, terms), []).append(phase)
    rows = [
        Formula(part=part, phases=tuple(where), terms=terms)
        for (part, terms), where in phases.items()
    ]
    return sorted(rows, key=lambda row: PARTS.index(row.part))


def _cells(plan: Explained, phase: Phase) -> dict[Part, tuple[Term, ...]]:
    """Return the terms of each part in one phase."""
    known = TERMS[plan.layout.strategy]
    cells: dict[Part, tuple[Term, ...]] = {}
    for buffer in plan.buffers(phase):
        part = PART_OF[buffer]
        terms = tuple(term for term in known[buffer](plan, phase) if term.num_bytes)
        cells[part] = (*cells.get(part, ()), *terms)
    return cells


def managed_memory(plan: Explained) -> Term | None:
    """Return the optimizer states in managed memory, which no part counts; None without any."""
    if plan.layout.offload != "none" or plan.device != "cuda":
        return None
    amount = optimizer_states(
        plan.optimizer, plan.handed, width=plan.kinds.home, device="cuda", paged=True
    )
    if not amount.value:
        return None
    return Term(name=plan.optimizer.name, bytes=amount, source=states_source(plan))
