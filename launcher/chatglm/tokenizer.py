"""ChatGLM's tokenizer, from ``tokenizer.model``, as a fast one that plain transformers loads.

read: ``tokenization_chatglm.py`` at THUDM/chatglm3-6b. Text is encoded by SentencePiece's BPE with
a space before it. The ids of special tokens follow SentencePiece's. ChatGLM's code builds a prompt
from ids and never looks for special tokens in text. Here a prompt is rendered as text first, so
they are spelled like no word: ``<sop>`` as in GLM-4, because "soprano" begins with ``sop``.
"""

from pathlib import Path
from typing import Any

from launcher.chatglm.config import read_config
from launcher.chatglm.glm4_tokenizer import is_rank_file, merges, rank_tokenizer
from launcher.chatglm.prompt import ROLES, add_prefix, roles_template
from planner.base.errors import InvalidFileError, UserError
from planner.base.phrases import Phrase

END = "</s>"
UNKNOWN = "<unk>"
"""Token for unknown text, with which ChatGLM also pads."""
COMMANDS = ("[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>")
"""Special tokens of all versions."""
SPACE = "▁"
"""SentencePiece's letter for a space."""

ROUNDS_TEMPLATE = (
    "{{ '[gMASK]<sop>' }}"
    "{% set rounds = namespace(count=0) %}"
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}"
    "{% set rounds.count = rounds.count + 1 %}"
    "{{ '[Round ' ~ rounds.count ~ ']\\n\\n问\uff1a' + message['content'] + '\\n\\n答\uff1a' }}"
    "{% elif message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '</s>' }}{% endgeneration %}"
    "{% if not loop.last %}{{ '\\n\\n' }}{% endif %}"
    "{% else %}"
    "{{ raise_exception('ChatGLM2 has users and assistants only') }}"
    "{% endif %}"
    "{% endfor %}"
)
"""Chat template of ChatGLM2; read: its ``build_prompt``."""

PROBES = (
    "hi",
    "",
    " ",
    "  two  spaces  ",
    "a\nb\n\n\tc\r\n",
    "soprano eop sop",
    "\uff26\uff35\uff2c\uff2c\u3000width \ufb01 \xbd \xe9 e\u0301",
    "你好\uff0c世界\uff012023年",
    "def f(x):\n    return x**2 + 10_000",
    "🙂👩‍🚀 \u200b\ufeff",
    "<0x41> ▁ <|user|> </s> [gMASK]",
)
"""Texts that the rebuilt tokenizer must encode as SentencePiece does before it is used."""


def rebuilt_tokenizer(folder: Path) -> Any | None:
    """Return the tokenizer of a checkpoint; None if it has no ``tokenizer.model``.

    Raise ``InvalidFileError`` if the file is damaged or of another kind.
    """
    path = folder / "tokenizer.model"
    if not path.is_file():
        return None
    if is_rank_file(path):
        return rank_tokenizer(path)
    processor = _processor(path)
    roles = _has_roles(folder)
    tokenizer = _as_transformers(_fast_tokenizer(processor, COMMANDS + (ROLES if roles else ())))
    tokenizer.chat_template = roles_template(" ", END) if roles else ROUNDS_TEMPLATE
    _require_same_ids(processor, tokenizer, path)
    return tokenizer


def _processor(path: Path) -> Any:
    try:
        from sentencepiece import SentencePieceProcessor
    except ImportError as error:
        raise UserError(
            Phrase(
                "reading tokenizer.model needs the package sentencepiece: pip install sentencepiece"
            )
        ) from error
    try:
        return SentencePieceProcessor(model_file=str(path))
    except (OSError, RuntimeError) as error:
        raise InvalidFileError(
            path, None, Phrase("is not a SentencePiece model. Fetch it again")
        ) from error


def _has_roles(folder: Path) -> bool:
    """Return whether prompts have roles: ChatGLM3's have, ChatGLM2's have not."""
    code = folder / "tokenization_chatglm.py"
    if code.is_file():
        return ROLES[0] in code.read_text(encoding="utf-8")
    return "chatglm2" not in str(read_config(folder).get("_name_or_path", "")).lower()


def _fast_tokenizer(processor: Any, special: tuple[str, ...]) -> Any:
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers

    pieces = [processor.id_to_piece(index) for index in range(processor.vocab_size())]
    vocabulary = {piece: index for index, piece in enumerate([*pieces, *special])}
    tokenizer = Tokenizer(
        models.BPE(
            vocab=vocabulary,
            merges=merges(_best_first(processor, pieces)),
            unk_token=UNKNOWN,
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace(SPACE, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in (UNKNOWN, END, *special)]
    )
    add_prefix(tokenizer)
    return tokenizer


def _best_first(processor: Any, pieces: list[str]) -> list[str]:
    """Return the pieces that are merged, without control symbols and bytes, the best first."""
    scores = {
        piece: processor.get_score(index)
        for index, piece in enumerate(pieces)
        if not (
            processor.is_byte(index) or processor.is_control(index) or processor.is_unknown(index)
        )
    }
    return sorted(scores, key=lambda piece: -scores[piece])


def _as_transformers(tokenizer: Any) -> Any:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=UNKNOWN,
        unk_token=UNKNOWN,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def _require_same_ids(processor: Any, tokenizer: Any, path: Path) -> None:
    for text in PROBES:
        ids = tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
        if ids != processor.encode(text):
            raise InvalidFileError(
                path,
                None,
                Phrase("is not a ChatGLM tokenizer: {text!r} is encoded differently", text=text),
            )
