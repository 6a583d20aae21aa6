"""Samples to token ids and labels: the tokenizer's own chat template, loss on the answers.

A label of -100 is left out of the loss. Answers are found as spans of the rendered text
and carried over to tokens by their offsets, so a conversation is tokenized once, whole.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from launcher.data.conversations import Conversation, Message
from launcher.data.record_fields import FieldError
from launcher.data.records import Completion, PlainText, Sample
from planner.plan.data_section import LossOn

IGNORED = -100

Span = tuple[int, int]
"""First character, and the one after the last."""

PLAIN_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '### ' + message['role'] | capitalize + ':\\n' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}"
    "{{ '\\n\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '### Assistant:\\n' }}{% endif %}"
)
"""For a base model, whose tokenizer comes without a chat template."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """A sample in full; whoever trains on it cuts it."""

    input_ids: list[int]
    labels: list[int]
    num_open_answers: int = 0
    """Answers with nothing behind their content: a model would not learn where to stop."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """The text to tokenize, and what in it is learnt."""

    text: str
    answers: list[Span]
    has_all_tokens: bool
    """A template put the special tokens in."""
    num_open_answers: int = 0


def use_plain_template_if_none(tokenizer: Any) -> bool:
    """Give a tokenizer without a chat template the plain one; says whether it was needed."""
    if tokenizer.chat_template:
        return False
    tokenizer.chat_template = PLAIN_TEMPLATE
    return True


def encode(samples: Sequence[Rendered], tokenizer: Any, *, loss_on: LossOn) -> list[Encoded]:
    """Tokens and labels, in order; those with and those without a template are two batches.

    Nothing comes before the first token, so nothing predicts it and it has no label.
    """
    found: dict[int, Encoded] = {}
    for has_all_tokens in (True, False):
        batch = [i for i, s in enumerate(samples) if s.has_all_tokens is has_all_tokens]
        if not batch:
            continue
        tokens = tokenizer(
            [samples[i].text for i in batch],
            add_special_tokens=not has_all_tokens,
            return_attention_mask=False,
            verbose=False,
        )
        for i, ids, encoding in zip(batch, tokens["input_ids"], tokens.encodings, strict=True):
            learnt = ids if loss_on == "everything" else _learnt(ids, encoding, samples[i].answers)
            labels = [IGNORED, *learnt[1:]]
            found[i] = Encoded(ids, labels, samples[i].num_open_answers)
    return [found[i] for i in range(len(samples))]


def render(sample: Sample, tokenizer: Any) -> Rendered:
    match sample:
        case Conversation():
            text = _apply_template(tokenizer, sample, len(sample.messages))
            spans = list(_answer_spans(sample, tokenizer, text))
            return Rendered(
                text,
                [span for message, span in spans if message.learnt],
                has_all_tokens=True,
                num_open_answers=sum(_is_open(text[slice(*s)], m) for m, s in spans if m.learnt),
            )
        case Completion(prompt, completion):
            text = f"{prompt}{completion}{tokenizer.eos_token or ''}"
            return Rendered(text, [(len(prompt), len(text))], has_all_tokens=False)
        case PlainText(text):
            text = f"{text}{tokenizer.eos_token or ''}"
            return Rendered(text, [(0, len(text))], has_all_tokens=False)


def _answer_spans(
    sample: Conversation, tokenizer: Any, text: str
) -> Iterator[tuple[Message, Span]]:
    """From behind the generation prompt to the end of each assistant message, end mark included."""
    for index, message in enumerate(sample.messages):
        if message.role != "assistant":
            continue
        prompt = _apply_template(tokenizer, sample, index, add_generation_prompt=True)
        start = _common_prefix(prompt, text)
        last = index + 1 == len(sample.messages)
        until = text if last else _apply_template(tokenizer, sample, index + 1)
        span = start, _end_of_answer(until, text, start, message.content.strip())
        said = text[slice(*span)]
        missing = [name for name in message.called if name not in said]
        if missing:
            raise FieldError(
                f"messages[{index}].tool_calls: the model's chat template leaves out the call of "
                f"{missing[0]}"
            )
        yield message, span


def _end_of_answer(until: str, text: str, start: int, content: str) -> int:
    """Where ``until``, rendered up to this answer, ends in the whole text.

    Templates may render an answer differently when it is the last (Qwen3 puts an empty thought
    before it). Then what follows the content in ``until`` is looked for behind it in the text.
    """
    if text.startswith(until):
        return len(until)
    found, at = text.find(content, start), until.rfind(content)
    if not content or found < 0 or at < 0:
        return _common_prefix(until, text)
    end = found + len(content)
    return end + _common_prefix(until[at + len(content) :], text[end:])


def _is_open(said: str, message: Message) -> bool:
    return said.strip().endswith(message.content.strip()) and bool(message.content.strip())


def _apply_template(
    tokenizer: Any, sample: Conversation, num_messages: int, *, add_generation_prompt: bool = False
) -> str:
    rendered: str = tokenizer.apply_chat_template(
        [message.as_dict() for message in sample.messages[:num_messages]],
        tools=list(sample.tools) or None,
        tokenize=False,
        add_generation_prompt=add_generation_prompt,
    )
    return rendered


def _common_prefix(part: str, whole: str) -> int:
    """How many characters from the start the two share; templates may render a part differently."""
    if whole.startswith(part):
        return len(part)
    pairs = zip(part, whole, strict=False)
    shorter = min(len(part), len(whole))
    return next((index for index, (left, right) in enumerate(pairs) if left != right), shorter)


def _learnt(ids: list[int], encoding: Any, answers: Sequence[Span]) -> list[int]:
    """The ids of tokens that lie in an answer whole; tokens without text are in none."""
    labels = [IGNORED] * len(ids)
    for answer in answers:
        begin, end = _tokens_in(encoding, answer, len(ids))
        labels[begin:end] = ids[begin:end]
    return labels


def _tokens_in(encoding: Any, answer: Span, num_tokens: int) -> Span:
    """First token that lies in a span of characters, and the one after the last.

    Only the ends are looked at. A character of several bytes may be several tokens, and space
    may be in none.
    """
    first, last = answer
    found = (encoding.char_to_token(at) for at in range(first, last))
    begin = next((token for token in found if token is not None), num_tokens)
    if begin < num_tokens and encoding.token_to_chars(begin)[0] < first:
        begin += 1
    found = (encoding.char_to_token(at) for at in range(last - 1, first - 1, -1))
    end = next((token for token in found if token is not None), begin - 1) + 1
    while end < num_tokens and _is_within(encoding.token_to_chars(end), answer):
        end += 1
    while end > begin and not _is_within(encoding.token_to_chars(end - 1), answer):
        end -= 1
    return begin, end


def _is_within(token: Span | None, answer: Span) -> bool:
    return token is not None and answer[0] <= token[0] < token[1] <= answer[1]
