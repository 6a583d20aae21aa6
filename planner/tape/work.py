"""What operators tell a tape of their work, beside the tensors that they make."""

from typing import Literal

Product = Literal["product", "attention", "masked attention"]
"""``attention``: all of it in one kernel, which skips what a causal mask hides. ``masked
attention``: the same with a mask of its own, which skips nothing."""


class UncountedWork:
    """Nobody listens; :class:`planner.tape.counting_tape.CountingTape` does."""

    def multiplies(
        self,
        flops: int,
        num_bytes: int,
        width: int,
        *,
        kind: Product = "product",
        again: bool = False,
    ) -> None:
        """The next kernel multiplies: operations, bytes read and written, bytes that an element
        of its operands has; ``again`` where backward only repeats what forward did."""

    def dequantizes(self, num_bytes: int) -> None:
        """The next kernel makes a matrix from its codes: bytes read and written."""

    def passes_over(self, num_bytes: int) -> None:
        """A kernel reads and writes so many bytes, or is the product just told of, and makes no
        tensor of its own."""
