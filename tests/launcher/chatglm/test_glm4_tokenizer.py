"""GLM-4's tokenizer from its list of ranks, held to byte-pair encoding by its definition."""

import base64
import json
import random
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import regex
from transformers import AutoTokenizer

from launcher.chatglm.tokenizer import rebuilt_tokenizer
from planner.base.errors import InvalidFileError
from tests.launcher.chatglm.original import TEXTS, config

WORD = regex.compile(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""As ``tokenization_chatglm.py`` at THUDM/glm-4-9b-chat has it."""
Ranks = dict[bytes, int]


def merged(parts: list[bytes], pair: tuple[bytes, bytes]) -> list[bytes]:
    """Every occurrence, from the left."""
    result: list[bytes] = []
    index = 0
    while index < len(parts):
        found = tuple(parts[index : index + 2]) == pair
        result.append(b"".join(pair) if found else parts[index])
        index += 2 if found else 1
    return result


def trained_ranks(size: int) -> Ranks:
    """The most frequent pair is the next token."""
    words = [[bytes([byte]) for byte in word.encode()] for word in WORD.findall(" ".join(TEXTS))]
    ranks = {bytes([byte]): byte for byte in range(256)}
    while len(ranks) < size:
        pairs = Counter(pair for word in words for pair in pairwise(word))
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        ranks[b"".join(best)] = len(ranks)
        words = [merged(word, best) for word in words]
    return ranks


def reference_ids(text: str, ranks: Ranks) -> list[int]:
    ids = []
    for word in WORD.findall(text):
        parts = [bytes([byte]) for byte in word.encode()]
        while True:
            pairs = [pair for pair in pairwise(parts) if b"".join(pair) in ranks]
            if not pairs:
                break
            parts = merged(parts, min(pairs, key=lambda pair: ranks[b"".join(pair)]))
        ids += [ranks[part] for part in parts]
    return ids


@pytest.fixture(scope="module")
def ranks() -> Ranks:
    return trained_ranks(420)


@pytest.fixture(scope="module")
def tokenizer(ranks: Ranks, tmp_path_factory: pytest.TempPathFactory) -> Any:
    source, saved = (tmp_path_factory.mktemp("ranks") / name for name in ("source", "saved"))
    rebuilt_in(source, ranks).save_pretrained(saved)
    return AutoTokenizer.from_pretrained(saved, trust_remote_code=False)


def rebuilt_in(folder: Path, ranks: Ranks) -> Any:
    folder.mkdir()
    lines = (f"{base64.b64encode(word).decode()} {rank}\n" for word, rank in ranks.items())
    (folder / "tokenizer.model").write_text("".join(lines), encoding="ascii")
    (folder / "config.json").write_text(json.dumps(config(640)), encoding="utf-8")
    return rebuilt_tokenizer(folder)


def test_ids_are_those_of_the_definition(tokenizer: Any, ranks: Ranks) -> None:
    draw = random.Random(0)
    pieces = [
        *" \n\t'_.(=",
        *"你好世界é\u0301\U0001f600\u3000",
        "  ",
        "\r\n",
        "I'LL",
        "1234",
        "x" * 9,
    ]
    pieces += " ".join(TEXTS).split()
    strings = ["".join(draw.choices(pieces, k=draw.randint(0, 12))) for _ in range(1500)]
    ours = tokenizer(strings, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    expected = [reference_ids(text, ranks) for text in strings]
    assert ours == expected
    assert [tokenizer.decode(ids) for ids in ours] == strings


def test_a_conversation(tokenizer: Any, ranks: Ranks) -> None:
    """<|endoftext|> is 151329 and <|user|> 151336 behind GLM-4's own 151,329 ranks."""
    first = len(ranks)
    end, user, assistant = first, first + 7, first + 8
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]
    encoded = tokenizer.apply_chat_template(
        messages, return_dict=True, return_assistant_tokens_mask=True
    )
    question = [user, ranks[b"\n"], *reference_ids("hi", ranks)]
    answer = [ranks[b"\n"], *reference_ids("yes", ranks), end]
    assert encoded["input_ids"] == [first + 2, first + 4, *question, assistant, *answer]
    assert sum(encoded["assistant_masks"]) == len(answer)
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.padding_side) == (
        *(end, end),
        "left",
    )


def test_a_list_with_a_gap_is_refused(ranks: Ranks, tmp_path: Path) -> None:
    with pytest.raises(InvalidFileError, match=r"tokenizer\.model:421: is not a byte string"):
        rebuilt_in(tmp_path / "gap", {**ranks, b"xyz": 500})
