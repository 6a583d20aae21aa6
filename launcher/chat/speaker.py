"""A model that answers in a conversation, word by word."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, TextStreamer

from launcher.chat.trained_model import load, stops_of, trained
from launcher.data.chat_template import PLAIN_TEMPLATE, ChatTemplate
from launcher.data.conversations import Conversation, Message
from launcher.data.generated_text import whole_characters
from launcher.data.record_fields import UnlearnableError
from planner.base.errors import UserError, reason_of
from planner.base.phrases import Phrase
from planner.plan.schema import Plan

MOST_NEW_TOKENS = 2048
"""Tokens after which an answer is ended: a model that was taught no end would fill its context."""
ROOM_FOR_AN_ANSWER = 64
"""Tokens of the context that are kept free for an answer; older turns are left out for them."""
NO_LIMIT = 2**31
"""Tokens of context of a model that names none, as those with recurrent layers alone."""

Hear = Callable[[str], None]
"""Function that is given every piece of an answer as soon as it is there."""


class CannotAnswerError(UserError):
    """What was said cannot be answered; the message says why."""


def load_speaker(
    plan: Plan, *, base: Path, result: Path, new_stops: Sequence[int], system: str | None
) -> "Speaker":
    """Return the trained model, ready to answer after a ``system`` message if one is given.

    Where its generation settings draw words at random, the plan's seed decides them. Raises
    ``CannotAnswerError`` if the model's template has no place for that message, or the GPU no room
    for the model.
    """
    torch.manual_seed(plan.training.seed)
    tokenizer = AutoTokenizer.from_pretrained(result)
    stops = stops_of(base, new_stops, tokenizer)
    rules = Conversation(() if system is None else (Message("system", system),))
    script = Script(tokenizer, stops, rules)
    script.require_place_for_system()
    try:
        model = load(plan, base)
        model = model if plan.adapter is None else trained(plan, result, model)
    except torch.OutOfMemoryError as error:
        raise CannotAnswerError(
            Phrase(
                "the GPU has no room for the model: free it, or set CUDA_VISIBLE_DEVICES= to "
                "answer on the CPU"
            )
        ) from error
    model.generation_config.eos_token_id = stops
    model.generation_config.pad_token_id = stops[0]
    return Speaker(model, script)


class Script:
    """The text in which a model reads a conversation, by its own chat template."""

    def __init__(self, tokenizer: Any, stops: Sequence[int], opening: Conversation) -> None:
        self.tokenizer = tokenizer
        self._template = ChatTemplate(tokenizer, stops)
        self._opening = opening.messages

    @property
    def is_own(self) -> bool:
        """Whether the template is the model's own, and not the plain one."""
        return not str(self.tokenizer.chat_template).endswith(PLAIN_TEMPLATE)

    def require_place_for_system(self) -> None:
        """Raise ``CannotAnswerError`` if the system message is refused or left out."""
        text = self.text((Message("user", "."),))
        if not all(message.content.strip() in text for message in self._opening):
            raise CannotAnswerError(Phrase("the model's chat template leaves out a system message"))

    def text(self, turns: tuple[Message, ...]) -> str:
        """Return the prompt for the next answer; raise ``CannotAnswerError`` as templates do."""
        try:
            return self._template.render(Conversation((*self._opening, *turns)), asks=True)
        except UnlearnableError as error:
            raise CannotAnswerError(reason_of(error)) from error


class Speaker:
    """A trained model, and what has been said between it and a person."""

    def __init__(self, model: Any, script: Script) -> None:
        self._model, self._script = model, script
        self._turns: tuple[Message, ...] = ()
        settings = model.config.get_text_config()
        self._context: int = getattr(settings, "max_position_embeddings", NO_LIMIT)
        self.has_own_template = script.is_own

    def answer(self, said: str, hear: Hear) -> bool:
        """Give ``hear`` the answer to what is said; return whether the model still knows of all
        that was said before.

        A KeyboardInterrupt ends the answer, which is kept as far as it came. Raises
        ``CannotAnswerError``, and forgets what was said, if it is too long.
        """
        asked, num_before = Message("user", said), len(self._turns)
        prompt = self._tokens(self._script.text((*self._turns, asked)))
        while prompt.shape[1] > self._context - ROOM_FOR_AN_ANSWER:
            if not self._turns:
                raise CannotAnswerError(
                    Phrase(
                        "that is {length:,} tokens, and the model reads {context:,}: say less",
                        length=prompt.shape[1],
                        context=self._context,
                    )
                )
            self._turns = self._turns[2:]
            prompt = self._tokens(self._script.text((*self._turns, asked)))
        kept_all = len(self._turns) == num_before
        answer = Message("assistant", self._generate(prompt, hear).strip())
        self._turns = (*self._turns, asked, answer)
        return kept_all

    def go_on(self, text: str, hear: Hear) -> None:
        """Give ``hear`` what the model writes after a plain text, as one that learnt texts does."""
        self._generate(self._tokens(text, special=True), hear)

    def _tokens(self, text: str, *, special: bool = False) -> torch.Tensor:
        tokens: torch.Tensor = self._script.tokenizer(
            text, add_special_tokens=special, return_tensors="pt"
        )["input_ids"]
        return tokens

    def _generate(self, prompt: torch.Tensor, hear: Hear) -> str:
        """Return the answer to a prompt, as far as it came."""
        pieces = _Pieces(self._script.tokenizer, hear)
        tokens = prompt.to(self._model.device)
        try:
            with torch.inference_mode():
                self._model.generate(
                    input_ids=tokens,
                    attention_mask=torch.ones_like(tokens),
                    max_new_tokens=min(self._context - prompt.shape[1], MOST_NEW_TOKENS),
                    num_beams=1,
                    use_cache=True,
                    streamer=pieces,
                )
        except KeyboardInterrupt:
            pieces.end()
        except torch.OutOfMemoryError as error:
            raise CannotAnswerError(
                Phrase("the GPU has no room for an answer to so much text")
            ) from error
        return pieces.text


class _Pieces(TextStreamer):  # type: ignore[misc]
    """A streamer that gives each piece of text away and keeps all of them."""

    def __init__(self, tokenizer: Any, hear: Hear) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._hear = hear
        self.text = ""

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        whole = whole_characters(text) if stream_end else text
        self.text += whole
        self._hear(whole)
