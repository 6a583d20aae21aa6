"""Counts of what became of the records, shown and reported after they are prepared."""

from dataclasses import asdict, dataclass, field
from typing import Any

from planner.base.phrases import Joined, Phrase
from planner.datasets.token_lengths import QUANTILES, TokenLengths


@dataclass(slots=True)
class DataSummary:
    """Counts of records and tokens. Tokens are those trained on in one epoch."""

    formats: dict[str, str] = field(default_factory=dict)
    """Format of each source."""
    num_files_left_out: int = 0
    """Files of folders that hold other splits."""
    num_records: int = 0
    """Records read, bad ones too."""
    num_skipped: int = 0
    skipped: list[str] = field(default_factory=list)
    """Errors of the first bad records."""
    unlearnable: dict[str, int] = field(default_factory=dict)
    """Numbers of skipped records that the template or tokenizer cannot represent, by reason."""
    num_samples: int = 0
    """Number of texts to train on, repeated by the weights."""
    num_validation: int = 0
    num_tokens: int = 0
    num_answer_tokens: int = 0
    """Tokens that the loss counts."""
    num_truncated: int = 0
    num_tokens_lost: int = 0
    num_answer_tokens_lost: int = 0
    num_dropped: int = 0
    """Samples whose first answer begins beyond the sequence length."""
    num_with_control_tokens: int = 0
    """Records with control tokens in what is said."""
    new_stops: dict[str, int] = field(default_factory=dict)
    """End marks learnt at which the model's generation settings do not stop, with their ids."""
    num_rows: int = 0
    """Sequences of an epoch: samples, or rows that they are packed in."""
    length_quantiles: dict[str, int] = field(default_factory=dict)
    """Quantiles of the lengths of whole samples."""
    plain_template: bool = False
    """Whether the tokenizer has no chat template of its own."""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def count_lengths(self, lengths: TokenLengths, sequence_length: int) -> None:
        """Set the counts of what a sequence length cuts and leaves out, as ``plan`` has them."""
        self.num_dropped = lengths.num_dropped(sequence_length)
        self.num_truncated = lengths.num_truncated(sequence_length)
        self.num_tokens_lost = lengths.tokens_lost(sequence_length)
        kept = lengths.num_records > self.num_dropped
        self.num_tokens = lengths.cut(sequence_length).num_tokens if kept else 0
        self.length_quantiles = quantiles(lengths)


def quantiles(lengths: TokenLengths) -> dict[str, int]:
    """
    >>> quantiles(TokenLengths({10: 99, 500: 1}))
    {'50 %': 10, '90 %': 10, '99 %': 10, '100 %': 500}
    """
    return {f"{share:.0%}".replace("%", " %"): lengths.quantile(share) for share in QUANTILES}


def describe(summary: DataSummary, sequence_length: int) -> list[str]:
    """Return lines for the screen: one, and one for each thing that a person should know."""
    sources = ", ".join(f"{name} ({form})" for name, form in summary.formats.items())
    lines = [
        Phrase(
            "data: {sources}: {count}, {num_tokens:,} tokens, {num_answer_tokens:,} of "
            "them in the loss",
            sources=sources,
            count=_samples(summary.num_samples),
            num_tokens=summary.num_tokens,
            num_answer_tokens=summary.num_answer_tokens,
        ),
        Phrase("data: tokens per sample: {quantile_text}", quantile_text=_quantile_text(summary)),
    ]
    if summary.num_files_left_out:
        lines.append(
            Phrase(
                "data: {number:,} {number[file|files]} of other splits left out (data.split says "
                "which is read)",
                number=summary.num_files_left_out,
            )
        )
    if summary.num_validation:
        lines.append(
            Phrase("data: kept for validation: {count}", count=_samples(summary.num_validation))
        )
    if summary.num_truncated:
        lines.append(
            Phrase(
                "data: {count} cut to {sequence_length:,} tokens: {num_tokens_lost:,} "
                "{num_tokens_lost[token|tokens]} lost, {num_answer_tokens_lost:,} of them in the "
                "loss",
                count=_samples(summary.num_truncated),
                sequence_length=sequence_length,
                num_tokens_lost=summary.num_tokens_lost,
                num_answer_tokens_lost=summary.num_answer_tokens_lost,
            )
        )
    if summary.num_dropped:
        lines.append(
            Phrase(
                "data: {count} left out (answer beyond the sequence length)",
                count=_samples(summary.num_dropped),
            )
        )
    if summary.num_rows != summary.num_samples:
        filled = summary.num_tokens / (summary.num_rows * sequence_length)
        lines.append(
            Phrase(
                "data: packed into {num_rows:,} {num_rows[sequence|sequences]}, {filled:.0%} "
                "full; samples in one do not see each other",
                num_rows=summary.num_rows,
                filled=filled,
            )
        )
    if summary.num_skipped:
        lines.append(
            Phrase(
                "data: {number:,} bad {number[record|records]} skipped; the first: {skipped}",
                number=summary.num_skipped,
                skipped=summary.skipped[0],
            )
        )
    lines += [
        Phrase(
            "data: {count} of those cannot be learnt: {reason}",
            count=_records(count),
            reason=Phrase(reason),
        )
        for reason, count in summary.unlearnable.items()
    ]
    return lines + _template_lines(summary)


def _quantile_text(summary: DataSummary) -> str:
    names = {
        "50 %": Phrase("half have at most"),
        "90 %": "90 %",
        "99 %": "99 %",
        "100 %": Phrase("longest"),
    }
    return Joined(
        ", ",
        (
            Phrase("{share} {tokens:,}", share=names[share], tokens=tokens)
            for share, tokens in summary.length_quantiles.items()
        ),
    )


def _samples(number: int) -> str:
    """
    >>> _samples(1), _samples(1200)
    ('1 sample', '1,200 samples')
    """
    return Phrase("{number:,} {number[sample|samples]}", number=number)


def _records(number: int) -> str:
    return Phrase("{number:,} {number[record|records]}", number=number)


def _template_lines(summary: DataSummary) -> list[str]:
    lines: list[str] = []
    if summary.plain_template:
        lines.append(Phrase("data: the tokenizer has no chat template: plain headings are used"))
    if summary.num_with_control_tokens:
        lines.append(
            Phrase(
                "data: {count} with control tokens in the text: they are read as such, as at "
                "inference",
                count=_records(summary.num_with_control_tokens),
            )
        )
    if summary.new_stops:
        lines.append(
            Phrase(
                "data: answers end with {new_stops}, at which the model's generation "
                "settings do not stop: those saved with the result do (for an adapter give "
                "generate() eos_token_id={ids}, or merge it)",
                new_stops=" or ".join(summary.new_stops),
                ids=list(summary.new_stops.values()),
            )
        )
    return lines
