"""Reads a printed formula back: sums, products and quotients of numbers that have words behind
them, with the larger or the largest of several in parentheses."""

import re

NUMBER = re.compile(r"(?<![\w.,-])\d[\d,]*(?![\w.-])")
TOKEN = re.compile(r" x | / | \+ |; |the larg(?:er|est) of \(|\(|\)")


def evaluate(formula: str) -> int:
    """Return the number a formula comes to; each line may begin with a name and a colon."""
    lines = formula.split("\n+ ")
    return sum(_Reader(line.partition(": ")[2] or line).whole() for line in lines)


class _Reader:
    """One expression, read from left to right."""

    def __init__(self, text: str) -> None:
        self._tokens: list[str] = []
        place = 0
        for found in TOKEN.finditer(text):
            self._tokens += [text[place : found.start()], found.group().strip()]
            place = found.end()
        self._tokens = [each for each in (*self._tokens, text[place:]) if each.strip()]

    def whole(self) -> int:
        value = self._sum()
        assert not self._tokens, self._tokens
        return value

    def _next_is(self, *tokens: str) -> bool:
        return bool(self._tokens) and self._tokens[0] in tokens

    def _sum(self) -> int:
        value = self._product()
        while self._next_is("+"):
            self._tokens.pop(0)
            value += self._product()
        return value

    def _product(self) -> int:
        value = self._factor()
        while self._next_is("x", "/"):
            if self._tokens.pop(0) == "x":
                value *= self._factor()
                continue
            value, rest = divmod(value, self._factor())
            assert not rest
        return value

    def _factor(self) -> int:
        token = self._tokens.pop(0)
        if token == "(":
            return self._closed([self._sum()])
        if token.startswith("the larg"):
            values = [self._sum()]
            while self._next_is(";"):
                self._tokens.pop(0)
                values.append(self._sum())
            assert len(values) == (2 if "larger" in token else len(values))
            return self._closed(values)
        (number,) = NUMBER.findall(token)
        return int(number.replace(",", ""))

    def _closed(self, values: list[int]) -> int:
        assert self._tokens.pop(0) == ")"
        return max(values)
