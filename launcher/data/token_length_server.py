"""Token lengths of a plan's data, for the planner: asked as JSON, answered as JSON.

``python -m launcher.data.token_length_server`` reads one line,
``{"data": ..., "model": ..., "seed": N}`` (sections of a plan), and writes one answer:
``{"samples": [[LENGTH, FIRST, SAMPLES], ...], "num_samples": N, "formats": {SOURCE: FORMAT}}`` and
more, where FIRST is the position of the first token in the loss, or
``{"error": ...}`` if the data are bad, or ``{"no_tokenizer": ...}`` if the model's tokenizer cannot
be had. Lines ``{"note": ...}`` before it are for the person who waits.

Answers are kept by content. A large data set is read whole and a sample of it is tokenized.
"""

import json
from collections import Counter
from collections.abc import Iterator
from itertools import groupby
from operator import itemgetter
from random import Random
from typing import Any

from msgspec import convert, to_builtins

from launcher.base_model.find_checkpoint import ModelNotFoundError
from launcher.base_model.tokenizer_files import TokenizerPlace, find_tokenizer, load
from launcher.data.cache import content_key, data_cache, found_entry, make_entry
from launcher.data.samples import PlacedSample, SourceReader
from launcher.data.sources import FoundSource, find_sources
from launcher.data.stop_tokens import stop_token_ids
from launcher.run.answer_pipe import question_and_answer_pipes
from launcher.run.unwinding import unwound_by_sigterm
from planner.base.errors import UserError, reason_of
from planner.base.phrases import Phrase, as_data
from planner.plan.data_section import DataSection
from planner.plan.schema import ModelSection

SAMPLED = 5_000
"""Records tokenized at most. The share p of records below a length then has a standard deviation
of sqrt(p (1 - p) / n): 0.0014 at the 99 % by which a sequence length is chosen."""
AT_ONCE = 256
SEED = 0

Answer = dict[str, Any]


def main() -> None:
    questions, answers = question_and_answer_pipes()
    request = json.loads(questions.readline())

    def tell(content: Answer) -> None:
        print(json.dumps(content), file=answers)

    data = convert(request["data"], DataSection)
    model = convert(request["model"], ModelSection)
    try:
        with unwound_by_sigterm():
            answer = answer_to(
                data, model, request["seed"], lambda line: tell({"note": as_data(line)})
            )
    except ModelNotFoundError as error:
        answer = {"no_tokenizer": as_data(reason_of(error))}
    except UserError as error:
        answer = {"error": as_data(reason_of(error))}
    tell(answer)


def answer_to(data: DataSection, model: ModelSection, seed: int, say: Any) -> Answer:
    """Return the lengths that were kept, or make and keep them now."""
    sources = find_sources(data)
    place = find_tokenizer(model)
    key = content_key(
        {
            "data": [source.digests for source in sources],
            "reading": to_builtins(data),
            "tokenizer": dict(place.identity),
            "seed": seed,
            "sampled": SAMPLED,
            "counted": "length, first token in the loss",
        }
    )
    kept = found_entry(data_cache("lengths") / key, say)
    if kept is not None:
        return dict(kept.summary)
    say(Phrase("reading the data's token lengths (once; they are kept)"))
    entry = make_entry(
        data_cache("lengths") / key, lambda _folder: lengths(data, sources, place, seed)
    )
    return dict(entry.summary)


def lengths(
    data: DataSection, sources: tuple[FoundSource, ...], place: TokenizerPlace, seed: int
) -> Answer:
    """Return the lengths of whole texts, uncut; a sample may be several."""
    from launcher.data.chat_template import use_plain_template_if_none
    from launcher.data.tokenization import SampleTokenizer

    tokenizer = load(place)
    plain_template = use_plain_template_if_none(tokenizer)
    stops = stop_token_ids(place.folder)
    readers = [SourceReader(s, loss_on=data.loss_on, errors=data.errors) for s in sources]
    drawn, num_records = _reservoir(_training_stream(data, readers, seed))
    counts = _counted(drawn, SampleTokenizer(tokenizer, stops=stops, loss_on=data.loss_on))
    return {
        "samples": [[*kind, count] for kind, count in sorted(counts.items())],
        "num_samples": round(num_records * counts.total() / max(1, len(drawn))),
        "num_skipped": sum(reader.skipped.num_records for reader in readers),
        "formats": {s.name: str(r.format) for s, r in zip(sources, readers, strict=True)},
        "plain_template": plain_template,
    }


Drawn = tuple[SourceReader, PlacedSample]


def _training_stream(data: DataSection, readers: list[SourceReader], seed: int) -> Iterator[Drawn]:
    """Yield samples as often as an epoch has them."""
    from launcher.data.preparation import draw, shares_of

    shares = shares_of(data, seed)
    for index, reader in enumerate(readers):
        for number, placed in enumerate(reader.samples()):
            held_back, copies = draw(shares, index, number)
            if not held_back:
                for _ in range(copies):
                    yield reader, placed


def _reservoir(stream: Iterator[Drawn]) -> tuple[list[Drawn], int]:
    """Return at most ``SAMPLED`` of them, each as likely as any other, and how many there were.

    Vitter's Algorithm R (doi:10.1145/3147.3165).
    """
    chance, kept, seen = Random(SEED), list[Drawn](), 0
    for drawn in stream:
        seen += 1
        if len(kept) < SAMPLED:
            kept.append(drawn)
        elif (place := chance.randrange(seen)) < SAMPLED:
            kept[place] = drawn
    return kept, seen


def _counted(drawn: list[Drawn], samples: Any) -> Counter[tuple[int, int]]:
    from launcher.data.preparation import tokenized

    counts: Counter[tuple[int, int]] = Counter()
    for reader, group in groupby(drawn, key=itemgetter(0)):
        placed = [sample for _, sample in group]
        for start in range(0, len(placed), AT_ONCE):
            texts = tokenized(placed[start : start + AT_ONCE], samples, reader)
            counts.update(text.length_and_first for sample in texts for text in sample)
    return counts


if __name__ == "__main__":
    main()
