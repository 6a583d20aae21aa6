"""A plan on a real data set: what is cut, padded and packed, and how long a run takes. No function
has side effects."""

from math import ceil
from typing import NamedTuple

from msgspec import Struct, structs

from planner.base.units import ceil_div
from planner.datasets.token_lengths import TokenLengths
from planner.datasets.training_data import KnownData
from planner.recipes.load_recipe import load_recipe
from planner.search.candidate import Candidate
from planner.workload.settings import TrainingSettings

WORTH_PACKING = 1.25
"""How many times fewer tokens packing must compute to be advised: a fifth of the work saved."""


class Epochs(Struct, frozen=True):
    """Counts of one epoch, but for the steps and the time, which are those of the run."""

    num_rows: int
    """Number of sequences: samples, or the rows they are packed in."""
    num_steps: int
    sequence_length: int
    num_truncated: int
    tokens_lost: int
    num_dropped: int
    """Samples that are left out since their first answer begins beyond the sequence length."""
    padding_share: float
    """Share of the computed tokens that are padding."""
    run_time_s: float | None
    packed: bool
    packed_length: int
    packing_gain: float
    """How many times fewer tokens packing computes at this micro-batch."""

    @property
    def packing_pays(self) -> bool:
        return not self.packed and self.packing_gain >= WORTH_PACKING


class _Rows(NamedTuple):
    """The sequences that a run computes."""

    num_rows: int
    tokens: float
    """Tokens per sequence, padding counted."""
    num_steps: int


def _rows(chosen: Candidate, data: KnownData) -> _Rows:
    settings, layout = chosen.workload.settings, chosen.layout
    length, lengths = settings.sequence_length, data.lengths.cut(settings.sequence_length)
    count = data.num_trained(length)
    if settings.packing:
        count, tokens = packed_rows(lengths, count, length), float(length)
    else:
        tokens = lengths.padded_length(layout.micro_batch_size)
    return _Rows(count, tokens, steps(count, layout.global_batch_size, settings.epochs))


def epochs_of(chosen: Candidate, data: KnownData) -> Epochs:
    """Return how a plan cuts, pads and packs data of known lengths, and how long it takes."""
    settings = chosen.workload.settings
    length, packed = settings.sequence_length, chosen.workload.packing
    positions = chosen.workload.model.max_position_embeddings
    packed_length = packed_length_of(settings, data, positions)
    lengths = data.lengths.cut(length)
    rows, row_tokens, num_steps = _rows(chosen, data)
    num_tokens = data.num_trained(length) * lengths.num_tokens / lengths.num_records
    in_longer = data.lengths.cut(packed_length)
    packed_count = packed_rows(in_longer, data.num_trained(packed_length), packed_length)
    step_s = _of_real_length(chosen, row_tokens).step_time_s
    return Epochs(
        num_rows=rows,
        num_steps=num_steps,
        sequence_length=length,
        num_truncated=data.scaled(data.lengths.num_truncated(length)),
        tokens_lost=data.scaled(data.lengths.tokens_lost(length)),
        num_dropped=data.scaled(data.lengths.num_dropped(length)),
        padding_share=max(0.0, 1 - num_tokens / (rows * row_tokens)),
        run_time_s=None if step_s is None else num_steps * step_s,
        packed=packed,
        packed_length=packed_length,
        packing_gain=rows * row_tokens / (packed_count * packed_length),
    )


def packed_length_of(settings: TrainingSettings, data: KnownData, positions: int) -> int:
    """Return tokens per packed row: the method's usual length, or the samples' where longer."""
    usual = (settings if settings.packing else load_recipe(settings.method)).sequence_length
    return min(max(usual, data.lengths.fitting_length(positions)), positions)


def steps(num_rows: int, global_batch_size: int, epochs: float) -> int:
    """Return the optimizer steps of a run.

    read: transformers 5.23.0 trainer.py, set_initial_training_values.

    >>> steps(100, 16, 3)
    21
    """
    return ceil(epochs * ceil_div(num_rows, global_batch_size))


def packed_rows(lengths: TokenLengths, num_samples: int, length: int) -> int:
    """Return how many rows of ``length`` tokens the samples are packed in."""
    return ceil(num_samples / lengths.records_per_row(length))


def ranking_run_time_s(chosen: Candidate, data: KnownData) -> float:
    """Return seconds of a whole run; on a nominal card where the real one is unknown."""
    rows = _rows(chosen, data)
    return rows.num_steps * _of_real_length(chosen, rows.tokens).ranking_time_s


def _of_real_length(chosen: Candidate, row_tokens: float) -> Candidate:
    """Return the candidate at the length that micro-batches are padded to."""
    workload = chosen.workload
    padded = workload.with_settings(sequence_length=max(1, ceil(row_tokens)))
    return structs.replace(chosen, workload=padded)
