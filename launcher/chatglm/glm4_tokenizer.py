"""GLM-4's tokenizer: byte-level BPE, whose ``tokenizer.model`` lists byte strings with ranks.

read: ``tokenization_chatglm.py`` at THUDM/glm-4-9b-chat.
"""

import base64
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from launcher.chatglm.prompt import ROLES, add_prefix, roles_template
from planner.base.errors import InvalidFileError
from planner.base.phrases import Phrase

END = "<|endoftext|>"
"""Token at the end of a text, with which GLM-4 also pads."""
SPECIAL = (
    *(END, "[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>"),
    *ROLES,
    *("<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>", "<|end_of_video|>"),
)
"""Special tokens; their ids follow the ranks, from 151329 on."""
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Expression for the pieces of text within which tokens are merged."""
_LINE = re.compile(rb"([A-Za-z0-9+/]+=*) (\d+)")


def is_rank_file(path: Path) -> bool:
    """Return whether a file lists byte strings with ranks."""
    with path.open("rb") as file:
        return _LINE.fullmatch(file.readline(1024).strip()) is not None


def rank_tokenizer(path: Path) -> Any:
    """Return the fast tokenizer of such a file; raise ``InvalidFileError`` with the bad line."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = _words_by_rank(path)
    vocabulary = {word: index for index, word in enumerate([*words, *SPECIAL])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges(words), ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in SPECIAL]
    )
    add_prefix(tokenizer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=END,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = roles_template("", END)
    return fast


def _words_by_rank(path: Path) -> list[str]:
    """Return the byte strings in the order of their ranks, in letters that stand for bytes."""
    letters = _letters()
    words = []
    for number, line in enumerate(path.read_bytes().splitlines()):
        match = _LINE.fullmatch(line)
        if match is None or int(match[2]) != number:
            raise InvalidFileError(
                path, number + 1, Phrase("is not a byte string with the next rank")
            )
        words.append("".join(letters[byte] for byte in base64.b64decode(match[1])))
    return words


def _letters() -> list[str]:
    """Return GPT-2's letter of every byte: itself if it is visible, else the next beyond 255."""
    visible = {*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    beyond = iter(range(256, 512))
    return [chr(byte if byte in visible else next(beyond)) for byte in range(256)]


def merges(best_first: Sequence[str]) -> list[tuple[str, str]]:
    """Return every pair of tokens that makes another token, in the order of the tokens made."""
    known = set(best_first)
    pairs = []
    for word in best_first:
        cuts = ((word[:cut], word[cut:]) for cut in range(1, len(word)))
        pairs += [(left, right) for left, right in cuts if left in known and right in known]
    return pairs
