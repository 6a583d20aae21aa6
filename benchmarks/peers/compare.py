"""Predictions beside readings: errors by peer, quantity, source and kind of evidence."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.errors import ErrorStatistics, error_statistics, relative_error
from benchmarks.peers.express import Evidence, NotExpressibleError, Peer
from benchmarks.peers.model_files import LocalModel
from benchmarks.rows import QUANTITIES, Quantity, Row

NO_CONFIG = "no config.json: the model has no preset"


@dataclass(frozen=True, slots=True)
class Question:
    row: Row
    setting: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Prediction:
    row: Row
    predicted: Mapping[Quantity, int]


@dataclass(frozen=True, slots=True)
class Group:
    """Key of the rows whose errors may be looked at together."""

    quantity: Quantity
    source: str
    evidence: Evidence


@dataclass(frozen=True, slots=True)
class Comparison:
    peer: Peer
    predictions: list[Prediction]
    errors: dict[Group, ErrorStatistics]
    not_expressed: Counter[str]


def questions(
    peer: Peer, rows: Sequence[Row], models: Mapping[str, LocalModel]
) -> tuple[list[Question], Counter[str]]:
    """Return the questions that ``peer`` can be asked, and a count of the reasons for the other
    rows."""
    asked: list[Question] = []
    reasons: Counter[str] = Counter()
    for row in rows:
        try:
            asked.append(Question(row, question(peer, row, models)))
        except NotExpressibleError as reason:
            reasons[str(reason)] += 1
    return asked, reasons


def question(peer: Peer, row: Row, models: Mapping[str, LocalModel]) -> dict[str, Any]:
    """Return the question of a row; the model is checked last, so that a missing file is the reason
    only if no setting is."""
    setting = peer.express(row)
    if not row.readings.keys() & peer.compared.keys():
        raise NotExpressibleError(f"predicts nothing like the reading: {', '.join(row.readings)}")
    if row.model not in models:
        raise NotExpressibleError(NO_CONFIG)
    return setting | {peer.model_key: getattr(models[row.model], peer.model_by)}


def compare(
    peer: Peer,
    asked: Sequence[Question],
    answers: Sequence[Mapping[str, Any]],
    not_expressed: Counter[str],
) -> Comparison:
    predictions: list[Prediction] = []
    refused: Counter[str] = Counter()
    for each, answer in zip(asked, answers, strict=True):
        if "predicted" in answer:
            predictions.append(Prediction(each.row, answer["predicted"]))
        else:
            refused[f"refused: {answer['refused']}"] += 1
    return Comparison(peer, predictions, errors(peer, predictions), not_expressed + refused)


def errors(peer: Peer, predictions: Sequence[Prediction]) -> dict[Group, ErrorStatistics]:
    """Return the errors per group, by quantity, then by evidence, then in the order of the rows."""
    found: defaultdict[Group, list[float]] = defaultdict(list)
    for quantity in QUANTITIES:
        for each in predictions:
            if quantity in each.predicted and quantity in each.row.readings:
                group = Group(quantity, each.row.source, peer.evidence(each.row))
                predicted, measured = each.predicted[quantity], each.row.readings[quantity]
                found[group].append(relative_error(predicted=predicted, measured=measured))
    return {group: error_statistics(values) for group, values in found.items()}
