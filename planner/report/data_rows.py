"""What the report and the document say about the data. Computes nothing but words."""

from typing import Any

from msgspec import structs

from planner.base.phrases import Joined, Phrase
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
        counted = ""
        if data.num_records is not None:
            counted = Phrase("{number:,} {number[record|records]}; ", number=data.num_records)
        why = Phrase(
            "{counted}token lengths unknown, planned for {length:,}: {why_unknown}",
            counted=counted,
            length=length,
            why_unknown=data.why_unknown,
        )
        return [(Phrase("Data"), why)]
    found = epochs_of(chosen, data.known)
    return [
        (Phrase("Data"), _data_line(data.known)),
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
        **structs.asdict(found),
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
    return Phrase(
        "{steps}, at most {time}: {records:,} {records[record|records]} of {length:,} tokens at "
        "most",
        steps=_steps_in_epochs(_counted_steps(chosen, data.num_records), settings.epochs),
        time=format_duration(most_s),
        records=data.num_records,
        length=settings.sequence_length,
    )


def _data_line(data: KnownData) -> str:
    half, most, nearly, longest = (data.lengths.quantile(share) for share in QUANTILES)
    num_drawn = data.lengths.num_records
    sampled = "" if data.all_read else Phrase(" (of {num:,} drawn at random)", num=num_drawn)
    return Phrase(
        "{name} ({formats}), {num_samples:,} {num_samples[sample|samples]} per epoch; "
        "tokens{sampled}: half have at most {half:,}, 90 % at most {most:,}, 99 % at most "
        "{nearly:,}, the longest {longest:,}",
        name=data.name,
        formats=data.formats,
        num_samples=data.num_samples,
        sampled=sampled,
        half=half,
        most=most,
        nearly=nearly,
        longest=longest,
    )


def _length_line(data: KnownData, found: Epochs) -> str:
    length, num_cut, num_dropped = found.sequence_length, found.num_truncated, found.num_dropped
    if not num_cut and not num_dropped:
        return Phrase("{length:,} tokens hold every sample whole", length=length)
    about = "" if data.all_read else Phrase("about ")
    parts = []
    if num_cut:
        parts.append(
            Phrase(
                "{about}{num_cut:,} {num_cut[sample is|samples are]} cut ({share}) and "
                "{num_cut[loses|lose]} {about}{lost:,} {lost[token|tokens]}",
                about=about,
                num_cut=num_cut,
                share=format_share(num_cut / data.num_samples, 1),
                lost=found.tokens_lost,
            )
        )
    if num_dropped:
        parts.append(
            Phrase(
                "{about}{number:,} {number[sample is|samples are]} left out (answer beyond the "
                "sequence length)",
                about=about,
                number=num_dropped,
            )
        )
    return Phrase("{length:,} tokens: {parts}", length=length, parts=Joined("; ", parts))


def _padding_line(found: Epochs, packed: PackedWay | None, data: KnownData) -> str:
    padding = format_share(found.padding_share)
    share = Phrase("{padding} of the computed tokens are padding", padding=padding)
    if found.packed:
        return Phrase(
            "packed into {num_rows:,} {num_rows[row|rows]}; {share}",
            num_rows=found.num_rows,
            share=share,
        )
    if not found.packing_pays:
        return Phrase("{share}; packing would not pay", share=share)
    fewer = Phrase("{gain:.1f} times fewer tokens", gain=found.packing_gain)
    if packed is None:
        return Phrase("{share}; packed it would compute {fewer}", share=share, fewer=fewer)
    if packed.candidate is None:
        return Phrase(
            "{share}; packing would compute {fewer}, but {why_not}",
            share=share,
            fewer=fewer,
            why_not=packed.why_not,
        )
    then = epochs_of(packed.candidate, data)
    took = "" if then.run_time_s is None else _about(then.run_time_s)
    return Phrase(
        "{share}; --packing computes {fewer}, in rows of {length:,}: "
        "{num_steps:,} {num_steps[step|steps]} at the same global batch{took}",
        share=share,
        fewer=fewer,
        length=then.sequence_length,
        num_steps=then.num_steps,
        took=took,
    )


def run_line(chosen: Candidate, found: Epochs) -> str:
    """Return steps, epochs and time of a run."""
    counted = _steps_in_epochs(found.num_steps, chosen.workload.settings.epochs)
    if found.run_time_s is None:
        return counted + Phrase("; the time is unknown")
    return counted + _about(found.run_time_s)


def _steps_in_epochs(num: int, epochs: float) -> Phrase:
    if epochs == 1:
        return Phrase("{num:,} {num[step|steps]} in 1 epoch", num=num)
    return Phrase("{num:,} {num[step|steps]} in {epochs:g} epochs", num=num, epochs=epochs)


def _about(seconds: float) -> Phrase:
    return Phrase(", about {duration}", duration=format_duration(seconds))
