"""What the report and the document say about the data. Computes nothing but words."""

from typing import Any

from planner.base.units import format_duration, format_share
from planner.datasets.token_lengths import QUANTILES
from planner.datasets.training_data import KnownData, TrainingData
from planner.decision.epochs import Epochs, epochs_of, steps
from planner.decision.packing import PackedWay
from planner.search.candidate import Candidate

Row = tuple[str, str]


def data_rows(chosen: Candidate, data: TrainingData | None, packed: PackedWay | None) -> list[Row]:
    """Return name and text of each line; none without data. ``packed`` is the packed way, where it
    pays."""
    if data is None:
        return []
    if data.known is None:
        length = chosen.workload.settings.sequence_length
        counted = "" if data.num_records is None else f"{data.num_records:,} records; "
        why = f"{counted}token lengths unknown, planned for {length:,}: {data.why_unknown}"
        return [("Data", why)]
    found = epochs_of(chosen, data.known)
    return [
        ("Data", _data_line(data.known)),
        ("", _length_line(data.known, found)),
        ("", _padding_line(found, packed, data.known)),
    ]


def data_document(
    chosen: Candidate, data: TrainingData | None, packed: PackedWay | None
) -> dict[str, Any] | None:
    """Return the same as plain data; None without data."""
    if data is None:
        return None
    if data.known is None:
        most = most_run_time_s(chosen, data)
        return {
            "lengths": None,
            "reason": data.why_unknown,
            "num_records": data.num_records,
            "most_run_time_s": most,
        }
    known, found = data.known, epochs_of(chosen, data.known)
    return {
        "name": known.name,
        "formats": known.formats,
        "num_samples": known.num_samples,
        "lengths": {f"{share:g}": known.lengths.quantile(share) for share in QUANTILES},
        "records_read": known.lengths.num_records,
        **found._asdict(),
        "packing_pays": found.packing_pays,
        "packed_run_time_s": _packed_run_time_s(packed, known),
    }


def _packed_run_time_s(packed: PackedWay | None, data: KnownData) -> float | None:
    if packed is None or packed.candidate is None:
        return None
    return epochs_of(packed.candidate, data).run_time_s


def run_time_s(chosen: Candidate, data: TrainingData | None) -> float | None:
    """Return the seconds of all epochs; None where the data are unknown."""
    known = None if data is None else data.known
    return None if known is None else epochs_of(chosen, known).run_time_s


def most_run_time_s(chosen: Candidate, data: TrainingData) -> float | None:
    """Return the seconds of a run whose samples are all as long as planned; None where no record
    was counted or the speed is unknown."""
    if not data.num_records or chosen.step_time_s is None:
        return None
    return _counted_steps(chosen, data.num_records) * chosen.step_time_s


def _counted_steps(chosen: Candidate, num_records: int) -> int:
    return steps(num_records, chosen.layout.global_batch_size, chosen.workload.settings.epochs)


def counted_run_line(chosen: Candidate, data: TrainingData) -> str | None:
    """Return steps, epochs and the most time of a run over counted records; None if unknown."""
    most_s = most_run_time_s(chosen, data)
    if most_s is None or data.num_records is None:
        return None
    settings = chosen.workload.settings
    plural = "" if settings.epochs == 1 else "s"
    return (
        f"{_counted_steps(chosen, data.num_records):,} steps in {settings.epochs:g} epoch{plural}, "
        f"at most {format_duration(most_s)}: {data.num_records:,} records of "
        f"{settings.sequence_length:,} tokens at most"
    )


def _data_line(data: KnownData) -> str:
    half, most, nearly, longest = (data.lengths.quantile(share) for share in QUANTILES)
    sampled = "" if data.all_read else f" (of {data.lengths.num_records:,} drawn at random)"
    return (
        f"{data.name} ({data.formats}), {data.num_samples:,} samples per epoch; tokens{sampled}: "
        f"half have at most {half:,}, 90 % at most {most:,}, 99 % at most {nearly:,}, "
        f"the longest {longest:,}"
    )


def _length_line(data: KnownData, found: Epochs) -> str:
    length = f"{found.sequence_length:,} tokens"
    if not found.num_truncated:
        return f"{length} hold every sample whole"
    share = format_share(found.num_truncated / data.num_samples, 1)
    about = "" if data.all_read else "about "
    many, lose = f"{found.num_truncated:,} samples are", "lose"
    if found.num_truncated == 1:
        many, lose = "1 sample is", "loses"
    return f"{length}: {about}{many} cut ({share}) and {lose} {about}{found.tokens_lost:,} tokens"


def _padding_line(found: Epochs, packed: PackedWay | None, data: KnownData) -> str:
    share = f"{format_share(found.padding_share)} of the computed tokens are padding"
    if found.packed:
        return f"packed into {found.num_rows:,} rows; {share}"
    if not found.packing_pays:
        return f"{share}; packing would not pay"
    fewer = f"{found.packing_gain:.1f} times fewer tokens"
    if packed is None:
        return f"{share}; packed it would compute {fewer}"
    if packed.candidate is None:
        return f"{share}; packing would compute {fewer}, but {packed.why_not}"
    then = epochs_of(packed.candidate, data)
    took = "" if then.run_time_s is None else f", about {format_duration(then.run_time_s)}"
    return (
        f"{share}; --packing computes {fewer}, in rows of {then.sequence_length:,}: "
        f"{then.num_steps:,} steps at the same global batch{took}"
    )


def run_line(chosen: Candidate, found: Epochs) -> str:
    """Return steps, epochs and time of a run."""
    epochs = chosen.workload.settings.epochs
    counted = f"{found.num_steps:,} steps in {epochs:g} epoch{'s' if epochs != 1 else ''}"
    if found.run_time_s is None:
        return f"{counted}; the time is unknown"
    return f"{counted}, about {format_duration(found.run_time_s)}"
