"""What operators tell a tape of their work, beside the tensors that they make."""


class UncountedWork:
    """Nobody listens; :class:`planner.kernels.CountingTape` does."""

    def multiplies(self, flops: int, num_bytes: int, width: int) -> None:
        """The next kernel is a product: operations, bytes read and written, bytes that an
        element of its operands has."""

    def dequantizes(self, num_bytes: int) -> None:
        """The next kernel makes a matrix from its codes: bytes read and written."""

    def passes_over(self, num_bytes: int) -> None:
        """A kernel reads and writes so many bytes, or is the product just told of, and makes no
        tensor of its own."""
