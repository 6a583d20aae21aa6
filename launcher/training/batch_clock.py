"""Clock of the batches: how long training waits for them, and how long the longest is."""

import time
from collections.abc import Iterator
from typing import Any


class BatchClock:
    """A clock that runs while training waits for its data loader."""

    def __init__(self) -> None:
        self.seconds = 0.0
        """Seconds in the data loader since the last restart."""
        self.longest = 0
        """Tokens of a row, padding included, in the longest batch of the whole run."""
        self._tokens = self._batches = 0

    def restart(self) -> None:
        """Set the seconds to zero."""
        self.seconds = 0.0

    def note_length(self, num_tokens: int) -> None:
        """Note how many tokens a row of a batch has, padding included."""
        self.longest = max(self.longest, num_tokens)
        self._tokens += num_tokens
        self._batches += 1

    @property
    def mean_tokens(self) -> int:
        """Mean over all batches of the tokens of a row, padding included."""
        return round(self._tokens / max(1, self._batches))

    def timed(self, batches: Iterator[Any]) -> Iterator[Any]:
        """Yield the batches of one step, and count the seconds until they come."""
        while True:
            began = time.perf_counter()
            try:
                batch = next(batches)
            except StopIteration:
                return
            finally:
                self.seconds += time.perf_counter() - began
            yield batch
