"""From files to the tables of a run: counted, cut, weighed, split, packed, kept and found again."""

import io
import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from launcher.base_model.find_checkpoint import Checkpoint
from launcher.data.cache import Entry, content_key, made_by, make_entry, torn
from launcher.data.sources import find_sources
from launcher.data.summary import DataSummary, describe
from launcher.data.tables import training_table, validation_table
from launcher.display.shown_samples import samples
from launcher.lifecycle.preparation_process import prepared_data
from planner.base.errors import InvalidFileError, InvalidRequestError
from tests.launcher.launching import asked, write_records
from tests.launcher.plans import plan
from tests.launcher.tiny_model import byte_tokenizer

LONG = "x" * 200


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tuneplan" / "data"


def prepared(checkpoint: Path, screen: io.StringIO | None = None, **changes: Any) -> Entry:
    made = plan(**changes)
    return prepared_data(
        made, find_sources(made.data), Checkpoint(checkpoint, "tiny"), screen or io.StringIO()
    )


def rows(entry: Entry) -> list[list[int]]:
    return list(training_table(str(entry.folder))["input_ids"])


def numbered(path: Path, count: int, word: str = "n") -> str:
    write_records(path, [asked(f"{word} {number}", "yes") for number in range(count)])
    return str(path)


def test_what_is_cut_and_left_out_is_counted(tmp_path: Path, tiny_checkpoint: Path) -> None:
    """Cut in the answer, and before it. The template puts 20 characters before a question and
    15 between it and its answer."""
    path = tmp_path / "data.jsonl"
    write_records(path, [asked("Who?", "Ada"), asked("Who?", LONG), asked(LONG, "Ada")])
    entry = prepared(tiny_checkpoint, data__source=str(path), batch__sequence_length=64)
    summary = DataSummary(**entry.summary)
    whole, cut = rows(entry)
    assert len(whole) < len(cut) == 64
    assert (summary.num_samples, summary.num_truncated, summary.num_dropped) == (2, 1, 1)
    assert summary.num_tokens_lost == len(whole) - 3 + 200 - 64
    assert summary.num_answer_tokens_lost == summary.num_tokens_lost - 1, "the line break"
    assert summary.num_tokens == len(whole) + 64
    text = "\n".join(describe(summary, 64))
    assert f"{path} (messages): 2 samples, {len(whole) + 64} tokens" in text
    assert f"1 sample cut to 64 tokens: {summary.num_tokens_lost} tokens lost" in text


def test_nothing_left_to_learn(tmp_path: Path, tiny_checkpoint: Path) -> None:
    path = numbered(tmp_path / "data.jsonl", 2)
    with pytest.raises(InvalidFileError, match="no record has an answer within 8 tokens"):
        prepared(tiny_checkpoint, data__source=path, batch__sequence_length=8)


def test_sources_have_weights(tmp_path: Path, tiny_checkpoint: Path) -> None:
    """Two copies of each of ten; about half of a hundred, the same ones for the same seed."""
    sources = [
        {"source": numbered(tmp_path / "a.jsonl", 10, "a"), "weight": 2},
        {"source": numbered(tmp_path / "b.jsonl", 100, "b"), "weight": 0.5},
    ]
    data = {"sources": sources}
    first = rows(prepared(tiny_checkpoint, data=data))
    assert 20 + 35 < len(first) < 20 + 65
    assert all(first[index] == first[index + 1] for index in range(0, 20, 2))
    assert len({tuple(row) for row in first}) == len(first) - 10
    again = rows(prepared(tiny_checkpoint, data=data, output__directory="elsewhere"))
    assert first == again
    other = rows(prepared(tiny_checkpoint, data=data, training={"max_steps": 1, "seed": 7}))
    assert first != other


def test_validation_is_kept_out_of_training(tmp_path: Path, tiny_checkpoint: Path) -> None:
    path = numbered(tmp_path / "data.jsonl", 100)
    data = {"sources": [{"source": path, "weight": 3}], "validation_fraction": 0.2}
    entry = prepared(tiny_checkpoint, data=data)
    kept_out = {tuple(row) for row in validation_table(str(entry.folder))["input_ids"]}
    trained = {tuple(row) for row in rows(entry)}
    assert 8 < len(kept_out) < 35
    assert kept_out.isdisjoint(trained)
    assert len(kept_out) + len(trained) == 100
    assert entry.summary["num_samples"] == 3 * len(trained)
    assert entry.summary["num_validation"] == len(kept_out)


def test_no_validation_unless_asked_for(tmp_path: Path, tiny_checkpoint: Path) -> None:
    path = numbered(tmp_path / "data.jsonl", 3)
    assert validation_table(str(prepared(tiny_checkpoint, data__source=path).folder)) is None
    with pytest.raises(InvalidFileError, match=r"validation_fraction 0.01 keeps none of its 3"):
        prepared(tiny_checkpoint, data={"source": path, "validation_fraction": 0.01})


def test_a_share_that_takes_every_record_is_blamed(tmp_path: Path, tiny_checkpoint: Path) -> None:
    data = {"source": numbered(tmp_path / "two.jsonl", 2), "validation_fraction": 0.999}
    with pytest.raises(InvalidFileError, match=r"validation_fraction 0.999 takes all of its 2"):
        prepared(tiny_checkpoint, data=data)


def test_tokens_beyond_the_embedding_are_refused(tmp_path: Path, tiny_checkpoint: Path) -> None:
    """Tokens were added to the tokenizer, and the model was not resized."""
    checkpoint = tmp_path / "checkpoint"
    shutil.copytree(tiny_checkpoint, checkpoint)
    tokenizer = byte_tokenizer()
    rows = len(tokenizer)
    tokenizer.add_tokens(["<|new|>"], special_tokens=True)
    tokenizer.save_pretrained(checkpoint)
    path = tmp_path / "data.jsonl"
    write_records(path, [asked("Who?", "Ada<|new|>")])
    with pytest.raises(
        InvalidRequestError,
        match=rf"writes '<\|new\|>' as token {rows}, and the model's embedding has {rows} rows",
    ):
        prepared(checkpoint, data__source=str(path))


def test_files_of_other_splits_are_said_to_be_left_out(
    tmp_path: Path, tiny_checkpoint: Path
) -> None:
    (tmp_path / "data").mkdir()
    for name in ("train", "test", "dev"):
        numbered(tmp_path / "data" / f"{name}.jsonl", 2, name)
    summary = prepared(tiny_checkpoint, data__source=str(tmp_path / "data")).summary
    assert summary["num_samples"] == 2
    line = "data: 2 files of other splits left out (data.split says which is read)"
    assert line in describe(DataSummary(**summary), 128)


def thinking(question: str) -> dict[str, Any]:
    record = asked(question, "Ada")
    record["messages"][1]["reasoning_content"] = "A thought."
    return record


def test_what_cannot_be_learnt_is_counted_by_reason(tmp_path: Path, tiny_checkpoint: Path) -> None:
    path = tmp_path / "data.jsonl"
    write_records(path, [asked("Who?", "Ada"), thinking("Why?"), asked("And?", "Bob")])
    reason = "the model's chat template has no place for a thought"
    with pytest.raises(InvalidFileError, match=rf"jsonl:2: messages\[1\].*: {reason}"):
        prepared(tiny_checkpoint, data__source=str(path))
    entry = prepared(tiny_checkpoint, data={"source": str(path), "errors": "skip"})
    assert entry.summary["unlearnable"] == {reason: 1}
    lines = describe(DataSummary(**entry.summary), 128)
    assert f"data: 1 record of those cannot be learnt: {reason}" in lines


def test_data_that_mostly_cannot_be_learnt_are_refused(
    tmp_path: Path, tiny_checkpoint: Path
) -> None:
    path = tmp_path / "data.jsonl"
    write_records(path, [asked("Who?", "Ada"), thinking("Why?"), thinking("And?")])
    with pytest.raises(InvalidFileError, match=r"2 of 3 records cannot be learnt: the model's"):
        prepared(tiny_checkpoint, data={"source": str(path), "errors": "skip"})


def test_a_read_only_cache_is_read(
    tmp_path: Path, tiny_checkpoint: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is opened for writing, as a file system that is mounted so would refuse."""
    path = numbered(tmp_path / "data.jsonl", 3)
    made = prepared(tiny_checkpoint, data__source=path)

    def refuses(*_: Any, **__: Any) -> Any:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("launcher.storage.whole_folders.fcntl.flock", refuses)
    assert prepared(tiny_checkpoint, data__source=path).folder == made.folder
    with pytest.raises(InvalidRequestError, match="Read-only file system"):
        prepared(tiny_checkpoint, data__source=path, batch__sequence_length=100)


def test_a_key_has_the_code_that_made_the_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    before = content_key({})
    assert set(made_by()) == {"source", "jinja2", "tokenizers", "transformers", "trl"}
    monkeypatch.setattr("launcher.data.cache.made_by", lambda: {**made_by(), "trl": "0"})
    assert content_key({}) != before


def test_answers_that_only_their_own_turn_has_become_texts_of_their_own(
    tmp_path: Path, tiny_checkpoint: Path
) -> None:
    """As with Qwen3, whose template cuts out earlier thoughts; loose and packed learn the same."""
    checkpoint = tmp_path / "checkpoint"
    shutil.copytree(tiny_checkpoint, checkpoint)
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = tokenizer.chat_template.replace(
        "message['content']",
        "(message['content'] if loop.last else message['content'].split('</think>')[-1])",
    )
    tokenizer.save_pretrained(checkpoint)
    path = tmp_path / "data.jsonl"
    turns = [*asked("1?", "<think>a</think>Ada")["messages"], *asked("2?", "xxBob")["messages"]]
    write_records(path, [{"messages": turns}])
    for packing in (False, True):
        entry = prepared(checkpoint, data__source=str(path), batch__packing=packing)
        learnt = [
            tokenizer.decode([label for label in labels if label >= 0])
            for _, labels in samples(str(entry.folder))
        ]
        assert sorted(learnt) == ["<think>a</think>Ada<|end|>", "xxBob<|end|>"]
    assert entry.summary["num_samples"] == 2


def test_packed_rows_hold_whole_samples(tmp_path: Path, tiny_checkpoint: Path) -> None:
    path = tmp_path / "data.jsonl"
    write_records(path, [asked("n" * (1 + number % 40), "yes") for number in range(60)])
    loose = prepared(tiny_checkpoint, data__source=str(path))
    packed = prepared(tiny_checkpoint, data__source=str(path), batch__packing=True)
    table = training_table(str(packed.folder))
    assert all(
        sum(lengths) == len(ids) <= 128
        for lengths, ids in zip(table["seq_lengths"], table["input_ids"], strict=True)
    )
    assert len(table) == packed.summary["num_rows"] < 30
    samples = []
    for lengths, ids in zip(table["seq_lengths"], table["input_ids"], strict=True):
        for length in lengths:
            samples.append(ids[:length])
            ids = ids[length:]
    assert sorted(samples) == sorted(rows(loose))
    assert packed.summary["num_tokens"] == loose.summary["num_tokens"]
    assert any("packed into" in line for line in describe(DataSummary(**packed.summary), 128))


def test_bad_records_are_reported(tmp_path: Path, tiny_checkpoint: Path) -> None:
    path = tmp_path / "data.jsonl"
    numbered(path, 2)
    with path.open("a", encoding="utf-8") as file:
        file.write("{\n")
    entry = prepared(tiny_checkpoint, data={"source": str(path), "errors": "skip"})
    lines = describe(DataSummary(**entry.summary), 128)
    assert f"data: 1 bad record skipped; the first: {path}:3: is not JSON" in lines[-1]


def test_a_record_that_the_template_refuses_is_named(
    tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.launcher import tiny_model

    no_system = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    tokenizer = tiny_model.byte_tokenizer()
    tokenizer.chat_template = no_system + tiny_model.CHAT_TEMPLATE
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    path = tmp_path / "data.jsonl"
    record = asked("Who?", "Ada")
    told = {"messages": [{"role": "system", "content": "Be brief."}, *record["messages"]]}
    write_records(path, [record, told])
    with pytest.raises(InvalidFileError, match=r"jsonl:2: the model's chat template refuses it"):
        prepared(tmp_path / "tokenizer", data__source=str(path))
    entry = prepared(tmp_path / "tokenizer", data={"source": str(path), "errors": "skip"})
    assert (entry.summary["num_samples"], entry.summary["num_skipped"]) == (1, 1)


HOSTILE_TEMPLATES = {
    "a command": "{{ cycler.__init__.__globals__.os.system('touch MADE') }}",
    "a class": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "a loop": "{% for _ in range(10 ** 12) %}{% endfor %}",
    "a division": "{{ 1 / 0 }}",
    "memory": "{{ 'a' * 10 ** 18 }}",
}


@pytest.mark.parametrize("template", HOSTILE_TEMPLATES)
def test_a_template_runs_in_a_sandbox(template: str, tmp_path: Path) -> None:
    from tests.launcher import tiny_model

    made, tokenizer = tmp_path / "made", tiny_model.byte_tokenizer()
    hostile = HOSTILE_TEMPLATES[template].replace("MADE", str(made))
    tokenizer.chat_template = hostile + tiny_model.CHAT_TEMPLATE
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    write_records(tmp_path / "data.jsonl", [asked("Who?", "Ada")])
    with pytest.raises(InvalidFileError, match=r"jsonl:1: the model's chat template refuses it"):
        prepared(tmp_path / "tokenizer", data__source=str(tmp_path / "data.jsonl"))
    assert not made.exists()


def test_the_same_data_are_tokenized_once(
    tmp_path: Path, tiny_checkpoint: Path, cache: Path
) -> None:
    """By content: the name does not matter, a byte and a setting do."""
    path = tmp_path / "data.jsonl"
    numbered(path, 3)
    first, again = io.StringIO(), io.StringIO()
    made = prepared(tiny_checkpoint, first, data__source=str(path))
    found = prepared(tiny_checkpoint, again, data__source=str(path))
    assert found.folder == made.folder
    assert "already tokenized" in again.getvalue()
    assert "already tokenized" not in first.getvalue()
    prepared(tiny_checkpoint, data__source=str(path), batch__sequence_length=100)
    prepared(tiny_checkpoint, data__source=str(path), data__loss_on="everything")
    with path.open("a", encoding="utf-8") as file:
        file.write("\n")
    prepared(tiny_checkpoint, data__source=str(path))
    assert len(list(cache.glob("[!.]*"))) == 4


@pytest.mark.parametrize("damage", ["cut", "changed", "missing", "no summary"])
def test_a_torn_entry_is_made_again(tmp_path: Path, tiny_checkpoint: Path, damage: str) -> None:
    path = numbered(tmp_path / "data.jsonl", 3)
    entry = prepared(tiny_checkpoint, data__source=path)
    expected, table = rows(entry), entry.folder / "train.arrow"
    content = table.read_bytes()
    if damage == "cut":
        table.write_bytes(content[:-20])
    elif damage == "changed":
        table.write_bytes(content[:-40] + bytes([content[-40] ^ 1]) + content[-39:])
    elif damage == "missing":
        table.unlink()
    else:
        (entry.folder / "summary.json").write_text("{", encoding="utf-8")
    screen = io.StringIO()
    again = prepared(tiny_checkpoint, screen, data__source=path)
    assert "is torn" in screen.getvalue()
    assert rows(again) == expected
    assert torn(again.folder) is None


def test_a_launch_that_was_stopped_leaves_no_entry(tmp_path: Path) -> None:
    def stopped(folder: Path) -> dict[str, Any]:
        (folder / "train.arrow").write_bytes(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_entry(tmp_path / "entry", stopped)
    assert not (tmp_path / "entry").exists()


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    def full(_folder: Path) -> dict[str, Any]:
        raise OSError(28, "No space left on device")

    with pytest.raises(InvalidRequestError, match=r"No space left on device\. Make room"):
        make_entry(tmp_path / "entry", full)
    assert not list(tmp_path.glob(".entry*"))


def test_the_summary_is_json(tmp_path: Path, tiny_checkpoint: Path) -> None:
    path = numbered(tmp_path / "data.jsonl", 3)
    entry = prepared(tiny_checkpoint, data__source=path)
    content = json.loads((entry.folder / "summary.json").read_text(encoding="utf-8"))
    assert asdict(DataSummary(**content["summary"])) == entry.summary
