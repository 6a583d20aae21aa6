"""Arithmetic that carries its words: a value, and the text that shows it, from the same numbers.

A printed formula can be evaluated: ``x``, ``/`` and ``+`` stand between spaces, each factor has
exactly one number, and the words after it say what is counted
(tests/planner/report/explain/arithmetic.py reads them back).
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import prod
from typing import ClassVar

from planner.base.phrases import Joined, Phrase


class Expression(ABC):
    """A number with the words that say where it comes from."""

    binds: ClassVar[int] = 2
    """How tightly its outermost operator binds: 0 adds, 1 multiplies, 2 stands alone."""

    @property
    @abstractmethod
    def value(self) -> int:
        """Value that the text evaluates to."""

    @property
    @abstractmethod
    def text(self) -> str:
        """The formula with its numbers put in."""

    def __add__(self, other: "Expression") -> "Expression":
        return total(self, other)

    def __mul__(self, other: "Expression") -> "Expression":
        return Product((self, other))

    def __truediv__(self, other: "Expression") -> "Expression":
        return Quotient(self, other)

    def within(self, binds: int) -> str:
        """Return the text as an operand, in parentheses where the operator binds more tightly."""
        return self.text if self.binds >= binds else Joined("", ["(", self.text, ")"])


@dataclass(frozen=True, slots=True)
class Count(Expression):
    """A counted number of something."""

    number: int
    words: str
    """Words for what is counted."""
    leads: bool = False
    """Whether the words stand before the number."""

    @property
    def value(self) -> int:
        return self.number

    @property
    def text(self) -> str:
        if self.leads:
            return Phrase("{words} {number:,}", words=self.words, number=self.number)
        return Phrase("{number:,} {words}", number=self.number, words=self.words)


@dataclass(frozen=True, slots=True)
class Product(Expression):
    """Factors that are multiplied."""

    binds: ClassVar[int] = 1
    factors: tuple[Expression, ...]

    @property
    def value(self) -> int:
        return prod(factor.value for factor in self.factors)

    @property
    def text(self) -> str:
        return Joined(" x ", (factor.within(1) for factor in self.factors))


@dataclass(frozen=True, slots=True)
class Quotient(Expression):
    """A division without a remainder: what is divided is padded first."""

    binds: ClassVar[int] = 1
    dividend: Expression
    divisor: Expression

    @property
    def value(self) -> int:
        quotient, remainder = divmod(self.dividend.value, self.divisor.value)
        assert not remainder, self.text
        return quotient

    @property
    def text(self) -> str:
        return Joined(" / ", [self.dividend.within(1), self.divisor.within(2)])


@dataclass(frozen=True, slots=True)
class Sum(Expression):
    """Addends, none of which is zero."""

    binds: ClassVar[int] = 0
    addends: tuple[Expression, ...]

    @property
    def value(self) -> int:
        return sum(addend.value for addend in self.addends)

    @property
    def text(self) -> str:
        return Joined(" + ", (addend.within(0) for addend in self.addends))


@dataclass(frozen=True, slots=True)
class Largest(Expression):
    """The largest of several amounts that are not there at the same time."""

    choices: tuple[Expression, ...]

    @property
    def value(self) -> int:
        return max(choice.value for choice in self.choices)

    @property
    def text(self) -> str:
        choices = Joined("; ", (choice.text for choice in self.choices))
        if len(self.choices) == 2:
            return Phrase("the larger of ({choices})", choices=choices)
        return Phrase("the largest of ({choices})", choices=choices)


def bytes_of(number: int) -> Count:
    """Return so many bytes."""
    return Count(number, Phrase("byte") if number == 1 else Phrase("bytes"))


def total(*addends: Expression) -> Expression:
    """Return the sum of the addends that are not zero."""
    there = [
        part
        for addend in addends
        for part in (addend.addends if isinstance(addend, Sum) else (addend,))
        if part.value
    ]
    if not there:
        return bytes_of(0)
    return there[0] if len(there) == 1 else Sum(tuple(there))


def largest(*choices: Expression) -> Expression:
    """Return the largest of the choices that are not zero."""
    there = tuple(choice for choice in choices if choice.value)
    if not there:
        return bytes_of(0)
    return there[0] if len(there) == 1 else Largest(there)


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """One buffer of a cell of the memory report: its name, how it is counted, and why so."""

    name: str
    bytes: Expression
    source: str
    """The paper, or the library's file, that it is counted by, and the module that counts it."""

    @property
    def num_bytes(self) -> int:
        return self.bytes.value

    @property
    def text(self) -> str:
        return Joined(": ", [self.name, self.bytes.text])
