"""Records turned into the tables that ranks train on, in one pass and in bounded memory.

Whether a record is kept for validation, and how often it is trained on, is a function of the
seed, its source and its number in it, so that the same data are always split alike.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any, Protocol

from launcher.data.record_fields import UnlearnableError
from launcher.data.samples import PlacedSample, SourceReader
from launcher.data.sources import FoundSource
from launcher.data.stop_tokens import stop_token_ids, vocabulary_rows
from launcher.data.summary import DataSummary
from launcher.data.tables import TRAIN, VALIDATION, TableWriter, read_table
from launcher.data.tokenization import IGNORED, Encoded, Rendered, SampleTokenizer
from planner.base.errors import InvalidFileError, InvalidRequestError
from planner.base.phrases import Phrase
from planner.datasets.token_lengths import TokenLengths, nothing_learnt
from planner.plan.data_section import DataErrors, DataSection, LossOn
from planner.plan.schema import Plan

SAMPLES_AT_ONCE = 256


class Progress(AbstractContextManager[object], Protocol):
    """Whatever shows how far the data are."""

    def advance(self, num_records: int, num_bytes: int) -> None:
        """Show that so many more records and bytes of files are done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """Which records an epoch has, and how often."""

    validation_fraction: float
    weights: tuple[float, ...]
    """Weight of each source."""
    seed: int | None
    """Seed of the draws, or None if nothing is drawn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything in a plan that decides the tables, beside the data and the tokenizer."""

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
    """Return the part of a cache key that says how records are read and cut."""
    reading = [
        {
            "format": source.format,
            "fields": dict(source.fields),
            "system": source.system,
            "left_out": source.num_left_out,
        }
        for source in sources
    ]
    return {"settings": asdict(settings), "reading": reading}


class DataPreparation:
    """One pass over the sources."""

    def __init__(
        self,
        settings: Settings,
        tokenizer: Any,
        progress: Progress,
        *,
        checkpoint: Path,
    ) -> None:
        self._settings = settings
        self._tokenizer = tokenizer
        self._stops = stop_token_ids(checkpoint)
        self._num_rows = vocabulary_rows(checkpoint)
        self._samples = SampleTokenizer(tokenizer, stops=self._stops, loss_on=settings.loss_on)
        self._end_marks = set[int]()
        self._progress = progress
        self._lengths: Counter[tuple[int, int]] = Counter()
        self.summary = DataSummary()

    def write(self, sources: Sequence[FoundSource], folder: Path) -> DataSummary:
        """Write the tables of all sources, packed if the plan says so."""
        with (
            self._progress,
            TableWriter(folder / TRAIN) as train,
            TableWriter(folder / VALIDATION) as validation,
        ):
            for index, source in enumerate(sources):
                self._read(index, source, train, validation)
        self._require_samples(sources, train.num_rows, validation.num_rows)
        summary = self.summary
        summary.new_stops = {
            str(self._tokenizer.convert_ids_to_tokens(token)): token
            for token in sorted(self._end_marks - set(self._stops))
        }
        summary.num_samples = summary.num_rows = train.num_rows
        summary.num_validation = validation.num_rows
        summary.count_lengths(
            TokenLengths.of_samples(self._lengths), self._settings.sequence_length
        )
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
        for number, texts in self._encoded(reader):
            held_back, copies = draw(settings.shares, index, number)
            for _ in range(copies):
                for encoded in texts:
                    self._add(encoded, validation if held_back else train, counted=not held_back)
        summary.formats[source.name] = str(reader.format)
        summary.num_files_left_out += source.num_left_out
        summary.num_records += reader.num_records
        summary.num_skipped += reader.skipped.num_records
        summary.skipped += reader.skipped.first
        for reason, count in reader.skipped.unlearnable.items():
            summary.unlearnable[reason] = summary.unlearnable.get(reason, 0) + count

    def _encoded(self, reader: SourceReader) -> Iterator[tuple[int, list[Encoded]]]:
        """Yield the texts of each good sample with its number, tokenized many at once."""
        samples, first = reader.samples(), 0
        while batch := list(islice(samples, SAMPLES_AT_ONCE)):
            for number, texts in enumerate(tokenized(batch, self._samples, reader), start=first):
                if texts:
                    yield number, texts
            first += len(batch)
            self._count_written(batch)

    def _count_written(self, batch: Sequence[PlacedSample]) -> None:
        """Count samples with control tokens in what is said, and show how far the data are."""
        self.summary.num_with_control_tokens += sum(
            self._samples.has_control_tokens(placed.sample) for placed in batch
        )
        self._progress.advance(len(batch), sum(placed.num_bytes for placed in batch))

    def _add(self, encoded: Encoded, table: TableWriter, *, counted: bool) -> None:
        self._require_rows(encoded)
        length = self._settings.sequence_length
        input_ids, labels = encoded.input_ids[:length], encoded.labels[:length]
        num_learnt = _num_learnt(labels)
        if counted:
            self._count(encoded, num_learnt)
        if num_learnt:
            self._end_marks.update(encoded.end_marks)
            table.add(input_ids, labels)

    def _require_rows(self, encoded: Encoded) -> None:
        highest = max(encoded.input_ids)
        if self._num_rows is not None and highest >= self._num_rows:
            token = self._tokenizer.convert_ids_to_tokens(highest)
            raise InvalidRequestError(
                Phrase(
                    "the tokenizer writes {token!r} as token {highest:,}, and the model's "
                    "embedding has {num_rows:,} rows: tokens were added and the model was not "
                    "resized. Resize and save the model (resize_token_embeddings), or use its "
                    "own tokenizer",
                    token=token,
                    highest=highest,
                    num_rows=self._num_rows,
                )
            )

    def _count(self, encoded: Encoded, num_learnt: int) -> None:
        self._lengths[encoded.length_and_first] += 1
        if num_learnt:
            self.summary.num_answer_tokens += num_learnt
            self.summary.num_answer_tokens_lost += _num_learnt(encoded.labels) - num_learnt

    def _require_samples(
        self, sources: Sequence[FoundSource], num_train: int, num_validation: int
    ) -> None:
        reason = self._why_too_few(num_train, num_validation)
        if reason is not None:
            raise InvalidFileError(Path(", ".join(source.name for source in sources)), None, reason)

    def _why_too_few(self, num_train: int, num_validation: int) -> str | None:
        summary, settings = self.summary, self._settings
        fraction = settings.shares.validation_fraction
        num_unlearnable = sum(summary.unlearnable.values())
        if 2 * num_unlearnable > summary.num_records:
            reasons = sorted(summary.unlearnable.items(), key=lambda item: -item[1])
            listed = "; ".join(f"{reason} ({count:,})" for reason, count in reasons)
            return Phrase(
                "{num_unlearnable:,} of {num_records:,} {num_records[record|records]} cannot be "
                "learnt: {listed}",
                num_unlearnable=num_unlearnable,
                num_records=summary.num_records,
                listed=listed,
            )
        if not num_train and num_validation:
            return Phrase(
                "data.validation_fraction {fraction:g} takes all of its {num_records} "
                "{num_records[record|records]}: lower it",
                fraction=fraction,
                num_records=summary.num_records,
            )
        if not num_train:
            return nothing_learnt(settings.sequence_length)
        if fraction and not num_validation:
            return Phrase(
                "data.validation_fraction {fraction:g} keeps none of its {num_records} "
                "{num_records[record|records]}: raise it, or set it to 0",
                fraction=fraction,
                num_records=summary.num_records,
            )
        return None


def tokenized(
    batch: Sequence[PlacedSample], samples: SampleTokenizer, reader: SourceReader
) -> list[list[Encoded]]:
    """Return the texts of each sample; none if it cannot be said and bad records are skipped."""
    rendered = [_rendered_or_refused(placed, samples, reader) for placed in batch]
    encoded = iter(samples.encode([text for texts in rendered for text in texts]))
    return [
        _good_or_refused(placed, list(islice(encoded, len(texts))), reader)
        for placed, texts in zip(batch, rendered, strict=True)
    ]


def _rendered_or_refused(
    placed: PlacedSample, samples: SampleTokenizer, reader: SourceReader
) -> list[Rendered]:
    try:
        return samples.render(placed.sample)
    except UnlearnableError as error:
        reader.refuse(placed.place, error)
        return []


def _good_or_refused(
    placed: PlacedSample, texts: list[list[Encoded] | UnlearnableError], reader: SourceReader
) -> list[Encoded]:
    """Return a sample's texts if all of them are good: a part of it would be another sample."""
    good = list[Encoded]()
    for text in texts:
        if isinstance(text, UnlearnableError):
            reader.refuse(placed.place, text)
            return []
        good += text
    return good


def draw(shares: Shares, source: int, number: int) -> tuple[bool, int]:
    """Return whether a record is kept for validation, and how often an epoch has it.

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
    """Put samples together in rows, none cut in two; return the number of rows.

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
