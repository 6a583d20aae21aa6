"""From records to the tables that ranks train on, in one pass and in bounded memory.

Whether a record is kept for validation, and how often it is trained on, is a function of the
seed, its source and its number in it, so that the same data are always split alike.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

from jinja2 import TemplateError

from launcher.data.preparation_progress import PreparationProgress
from launcher.data.record_fields import FieldError
from launcher.data.samples import PlacedSample, SourceReader
from launcher.data.sources import FoundSource
from launcher.data.summary import DataSummary, quantiles
from launcher.data.tables import TRAIN, VALIDATION, TableWriter, read_table
from launcher.data.tokenization import IGNORED, Encoded, Rendered, encode, render
from planner.base.errors import InvalidFileError
from planner.plan.data_section import DataErrors, DataSection, LossOn
from planner.plan.schema import Plan

SAMPLES_AT_ONCE = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """Which records an epoch has, and how often."""

    validation_fraction: float
    weights: tuple[float, ...]
    """Of the sources."""
    seed: int | None
    """Nothing where nothing is drawn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All of a plan that decides the tables, beside the data and the tokenizer."""

    sequence_length: int
    packing: bool
    loss_on: LossOn
    errors: DataErrors
    shares: Shares


def shares_of(data: DataSection, seed: int) -> Shares:
    weights = tuple(source.weight for source in data.every_source)
    draws = data.validation_fraction > 0 or any(weight % 1 for weight in weights)
    return Shares(
        validation_fraction=data.validation_fraction,
        weights=weights,
        seed=seed if draws else None,
    )


def settings_of(plan: Plan) -> Settings:
    return Settings(
        sequence_length=plan.batch.sequence_length,
        packing=plan.batch.packing,
        loss_on=plan.data.loss_on,
        errors=plan.data.errors,
        shares=shares_of(plan.data, plan.training.seed),
    )


def key_content(settings: Settings, sources: Sequence[FoundSource]) -> dict[str, Any]:
    """For the cache: the settings, and how each source's fields are read."""
    reading = [
        {"format": each.format, "fields": dict(each.fields), "system": each.system}
        for each in sources
    ]
    return {"settings": asdict(settings), "reading": reading}


class DataPreparation:
    """One pass over the sources."""

    def __init__(self, settings: Settings, tokenizer: Any, progress: PreparationProgress) -> None:
        self._settings = settings
        self._tokenizer = tokenizer
        self._progress = progress
        self._lengths: Counter[int] = Counter()
        self.summary = DataSummary()

    def write(self, sources: Sequence[FoundSource], folder: Path) -> DataSummary:
        """The tables of all sources; packed where the plan says so."""
        with (
            self._progress,
            TableWriter(folder / TRAIN) as train,
            TableWriter(folder / VALIDATION) as validation,
        ):
            for index, source in enumerate(sources):
                self._read(index, source, train, validation)
        self._require_samples(sources, validation.num_rows)
        summary = self.summary
        summary.num_samples = summary.num_rows = train.num_rows
        summary.num_validation = validation.num_rows
        summary.length_quantiles = quantiles(self._lengths)
        if not validation.num_rows:
            (folder / VALIDATION).unlink()
        if self._settings.packing:
            summary.num_rows = pack(folder / TRAIN, self._settings.sequence_length)
        return summary

    def _read(
        self, index: int, source: FoundSource, train: TableWriter, validation: TableWriter
    ) -> None:
        settings, summary = self._settings, self.summary
        reader = SourceReader(source, loss_on=settings.loss_on, errors=settings.errors)
        for number, encoded in self._encoded(reader):
            held_back, copies = draw(settings.shares, index, number)
            for _ in range(copies):
                self._add(encoded, validation if held_back else train, counted=not held_back)
        summary.formats[source.name] = str(reader.format)
        summary.num_records += reader.num_records
        summary.num_skipped += reader.skipped.num_records
        summary.skipped += reader.skipped.first

    def _encoded(self, reader: SourceReader) -> Iterator[tuple[int, Encoded]]:
        """Good samples with their numbers, tokenized many at once."""
        samples, number = reader.samples(), 0
        while batch := list(islice(samples, SAMPLES_AT_ONCE)):
            rendered = [
                found
                for placed in batch
                if (found := rendered_or_refused(placed, self._tokenizer, reader))
            ]
            for encoded in encode(rendered, self._tokenizer, loss_on=self._settings.loss_on):
                yield number, encoded
                number += 1
            self._progress.advance(len(batch), sum(sample.num_bytes for sample in batch))

    def _add(self, encoded: Encoded, table: TableWriter, *, counted: bool) -> None:
        length = self._settings.sequence_length
        input_ids, labels = encoded.input_ids[:length], encoded.labels[:length]
        num_learnt = _num_learnt(labels)
        if counted:
            self._count(encoded, num_learnt)
        if num_learnt:
            table.add(input_ids, labels)

    def _count(self, encoded: Encoded, num_learnt: int) -> None:
        summary, length = self.summary, self._settings.sequence_length
        num_tokens = len(encoded.input_ids)
        self._lengths[num_tokens] += 1
        if not num_learnt:
            summary.num_dropped += 1
            return
        summary.num_tokens += min(num_tokens, length)
        summary.num_answer_tokens += num_learnt
        summary.num_open_answers += encoded.num_open_answers
        if num_tokens > length:
            summary.num_truncated += 1
            summary.num_tokens_lost += num_tokens - length
            summary.num_answer_tokens_lost += _num_learnt(encoded.labels) - num_learnt

    def _require_samples(self, sources: Sequence[FoundSource], num_validation: int) -> None:
        place = Path(", ".join(source.name for source in sources))
        if self.summary.num_tokens == 0:
            length = self._settings.sequence_length
            raise InvalidFileError(
                place,
                None,
                f"no record has an answer within {length} tokens. Raise sequence_length",
            )
        fraction = self._settings.shares.validation_fraction
        if fraction and not num_validation:
            raise InvalidFileError(
                place,
                None,
                f"data.validation_fraction {fraction:g} keeps none of its "
                f"{self.summary.num_records} records: raise it, or set it to 0",
            )


def rendered_or_refused(
    placed: PlacedSample, tokenizer: Any, reader: SourceReader
) -> Rendered | None:
    """The sample's text; nothing where the template refuses it and bad records are skipped."""
    try:
        return render(placed.sample, tokenizer)
    except (TemplateError, TypeError, ValueError) as error:
        reader.refuse(placed.place, f"the model's chat template refuses it ({error})")
    except FieldError as error:
        reader.refuse(placed.place, str(error))
    return None


def draw(shares: Shares, source: int, number: int) -> tuple[bool, int]:
    """Whether a record is kept for validation, and how often an epoch has it.

    A weight of 1.5 is one copy, and in half of the cases another.
    """
    if shares.seed is None:
        return False, int(shares.weights[source])
    chance = Random(f"{shares.seed} {source} {number}")
    if chance.random() < shares.validation_fraction:
        return True, 1
    weight = shares.weights[source]
    return False, int(weight) + (chance.random() < weight % 1)


def pack(path: Path, sequence_length: int) -> int:
    """Put samples together in rows, none cut in two; gives the number of rows.

    trl fits the longest first into the row with the least room for it, a thousand at a time.
    """
    from trl import pack_dataset

    loose = path.with_name("loose.arrow")
    path.rename(loose)
    packed = pack_dataset(read_table(loose), sequence_length, "bfd", {"cache_file_name": str(path)})
    num_rows = len(packed)
    del packed
    loose.unlink()
    return num_rows


def _num_learnt(labels: Sequence[int]) -> int:
    return len(labels) - labels.count(IGNORED)
