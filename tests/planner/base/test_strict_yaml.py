"""What a spec takes, refuses and writes."""

import json
import pickle
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from msgspec import Meta, ValidationError, convert, field, structs, to_builtins

from planner.base.errors import InvalidFileError
from planner.base.phrases import Phrase
from planner.base.preset_files import translations
from planner.base.strict_yaml import PositiveInt, Spec, parse_spec
from planner.plan.training_section import TrainingSection


class Inner(Spec):
    size: PositiveInt


class Pair(Spec):
    left: int
    right: int


class Outer(Spec):
    kind: Literal["a", "b"] = "a"
    name: str
    share: Annotated[float, Meta(gt=0, lt=1)] = 0.5
    inner: Inner | None = None
    many: tuple[Inner, ...] = ()
    either: int | Literal["all"] = "all"
    version: Annotated[str, Meta(pattern=r"^\d\.\d$")] = "1.0"
    one: Literal[1] = 1
    on: bool = False
    table: dict[Literal["x", "y"], int] = field(default_factory=dict)
    pair: Pair | None = None
    children: tuple["Outer", ...] = ()

    def __post_init__(self) -> None:
        if self.on and self.inner is None:
            raise ValueError("on needs inner")


def reason(content: dict[str, Any]) -> str:
    with pytest.raises(InvalidFileError) as error:
        parse_spec(Outer, json.dumps(content), Path("file.json"))
    return str(error.value).replace("file.json:1: ", "").replace("file.json: ", "")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ({"nam": "n"}, "unknown key 'nam'. Did you mean 'name'?"),
        ({"inner": {"size": 1, "sise": 1}}, "unknown key 'inner.sise'. Did you mean 'size'?"),
        ({"many": [{"size": 1}, {}]}, "many.1.size: this key is missing"),
        ({"name": 1}, 'name: it should be a text, not the number 1: write "1"'),
        ({"name": None}, "name: it should be a text, not null"),
        ({"kind": "c"}, "kind: it should be 'a' or 'b', not the text 'c'"),
        ({"kind": ["a"]}, "kind: it should be a text, not a list"),
        ({"one": True}, "one: it should be a whole number, not the truth value True"),
        ({"one": 2}, "one: it should be 1, not the number 2"),
        ({"share": 1}, "share: it should be a number < 1.0, not the number 1"),
        ({"share": 0.0}, "share: it should be a number > 0.0, not the number 0.0"),
        ({"share": True}, "share: it should be a number, not the truth value True"),
        ({"share": "0.5"}, "share: it should be a number, not the text '0.5'"),
        ({"inner": {"size": 0}}, "inner.size: it should be a whole number >= 1, not the number 0"),
        (
            {"inner": {"size": True}},
            "inner.size: it should be a whole number, not the truth value True",
        ),
        (
            {"inner": {"size": 1.0}},
            "inner.size: it should be a whole number, not the number 1.0: write 1",
        ),
        ({"inner": 3}, "inner: it should be a mapping or null, not the number 3"),
        ({"many": {}}, "many: it should be a list, not a mapping"),
        ({"either": "some"}, "either: it should be a whole number or 'all', not the text 'some'"),
        (
            {"either": True},
            "either: it should be a whole number or a text, not the truth value True",
        ),
        (
            {"version": "1"},
            r"version: it should be a text matching regex '^\\d\\.\\d$', not the text '1'",
        ),
        ({"on": 1}, "on: it should be true or false, not the number 1"),
        ({"on": True}, "on needs inner"),
        ({"children": [{"name": "c", "on": True}]}, "children.0: on needs inner"),
        ({"table": [1]}, "table: it should be a mapping, not a list"),
        ({"table": {"z": 1}}, "table: a key should be 'x' or 'y', not 'z'"),
        ({"table": {"x": "1"}}, "table.*: it should be a whole number, not a text"),
    ],
)
def test_what_is_refused_and_why(content: dict[str, Any], problem: str) -> None:
    assert reason({"name": "n", **content}) == problem


def test_a_missing_key_is_named_after_an_unknown_one() -> None:
    assert reason({}) == "name: this key is missing"
    assert reason({"name": "n", "pair": {}}) == "pair.left, pair.right: these keys are missing"
    assert reason({"nmae": "n"}) == "unknown key 'nmae'. Did you mean 'name'?"


def test_what_is_read_is_what_was_written() -> None:
    content = {
        "name": "n",
        "share": 0.25,
        "inner": {"size": 2},
        "many": [{"size": 1}],
        "either": 3,
        "table": {"x": 1},
        "children": [{"name": "c"}],
    }
    read = convert(content, Outer)
    assert read.many == (Inner(size=1),)
    assert read.children[0].table == {}
    written = json.loads(json.dumps(to_builtins(read)))
    assert written.items() >= {**content, "children": written["children"]}.items()
    assert convert(written, Outer) == read


def test_a_whole_number_is_a_number() -> None:
    assert repr(convert({"rate": 2}, Rate)) == "Rate(rate=2.0)"


class Rate(Spec):
    rate: float


def test_values_are_equal_by_their_fields_and_cannot_be_changed() -> None:
    one, other = Inner(size=1), Inner(size=1)
    assert (one, hash(one)) == (other, hash(other))
    assert one != Inner(size=2)
    with pytest.raises(AttributeError):
        one.size = 2  # type: ignore[misc]
    larger = structs.replace(one, size=3)
    assert (larger, hash(larger)) == (Inner(size=3), hash(Inner(size=3)))
    assert pickle.loads(pickle.dumps(one)) == one


def test_a_copy_agrees_too() -> None:
    with pytest.raises(ValueError, match="on needs inner"):
        structs.replace(Outer(name="n"), on=True)


def test_a_subclass_has_its_fields_beside_its_bases_by_name_only() -> None:
    class More(Inner):
        other: str = "o"

    assert to_builtins(More(size=1)) == {"size": 1, "other": "o"}
    with pytest.raises(TypeError):
        More(1)  # type: ignore[call-arg]
    with pytest.raises(ValidationError):
        convert({"size": 1, "third": 3}, More)


def test_no_number_is_no_number_in_range() -> None:
    with pytest.raises(ValidationError):
        convert({"name": "n", "share": float("nan")}, Outer)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"nam": "n"}, "\u672a\u77e5\u7684\u952e 'nam'\u3002"),
        ({"many": [{"size": 1}, {}]}, "many.1.size\uff1a\u7f3a\u5c11\u8fd9\u4e2a\u952e"),
        (
            {"kind": "c"},
            "kind\uff1a\u5e94\u4e3a'a' \u6216 'b'\uff0c\u800c\u4e0d\u662f\u6587\u672c 'c'",
        ),
        (
            {"inner": {"size": 0}},
            "inner.size\uff1a\u5e94\u4e3a\u6574\u6570 >= 1\uff0c\u800c\u4e0d\u662f\u6570\u5b57 0",
        ),
    ],
)
def test_a_problem_is_said_in_chinese(content: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidFileError) as error:
        parse_spec(Outer, json.dumps(content), Path("file.json"))
    table = translations("zh")
    assert isinstance(error.value.message, Phrase)
    assert said in error.value.message.translated(table)


def test_a_problem_of_our_own_is_said_in_chinese() -> None:
    """msgspec keeps the text of an error alone; the phrase is that of its cause."""
    section = {"epochs": 1.0, "max_steps": 2, "save_steps": 1}
    with pytest.raises(InvalidFileError) as error:
        parse_spec(TrainingSection, json.dumps(section), Path("file.json"))
    assert isinstance(error.value.message, Phrase)
    assert "\u53ea\u80fd\u7ed9\u4e00\u4e2a" in error.value.message.translated(translations("zh"))
