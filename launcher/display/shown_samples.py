"""Samples as they are learnt, shown before training: what the loss counts, and what it does not."""

from collections.abc import Iterator, Sequence
from itertools import groupby, islice
from typing import Any, NamedTuple, TextIO

from rich.text import Text

from launcher.data.tables import training_table
from launcher.data.tokenization import IGNORED
from launcher.display.console import console_on
from planner.base.phrases import Joined, Phrase, spoken
from planner.base.printable import print_text, shown

LEARNT_BEGINS, LEARNT_ENDS = ">>>", "<<<"
"""Marks around what is learnt, if there are no colours."""
LEARNT_STYLE, READ_STYLE = "green", "dim"
LONGEST_PART = 600
"""Characters of a part, of which the middle is left out if it is longer."""
MOST_PARTS = 16
"""Number of parts of a sample, of which the middle ones are left out if there are more."""


class Part(NamedTuple):
    """A run of tokens that are learnt, or of tokens that are not."""

    text: str
    is_learnt: bool


def show_samples(folder: str, tokenizer: Any, number: int, screen: TextIO) -> None:
    """Print the first samples of a prepared data set."""
    console = console_on(screen)
    coloured = console.is_terminal and not console.no_color
    for index, (ids, labels) in enumerate(islice(samples(folder), number), start=1):
        parts = shortened(list(parts_of(ids, labels, tokenizer)))
        if coloured:
            console.print(
                Text(
                    spoken(
                        Phrase("data: sample {index}; the loss counts what is green", index=index)
                    )
                ),
                soft_wrap=True,
            )
            console.print(_in_colours(parts), soft_wrap=True)
        else:
            marks = Joined(" and ", [LEARNT_BEGINS, LEARNT_ENDS])
            print_text(
                Phrase(
                    "data: sample {index}; the loss counts what is between {marks}",
                    index=index,
                    marks=marks,
                ),
                file=screen,
            )
            print_text(_with_marks(parts), file=screen)


def samples(folder: str) -> Iterator[tuple[list[int], list[int]]]:
    """Yield token ids and labels of every sample, also from packed rows."""
    for row in training_table(folder):
        begin = 0
        for length in row.get("seq_lengths") or [len(row["input_ids"])]:
            end = begin + length
            yield row["input_ids"][begin:end], row["labels"][begin:end]
            begin = end


def parts_of(ids: Sequence[int], labels: Sequence[int], tokenizer: Any) -> Iterator[Part]:
    """Yield the text of runs of tokens, decoded with the tokens before them."""
    end, before = 0, ""
    for is_learnt, run in groupby(labels, key=lambda label: label != IGNORED):
        end += len(list(run))
        text: str = tokenizer.decode(list(ids[:end]), clean_up_tokenization_spaces=False)
        yield Part(shown(text[len(before) :]), is_learnt)
        before = text


def shortened(parts: Sequence[Part]) -> list[Part]:
    """Return the parts without the middle ones of many, and without the middle of long ones."""
    half = MOST_PARTS // 2
    if len(parts) > MOST_PARTS:
        left_out = Part(f" [... {len(parts) - 2 * half:,} parts ...] ", is_learnt=False)
        parts = [*parts[:half], left_out, *parts[-half:]]
    return [part._replace(text=_without_middle(part.text)) for part in parts]


def _without_middle(text: str) -> str:
    if len(text) <= LONGEST_PART:
        return text
    half = LONGEST_PART // 2
    return f"{text[:half]} [... {len(text) - 2 * half:,} characters ...] {text[-half:]}"


def _in_colours(parts: Sequence[Part]) -> Text:
    styles = {True: LEARNT_STYLE, False: READ_STYLE}
    return Text.assemble(*((text, styles[is_learnt]) for text, is_learnt in parts))


def _with_marks(parts: Sequence[Part]) -> str:
    return "".join(
        f"{LEARNT_BEGINS}{text}{LEARNT_ENDS}" if is_learnt else text for text, is_learnt in parts
    )
