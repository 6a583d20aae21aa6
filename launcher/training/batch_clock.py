"""How long training waits for its batches, and how long the longest of them is."""

import time
from collections.abc import Iterator
from typing import Any


class BatchClock:
    def __init__(self) -> None:
        self.seconds = 0.0
        """Spent in the data loader since the last restart."""
        self.longest = 0
        """Tokens of a row, padding included, in the longest batch of the whole run."""

    def restart(self) -> None:
        self.seconds = 0.0

    def saw(self, num_tokens: int) -> None:
        self.longest = max(self.longest, num_tokens)

    def timed(self, batches: Iterator[Any]) -> Iterator[Any]:
        """The batches of one step, each with the time that it took to come."""
        while True:
            began = time.perf_counter()
            try:
                batch = next(batches)
            except StopIteration:
                return
            finally:
                self.seconds += time.perf_counter() - began
            yield batch
