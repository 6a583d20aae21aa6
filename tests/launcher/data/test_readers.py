"""Four kinds of file, folders and names of the hub, as streams; what is malformed is one line."""

import csv
import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
from msgspec import convert

from launcher.data.conversations import Conversation, Message
from launcher.data.json_array import CHUNK
from launcher.data.records import PlainText
from launcher.data.sources import check_named
from planner.base.errors import InvalidFileError, InvalidRequestError
from planner.plan.data_section import DataSection
from tests.launcher.data.reading import samples_of

ASK = {"role": "user", "content": "Who?"}
ANSWER = {"role": "assistant", "content": "Ada"}
CONVERSATION = Conversation((Message("user", "Who?"), Message("assistant", "Ada")))


def written(tmp_path: Path, text: str, name: str = "data.jsonl") -> Path:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def parquet(path: Path, columns: dict[str, list[Any]]) -> None:
    pyarrow.parquet.write_table(pa.table(columns), path)


MALFORMED: dict[str, tuple[bytes, str]] = {
    "cut.jsonl": (b'{"text": "a"}\n{"text": "b', "cut.jsonl:2: is not JSON (Unterminated"),
    "latin.jsonl": (
        b'{"text": "a"}\n{"text": "caf\xe9"}\n',
        "latin.jsonl:2: is not UTF-8 text (byte 14)",
    ),
    "empty.jsonl": (b"\n", "empty.jsonl: holds no records. Each one is messages;"),
    "comma.json": (b'[{"text": "a"}\n{"text": "b"}]', "comma.json:2: is not JSON (expecting ','"),
    "open.json": (b'[\n{"text": "a"},\n{"text": 1}\n', "open.json:3: text: text is expected"),
    "surrogate.jsonl": (
        b'{"text": "a \\ud83d b"}\n',
        "surrogate.jsonl:1: holds half of a character (\\ud83d), which is not text",
    ),
    "surrogate.json": (b'[{"text": "a \\udc00"}]', "surrogate.json:1: holds half of a character"),
    "digits.json": (b"[" + b"9" * 5000 + b"]", "digits.json:1: is not JSON of a record (a number"),
    "digits.jsonl": (b"9" * 5000, "digits.jsonl:1: is not JSON of a record (a number is too long"),
    "deep.json": (b"[" * 100_000, "deep.json:1: is not JSON of a record (nested too deeply)"),
    "more.json": (b'[{"text": "a"}] x', "more.json:1: is not JSON (text follows its end)"),
    "both.json": (
        b'{"train": [{"text": "a"}], "data": [{"text": "b"}]}',
        "both.json:1: train and data both hold records: put each in a file of its own",
    ),
    "unnamed.csv": (b"text,\na,b\n", "unnamed.csv:2: 'b' is in a column without a name"),
    "text.arrow": (b"text", "text.arrow: is not an Arrow stream ("),
    "word.json": (b'"text"', "word.json:1: a JSON array of records is expected"),
    "ragged.csv": (b"text,x\na,1\nb\n", "ragged.csv:3: the row has 1 field and the header 2"),
    "quote.csv": (b'text\n"a\n', "quote.csv:2: is not CSV (unexpected end of data)"),
    "twice.csv": (b"text,text\na,b\n", "twice.csv:1: column 'text' is there twice"),
    "header.csv": (b"question\na\n", "header.csv:2: fields are question; expected messages"),
    "latin.csv": (b"text\ncaf\xe9\n", "latin.csv: is not UTF-8 text"),
    "text.parquet": (b'{"text": "a"}', "text.parquet: is not Parquet (Parquet magic bytes"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_file_is_one_line(tmp_path: Path, name: str) -> None:
    content, expected = MALFORMED[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidFileError) as caught:
        samples_of(tmp_path / name)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path}/{expected}")
    assert "\n" not in message


def test_a_bad_row_of_parquet(tmp_path: Path) -> None:
    parquet(tmp_path / "data.parquet", {"text": ["a", None, "c"]})
    with pytest.raises(InvalidFileError, match=r"data.parquet: row 2: text: text is expected"):
        samples_of(tmp_path / "data.parquet")


def test_tables(tmp_path: Path) -> None:
    """Nested fields of Parquet are there in every row, and mostly hold nothing."""
    with (tmp_path / "data.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["instruction", "input", "output", "history", "system"])
        rows.writerow(["Who?", "", "Ada", "", ""])
        rows.writerow(["Two\nlines, one cell", "", "Ada", "", ""])
    parquet(tmp_path / "data.parquet", {"messages": [[{**ASK, "name": None}, ANSWER]]})
    assert samples_of(tmp_path / "data.csv")[0] == CONVERSATION
    assert len(samples_of(tmp_path / "data.csv")) == 2
    assert samples_of(tmp_path / "data.parquet") == [CONVERSATION]


def test_an_array_of_any_length(tmp_path: Path) -> None:
    """Elements and the space between them lie across what is read at once."""
    texts = ["a" * (CHUNK // 3), "b" * (2 * CHUNK), "c", "d" * CHUNK]
    content = "[" + (",\n" + " " * CHUNK).join(json.dumps({"text": text}) for text in texts) + "]"
    path = written(tmp_path, content, "data.json")
    assert samples_of(path) == [PlainText(text) for text in texts]
    broken = written(tmp_path, content.replace('{"text": "c"}', '{"text": 3}'), "bad.json")
    with pytest.raises(InvalidFileError, match=r"bad.json:3: text: text is expected"):
        samples_of(broken)


def test_json_lines_under_the_other_name(tmp_path: Path) -> None:
    path = written(tmp_path, '{"text": "a"}\n{"text": "b"}\n', "data.json")
    assert samples_of(path) == [PlainText("a"), PlainText("b")]


def test_a_folder_is_read_in_the_order_of_names(tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    written(tmp_path, '{"text": "b"}', "b.jsonl")
    written(tmp_path, '[{"text": "a"}]', "a.json")
    written(tmp_path, "text\nc\n", "more/c.csv")
    written(tmp_path, "no data", "README.md")
    assert samples_of(tmp_path) == [PlainText("a"), PlainText("b"), PlainText("c")]


def test_a_name_of_the_hub_is_loaded_by_datasets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library takes a folder where it takes a name, so that no hub is needed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "somebody" / "poems").mkdir(parents=True)
    written(tmp_path, '{"text": "a"}\n{"text": null}\n', "somebody/poems/train.jsonl")
    from launcher.data.readers import read_records
    from launcher.data.sources import DataFile, fetched
    from planner.plan.data_section import DataSource

    files = fetched(DataSource(source="somebody/poems"))
    records = [r for path in files for r in read_records(DataFile(path, "somebody/poems"))]
    assert [record.content for record in records] == [{"text": "a"}, {"text": None}]
    assert str(records[1].place.error("bad")) == "somebody/poems: row 2: bad"


@pytest.mark.parametrize(
    "data",
    [
        {"source": "somebody/poems", "split": "train[:2]"},
        {"sources": [{"source": "somebody/poems", "split": "train[:2]"}]},
    ],
)
def test_a_slice_of_a_split_is_refused_before_anything_is_fetched(data: dict[str, Any]) -> None:
    """``datasets`` keeps the whole split in the files that are read here."""
    with pytest.raises(InvalidRequestError) as caught:
        check_named(convert(data, DataSection))
    message = str(caught.value)
    assert message.startswith("data.split train[:2]: a part of a split is not read. Name the whole")
    assert "(train)" in message
    assert "\n" not in message


OBJECT = {"instruction": "Who?", "input": "", "output": "Ada"}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("one.json", json.dumps(OBJECT, indent=2)),
        ("one line.json", json.dumps(OBJECT)),
        ("nested.json", json.dumps({"version": "1", "data": [OBJECT]}, indent=2)),
        ("nested line.json", json.dumps({"train": [OBJECT], "version": 1})),
        ("array.json", json.dumps([OBJECT], indent=2)),
        ("messages.json", json.dumps({"messages": [ASK, ANSWER]}, indent=2)),
        ("comma.csv", "instruction,input,output\nWho?,,Ada\n"),
        ("semicolon.csv", "\ufeffinstruction;input;output\nWho?;;Ada\n"),
        ("tab.csv", "instruction\tinput\toutput\nWho?\t\tAda\n"),
        ("said.csv", "sep=;\ninstruction;output\nWho?;Ada\n"),
        ("quoted.csv", 'instruction,"a;b;c;d",output\nWho?,,Ada\n'),
        ("empty columns.csv", "instruction,input,output,,\nWho?,,Ada,,\n,,,,\n"),
        ("xtuner.json", json.dumps([{"conversation": [{"input": "Who?", "output": "Ada"}]}])),
    ],
)
def test_what_people_write(tmp_path: Path, name: str, text: str) -> None:
    """One object, an object that holds the records, and what spreadsheets save."""
    assert samples_of(written(tmp_path, text, name)) == [CONVERSATION]


def test_fields_that_other_rows_have_are_not_said(tmp_path: Path) -> None:
    """A table has every field in every row, null where JSON Lines leave it out."""
    calls = [
        {"type": "function", "id": str(n), "function": {"name": name, "arguments": arguments}}
        for n, (name, arguments) in enumerate([("f", {"city": "Oslo"}), ("g", {"n": [1, 2]})])
    ]
    records = [
        {
            "messages": [ASK, {"role": "assistant", "content": None, "tool_calls": calls}],
            "tools": [
                {"type": "function", "function": {"name": "f", "parameters": {"city": {"a": "b"}}}},
                {"type": "function", "function": {"name": "g", "parameters": {"n": {"x": ["y"]}}}},
            ],
        },
        {"messages": [ASK, ANSWER]},
    ]
    pyarrow.parquet.write_table(pa.Table.from_pylist(records), tmp_path / "data.parquet")
    lines = written(tmp_path, "\n".join(map(json.dumps, records)))
    assert samples_of(tmp_path / "data.parquet") == samples_of(lines)


def test_a_folder_is_read_by_its_split(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    for name in ("train-00000-of-00001", "test-00000-of-00001", "dev", "latest"):
        written(folder, json.dumps({"text": name}), f"{name}.jsonl")
    assert samples_of(folder) == [PlainText("latest"), PlainText("train-00000-of-00001")]
    assert samples_of(folder, split="test") == [PlainText("test-00000-of-00001")]
    assert samples_of(folder, split="validation") == [PlainText("dev")]
    (folder / "dev.jsonl").unlink()
    with pytest.raises(
        InvalidRequestError, match=r"has no split 'validation'; it has test, train\. Name one"
    ):
        samples_of(folder, split="validation")


def test_what_datasets_saves_to_disk(tmp_path: Path) -> None:
    from datasets import Dataset, DatasetDict

    one = Dataset.from_list([{"text": "a"}, {"text": "b"}])
    one.save_to_disk(tmp_path / "one", num_shards=2)
    assert samples_of(tmp_path / "one") == [PlainText("a"), PlainText("b")]
    two = DatasetDict({"train": one, "test": Dataset.from_list([{"text": "c"}])})
    two.save_to_disk(tmp_path / "two")
    assert samples_of(tmp_path / "two") == [PlainText("a"), PlainText("b")]
    assert samples_of(tmp_path / "two", split="test") == [PlainText("c")]
    with pytest.raises(InvalidRequestError, match="has no split 'dev'; it has train, test"):
        samples_of(tmp_path / "two", split="dev")
    (tmp_path / "one" / "state.json").write_text("{}", encoding="utf-8")
    with pytest.raises(InvalidFileError, match=r"state.json: has no _data_files"):
        samples_of(tmp_path / "one")


MUTATIONS = 50


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet", ".arrow"])
def test_a_mutated_file_gives_records_or_one_line(tmp_path: Path, suffix: str) -> None:
    """Bytes changed, cut out, doubled or put in at random places."""
    whole = tmp_path / f"whole{suffix}"
    records = [{"instruction": f"Who {n}?", "input": "", "output": f"Ada {n}"} for n in range(20)]
    write_table(whole, records)
    content, draw = whole.read_bytes(), random.Random(suffix)
    assert len(samples_of(whole)) == 20
    for number in range(MUTATIONS):
        path = tmp_path / f"mutated-{number}{suffix}"
        path.write_bytes(mutated(content, draw))
        for errors in ("stop", "skip"):
            assert "\n" not in what_is_wrong(path, errors)


def what_is_wrong(path: Path, errors: str) -> str:
    try:
        samples_of(path, errors=errors)
    except (InvalidFileError, InvalidRequestError) as error:
        return str(error)
    return ""


def write_table(path: Path, records: list[dict[str, str]]) -> None:
    table = pa.Table.from_pylist(records)
    match path.suffix:
        case ".jsonl":
            path.write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
        case ".json":
            path.write_text(json.dumps(records, indent=1), encoding="utf-8")
        case ".csv":
            with path.open("w", newline="", encoding="utf-8") as file:
                rows = csv.DictWriter(file, list(records[0]))
                rows.writeheader()
                rows.writerows(records)
        case ".parquet":
            pyarrow.parquet.write_table(table, path)
        case _:
            with pa.ipc.new_stream(str(path), table.schema) as stream:
                stream.write_table(table)


def mutated(content: bytes, draw: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(draw.randint(1, 4)):
        at, length = draw.randrange(len(changed)), draw.randint(1, 12)
        part = changed[at : at + length]
        changed[at : at + length] = draw.choice(
            [b"", part * 2, draw.randbytes(length), b'"', b"\\ud800", b"\xff", b"\n", b"[{"]
        )
    return bytes(changed)


def test_no_source_says_what_to_do() -> None:
    with pytest.raises(InvalidRequestError, match=r"names no data\. Say which with --data"):
        check_named(DataSection())


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("gone.jsonl", "does not exist"),
        ("folder", "holds no file that ends in .jsonl or .json or .csv or .parquet"),
        ("data.txt", ".jsonl or .json or .csv or .parquet is expected"),
    ],
)
def test_what_is_no_data(tmp_path: Path, name: str, reason: str) -> None:
    (tmp_path / "folder").mkdir()
    written(tmp_path, "a", "data.txt")
    with pytest.raises(InvalidRequestError, match=reason):
        check_named(DataSection(source=str(tmp_path / name)))
