"""A source's records as samples: the format settled, bad records named or counted."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from launcher.data.conversations import Conversation
from launcher.data.readers import Place, Record, read_records
from launcher.data.record_fields import FieldError, UnlearnableError
from launcher.data.records import FORMATS, Sample, parse, recognise
from launcher.data.sources import FoundSource
from planner.base.errors import InvalidFileError, reason_of
from planner.base.phrases import Phrase
from planner.plan.data_section import DataErrors, DataFormat, LossOn

SKIPPED_SHOWN = 3
PREVIEWED = 1000


@dataclass(slots=True)
class Skipped:
    """Bad records that were left out, and what was wrong with the first ones."""

    num_records: int = 0
    first: list[str] = field(default_factory=list)
    unlearnable: Counter[str] = field(default_factory=Counter)
    """Good records that the chat template or the tokenizer cannot represent, by reason."""

    def add(self, error: InvalidFileError, cause: FieldError | None) -> None:
        self.num_records += 1
        if isinstance(cause, UnlearnableError):
            self.unlearnable[cause.reason] += 1
        if len(self.first) < SKIPPED_SHOWN:
            self.first.append(str(error))


@dataclass(frozen=True, slots=True)
class PlacedSample:
    """A sample and the place of its record."""

    place: Place
    sample: Sample
    num_bytes: int


class SourceReader:
    """Samples of one source, in the order of its files."""

    def __init__(self, source: FoundSource, *, loss_on: LossOn, errors: DataErrors) -> None:
        self._source = source
        self._answers_only = loss_on == "answers"
        self._stops = errors == "stop"
        self.format: DataFormat | None = source.format
        self.skipped = Skipped()
        self.num_records = 0

    def samples(self) -> Iterator[PlacedSample]:
        for file in self._source.files:
            for record in read_records(file):
                self.num_records += 1
                sample = self._sample(record)
                if sample is not None:
                    yield PlacedSample(record.place, sample, record.num_bytes)
        if self.num_records == self.skipped.num_records:
            raise self._nothing_left()

    def refuse(self, place: Place, reason: str | FieldError) -> None:
        """Count a bad record as left out, or raise an error that names it if the plan says so."""
        said = reason_of(reason) if isinstance(reason, FieldError) else reason
        error = place.error(said)
        if self._stops:
            raise error
        self.skipped.add(error, reason if isinstance(reason, FieldError) else None)

    def _sample(self, record: Record) -> Sample | None:
        if record.problem is not None:
            self.refuse(record.place, record.problem)
            return None
        fields = self._source.fields
        try:
            if self.format is None:
                self.format = recognise(record.content, fields)
            sample = parse(record.content, self.format, fields, answers_only=self._answers_only)
        except FieldError as error:
            self.refuse(record.place, error)
            return None
        system = self._source.system
        if system is not None and isinstance(sample, Conversation):
            return sample.after(system)
        return sample

    def _nothing_left(self) -> InvalidFileError:
        files = self._source.files
        place = Path(files[0].name if len(files) == 1 else self._source.name)
        if self.num_records == 0:
            return InvalidFileError(
                place, None, Phrase("holds no records. Each one is {formats}", formats=FORMATS)
            )
        first = self.skipped.first[0]
        return InvalidFileError(
            place, None, Phrase("holds no good record. The first bad one: {first}", first=first)
        )


def preview(source: FoundSource, *, loss_on: LossOn, errors: DataErrors) -> None:
    """Read the first records, so that a file of another kind ends the launch at once."""
    reader = SourceReader(source, loss_on=loss_on, errors=errors)
    for _ in islice(reader.samples(), PREVIEWED):
        pass
