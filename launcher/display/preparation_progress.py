"""Progress of the preparation: a bar on a terminal, else a line every few seconds."""

import time
from types import TracebackType
from typing import TextIO

from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from launcher.display.console import console_on
from planner.base.phrases import Phrase, spoken
from planner.base.printable import print_text

SECONDS_PER_LINE = 10.0
"""Seconds between two lines that are not on a terminal."""


class PreparationProgress:
    """The display of how far the data are prepared; data that take no time show nothing."""

    def __init__(self, screen: TextIO, total_bytes: int) -> None:
        self._screen = screen
        self._total_bytes = max(1, total_bytes)
        self._bytes = 0
        self._records = 0
        self._began = self._said = time.monotonic()
        self._bar = _bar(screen) if screen.isatty() else None

    def __enter__(self) -> "PreparationProgress":
        if self._bar is not None:
            self._bar.start()
            self._task = self._bar.add_task(
                spoken(Phrase("preparing data")), total=self._total_bytes, records=""
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, num_records: int, num_bytes: int) -> None:
        """Show that so many more records, and bytes of the files, have been read."""
        self._records += num_records
        self._bytes += num_bytes
        now = time.monotonic()
        rate = self._records / max(now - self._began, 1e-6)
        records = Phrase(
            "{number:,} {number[record|records]}, {rate:,.0f}/s", number=self._records, rate=rate
        )
        if self._bar is not None:
            self._bar.update(self._task, completed=self._bytes, records=spoken(records))
        elif now - self._said >= SECONDS_PER_LINE:
            self._said = now
            share = min(1.0, self._bytes / self._total_bytes)
            print_text(
                Phrase("preparing data: {share:.0%}, {records}", share=share, records=records),
                file=self._screen,
            )


def _bar(screen: TextIO) -> Progress:
    return Progress(
        TextColumn(spoken(Phrase("preparing data"))),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[records]}"),
        TimeRemainingColumn(),
        console=console_on(screen),
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    )
