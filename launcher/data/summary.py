"""Counts of what became of the records, shown and reported after they are prepared."""

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

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


def quantiles(counts: Counter[int]) -> dict[str, int]:
    """
    >>> quantiles(Counter({10: 99, 500: 1}))
    {'50 %': 10, '90 %': 10, '99 %': 10, '100 %': 500}
    """
    lengths = TokenLengths(counts)
    return {f"{share:.0%}".replace("%", " %"): lengths.quantile(share) for share in QUANTILES}


def describe(summary: DataSummary, sequence_length: int) -> list[str]:
    """Return lines for the screen: one, and one for each thing that a person should know."""
    sources = ", ".join(f"{name} ({form})" for name, form in summary.formats.items())
    lines = [
        f"data: {sources}: {_count(summary.num_samples, 'sample')}, {summary.num_tokens:,} tokens, "
        f"{summary.num_answer_tokens:,} of them in the loss",
        f"data: tokens per sample: {_quantile_text(summary)}",
    ]
    if summary.num_files_left_out:
        lines.append(
            f"data: {_count(summary.num_files_left_out, 'file')} of other splits left out "
            "(data.split says which is read)"
        )
    if summary.num_validation:
        lines.append(f"data: kept for validation: {_count(summary.num_validation, 'sample')}")
    if summary.num_truncated:
        lines.append(
            f"data: {_count(summary.num_truncated, 'sample')} cut to {sequence_length:,} tokens: "
            f"{summary.num_tokens_lost:,} tokens lost, "
            f"{summary.num_answer_tokens_lost:,} of them in the loss"
        )
    if summary.num_dropped:
        lines.append(
            f"data: {_count(summary.num_dropped, 'sample')} left out "
            "(answer beyond the sequence length)"
        )
    if summary.num_rows != summary.num_samples:
        filled = summary.num_tokens / (summary.num_rows * sequence_length)
        lines.append(
            f"data: packed into {summary.num_rows:,} sequences, {filled:.0%} full; "
            "samples in one do not see each other"
        )
    if summary.num_skipped:
        lines.append(
            f"data: {_count(summary.num_skipped, 'bad record')} skipped; "
            f"the first: {summary.skipped[0]}"
        )
    lines += [
        f"data: {_count(count, 'record')} of those cannot be learnt: {reason}"
        for reason, count in summary.unlearnable.items()
    ]
    return lines + _template_lines(summary)


def _quantile_text(summary: DataSummary) -> str:
    names = {"50 %": "half have at most", "90 %": "90 %", "99 %": "99 %", "100 %": "longest"}
    return ", ".join(
        f"{names[share]} {tokens:,}" for share, tokens in summary.length_quantiles.items()
    )


def _count(number: int, noun: str) -> str:
    """
    >>> _count(1, "sample"), _count(1200, "sample")
    ('1 sample', '1,200 samples')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _template_lines(summary: DataSummary) -> list[str]:
    lines = []
    if summary.plain_template:
        lines.append("data: the tokenizer has no chat template: plain headings are used")
    if summary.num_with_control_tokens:
        lines.append(
            f"data: {_count(summary.num_with_control_tokens, 'record')} with control tokens in the "
            "text: they are read as such, as at inference"
        )
    if summary.new_stops:
        lines.append(
            f"data: answers end with {' or '.join(summary.new_stops)}, at which the model's "
            "generation settings do not stop: those saved with the result do (for an adapter give "
            f"generate() eos_token_id={list(summary.new_stops.values())}, or merge it)"
        )
    return lines
