"""Samples as token ids and labels: what inference would have read, and what it should answer.

A label of -100 is left out of the loss. A text is tokenized whole. Where a token would reach over
the border of a prompt and its answer, which inference never sees as one, that answer becomes a
text of its own: the prompt is tokenized alone, as inference does, and then what goes on from it.
"""

import re
import unicodedata
from bisect import bisect_left
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from launcher.data.answers import Span, taught_texts
from launcher.data.chat_template import ChatTemplate
from launcher.data.conversations import Conversation
from launcher.data.record_fields import UnlearnableError
from launcher.data.records import Completion, PlainText, Sample
from planner.base.phrases import Phrase
from planner.base.units import MOST
from planner.plan.data_section import LossOn

IGNORED = -100
HEADING_LENGTH, HEADINGS_KEPT = 64, 1024
SENTENCEPIECE_BLANK = "\u2581"
DECODED = 32
"""Tokens of a prompt that are enough to see whether a continuation reads as it should."""
LEFT_CONTEXTS = ("", "\n", "a", ".", "1")
"""Texts before a continuation, tried until one leaves its tokens apart from the text's."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """Tokens and labels of a whole text, which may be longer than a row."""

    input_ids: list[int]
    labels: list[int]
    end_marks: tuple[int, ...]
    """Last token of each learnt answer."""

    @property
    def length_and_first(self) -> tuple[int, int]:
        """The number of tokens, and the position of the first in the loss: beyond all where none
        is."""
        first = (place for place, label in enumerate(self.labels) if label != IGNORED)
        return len(self.input_ids), next(first, MOST)


@dataclass(frozen=True, slots=True)
class Rendered:
    """A text to tokenize, and what in it is learnt."""

    text: str
    answers: tuple[Span, ...]
    learns_everything: bool
    has_all_tokens: bool
    """Whether a template put the special tokens in."""


class _Tokens(NamedTuple):
    """Ids, and the first character of each in the text."""

    ids: list[int]
    starts: list[int]

    def first_from(self, character: int) -> int:
        return bisect_left(self.starts, character)


class SampleTokenizer:
    """A tokenizer that turns samples into texts by its chat template, and texts into labels."""

    def __init__(self, tokenizer: Any, *, stops: Collection[int], loss_on: LossOn) -> None:
        self._tokenizer = tokenizer
        self._template = ChatTemplate(tokenizer, stops)
        self._everything = loss_on == "everything"
        special = self._template.special
        self._special_ids = frozenset(tokenizer.convert_tokens_to_ids(list(special)))
        self._control = re.compile("|".join(map(re.escape, special))) if special else None
        self._headings: dict[str, list[int]] = {}

    def render(self, sample: Sample) -> list[Rendered]:
        """Return the texts that teach a sample.

        Raises UnlearnableError if the chat template cannot render it.
        """
        match sample:
            case Conversation():
                return self._conversation(sample)
            case Completion(prompt, completion):
                if not self._end:
                    raise UnlearnableError(Phrase("the tokenizer has no end mark"))
                text = f"{prompt}{completion}{self._end}"
                return [self._unformatted(text, len(prompt), everything=self._everything)]
            case PlainText(text):
                return [self._unformatted(f"{text}{self._end}", 0, everything=True)]

    def has_control_tokens(self, sample: Sample) -> bool:
        """Return whether what is said holds text that the tokenizer reads as control tokens."""
        match sample:
            case Conversation(messages):
                contents = [message.content for message in messages]
            case Completion(prompt, completion):
                contents = [prompt, completion]
            case PlainText(text):
                contents = [text]
        return self._control is not None and any(map(self._control.search, contents))

    def encode(self, texts: Sequence[Rendered]) -> list[list[Encoded] | UnlearnableError]:
        """Return tokens and labels in order, or why the tokenizer cannot encode a text.

        One text is given as several where a prompt and its answer must be tokenized apart. Nothing
        comes before the first token, so nothing predicts it and it has no label.
        """
        encoded: dict[int, list[Encoded] | UnlearnableError] = {}
        for has_all_tokens in (True, False):
            batch = [i for i, s in enumerate(texts) if s.has_all_tokens is has_all_tokens]
            if batch:
                encodings = self._encodings([texts[i].text for i in batch], not has_all_tokens)
                for i, encoding in zip(batch, encodings, strict=True):
                    encoded[i] = self._labelled_or_why_not(texts[i], encoding)
        return [encoded[i] for i in range(len(texts))]

    @property
    def _end(self) -> str:
        return self._tokenizer.eos_token or ""

    @staticmethod
    def _unformatted(text: str, start: int, *, everything: bool) -> Rendered:
        return Rendered(text, ((start, len(text)),), everything, has_all_tokens=False)

    def _conversation(self, sample: Conversation) -> list[Rendered]:
        texts = taught_texts(sample, self._template, everything=self._everything)
        last = len(texts) - 1
        return [
            Rendered(taught.text, taught.spans, self._everything and i == last, has_all_tokens=True)
            for i, taught in enumerate(texts)
        ]

    def _encodings(self, texts: list[str], add_special_tokens: bool) -> list[Any]:
        tokens = self._tokenizer(
            texts,
            add_special_tokens=add_special_tokens,
            return_attention_mask=False,
            verbose=False,
        )
        return list(tokens.encodings)

    def _labelled_or_why_not(
        self, text: Rendered, encoding: Any
    ) -> list[Encoded] | UnlearnableError:
        try:
            return self._labelled(text, _tokens(encoding))
        except UnlearnableError as error:
            return error

    def _labelled(self, text: Rendered, tokens: _Tokens) -> list[Encoded]:
        if text.learns_everything:
            ids = tokens.ids
            ends = tuple(ids[tokens.first_from(last) - 1] for _, last in text.answers)
            return [Encoded(ids, [IGNORED, *ids[1:]], ends)]
        whole, alone = list[Span](), list[Encoded]()
        for first, last in text.answers:
            if first == 0 or self._is_apart(text, tokens, first):
                whole.append((tokens.first_from(first), tokens.first_from(last)))
            else:
                alone.append(self._alone(text, first, last))
        return [*([self._with_labels(tokens.ids, whole)] if whole else []), *alone]

    def _with_labels(self, ids: list[int], answers: Sequence[Span]) -> Encoded:
        labels = [IGNORED] * len(ids)
        for begin, end in answers:
            self._require_end(ids[begin:end])
            labels[begin:end] = ids[begin:end]
        labels[0] = IGNORED
        return Encoded(ids, labels, tuple(ids[end - 1] for _, end in answers))

    def _require_end(self, answer: list[int]) -> None:
        if len(answer) < 2:
            raise UnlearnableError(Phrase("an answer has no token to learn"))
        if answer[-1] not in self._special_ids:
            raise UnlearnableError(
                Phrase("an answer does not end with a token that inference stops at")
            )

    def _is_apart(self, text: Rendered, tokens: _Tokens, first: int) -> bool:
        """Return whether the tokens before an answer are those of its prompt alone."""
        begin = tokens.first_from(first)
        since, heading = begin, text.text[:first]
        if text.has_all_tokens:
            while since > 0 and tokens.ids[since - 1] not in self._special_ids:
                since -= 1
            since = max(0, since - 1)
            heading = text.text[tokens.starts[since] : first] if since else heading
        return tokens.ids[since:begin] == self._prompt_ids(heading, text.has_all_tokens)

    def _prompt_ids(self, prompt: str, has_all_tokens: bool) -> list[int]:
        known = self._headings.get(prompt) if has_all_tokens else None
        if known is not None:
            return known
        (encoding,) = self._encodings([prompt], not has_all_tokens)
        ids = _tokens(encoding).ids
        if has_all_tokens and len(prompt) <= HEADING_LENGTH and len(self._headings) < HEADINGS_KEPT:
            self._headings[prompt] = ids
        return ids

    def _alone(self, text: Rendered, first: int, last: int) -> Encoded:
        """Return one answer after its prompt, both tokenized as at inference."""
        prompt = self._prompt_ids(text.text[:first], text.has_all_tokens)
        ids = prompt + self._continued(prompt, text.text[first:last])
        return self._with_labels(ids, [(len(prompt), len(ids))])

    def _continued(self, before: list[int], text: str) -> list[int]:
        """Return the tokens of a text that goes on from others, without a space of its own."""
        before = before[-DECODED:]
        said = self._decoded(before)
        for context in LEFT_CONTEXTS:
            encoding, alone = self._encodings([context + text, context], add_special_tokens=False)
            count = len(alone.ids)
            ids: list[int] = encoding.ids[count:]
            behind = self._decoded(before + ids).removeprefix(said)
            if encoding.ids[:count] == alone.ids and _reads_as(behind, text):
                return ids
        raise UnlearnableError(Phrase("the tokenizer cannot go on from the prompt as a model does"))

    def _decoded(self, ids: list[int]) -> str:
        text: str = self._tokenizer.decode(
            ids, skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        return text


def _reads_as(decoded: str, text: str) -> bool:
    """Return whether tokens read as a text: blanks may be in control tokens, but for the first."""
    decoded, text = (
        unicodedata.normalize("NFKC", each).replace(SENTENCEPIECE_BLANK, " ")
        for each in (decoded, text)
    )
    return _blanks_before(decoded) == _blanks_before(text) and decoded.split() == text.split()


def _blanks_before(text: str) -> str:
    return text[: len(text) - len(text.lstrip())]


def _tokens(encoding: Any) -> _Tokens:
    """Return the tokens of an encoding, without an end token that the tokenizer appends."""
    ids, offsets = list(encoding.ids), list(encoding.offsets)
    while len(ids) > 1 and offsets[-1] == (0, 0) != offsets[-2]:
        ids.pop()
        offsets.pop()
    return _Tokens(ids, [start for start, _ in offsets])
