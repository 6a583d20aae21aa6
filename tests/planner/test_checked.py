"""What a checked class takes, refuses and writes; files are read through the same checks."""

import pickle
from typing import Any, Literal

import pytest

from planner.checked import Checked, ValidationError, field
from planner.json_schema import json_schema


class Inner(Checked):
    size: int = field(ge=1)


class Outer(Checked):
    name: str
    kind: Literal["a", "b"] = "a"
    share: float = field(default=0.5, gt=0, lt=1)
    inner: Inner | None = None
    many: tuple[Inner, ...] = ()
    either: int | Literal["all"] = "all"
    table: dict[Literal["x", "y"], int] = field(default_factory=dict)
    version: str = field(default="1.0", pattern=r"^\d\.\d$")
    on: bool = False
    children: tuple["Outer", ...] = ()

    def _agrees(self) -> None:
        if self.on and self.inner is None:
            raise ValueError("on needs inner")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ({}, "name: this key is missing"),
        ({"name": "n", "nam": 1}, "nam: unknown key"),
        ({"name": 1}, "name: it should be a valid string"),
        ({"name": None}, "name: it should be a valid string"),
        ({"name": "n", "kind": "c"}, "kind: it should be 'a' or 'b'"),
        ({"name": "n", "kind": ["a"]}, "kind: it should be 'a' or 'b'"),
        ({"name": "n", "share": 1}, "share: it should be less than 1"),
        ({"name": "n", "share": 0.0}, "share: it should be greater than 0"),
        ({"name": "n", "share": True}, "share: it should be a valid number"),
        ({"name": "n", "share": float("nan")}, "share: it should be greater than 0"),
        (
            {"name": "n", "inner": {"size": 0}},
            "inner.size: it should be greater than or equal to 1",
        ),
        ({"name": "n", "inner": {"size": True}}, "inner.size: it should be a valid integer"),
        ({"name": "n", "inner": {"size": 1.0}}, "inner.size: it should be a valid integer"),
        ({"name": "n", "inner": 3}, "inner: it should hold keys of its own"),
        ({"name": "n", "many": {}}, "many: it should be a list"),
        ({"name": "n", "many": [{"size": 1}, {}]}, "many.1.size: this key is missing"),
        ({"name": "n", "either": "some"}, "either: it should be a valid integer or 'all'"),
        ({"name": "n", "either": True}, "either: it should be a valid integer or 'all'"),
        ({"name": "n", "table": [1]}, "table: it should be a mapping"),
        ({"name": "n", "table": {"z": 1}}, "table.z: it should be 'x' or 'y'"),
        ({"name": "n", "table": {"x": "1"}}, "table.x: it should be a valid integer"),
        ({"name": "n", "version": "1"}, r"version: it should be text that matches '^\\d\\.\\d$'"),
        ({"name": "n", "on": 1}, "on: it should be a valid boolean"),
        ({"name": "n", "on": True}, "on needs inner"),
        ({"name": "n", "children": [{"name": "c", "on": True}]}, "children.0: on needs inner"),
    ],
)
def test_what_is_refused_and_why(content: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValidationError) as error:
        Outer.model_validate(content)
    assert [str(each) for each in error.value.problems] == [problem]
    with pytest.raises(ValidationError):
        Outer(**content)


def test_every_problem_is_told() -> None:
    with pytest.raises(ValidationError) as error:
        Outer.model_validate({"share": 2, "inner": {"size": 0, "sise": 1}})
    assert [each.key for each in error.value.problems] == [
        "name",
        "share",
        "inner.size",
        "inner.sise",
    ]


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
    read = Outer.model_validate(content)
    assert read.many == (Inner(size=1),)
    assert read.children[0].table == {}
    written = read.model_dump(mode="json")
    assert {key: written[key] for key in content if key != "children"} == {
        key: value for key, value in content.items() if key != "children"
    }
    assert list(written) == list(Outer.model_fields)
    assert Outer.model_validate(written) == read


def test_a_whole_number_is_a_number() -> None:
    class Rate(Checked):
        rate: float

    assert repr(Rate(rate=2)) == "Rate(rate=2.0)"


def test_what_is_left_out_of_a_dump() -> None:
    made = Outer(name="n", inner=Inner(size=1))
    assert made.model_dump(exclude_defaults=True, exclude={"name", "table"}) == {
        "inner": {"size": 1}
    }
    assert made.model_dump(include={"name", "inner"}) == {"name": "n", "inner": {"size": 1}}
    assert "inner" not in Outer(name="n").model_dump(exclude_none=True)


def test_values_are_equal_by_their_fields_and_cannot_be_changed() -> None:
    one, other = Inner(size=1), Inner(size=1)
    assert (one, hash(one)) == (other, hash(other))
    assert one != Inner(size=2)
    with pytest.raises(AttributeError, match="size cannot be changed"):
        one.size = 2  # type: ignore[misc]
    larger = one.model_copy(update={"size": 3})
    assert (larger, hash(larger)) == (Inner(size=3), hash(Inner(size=3)))
    assert pickle.loads(pickle.dumps(one)) == one


def test_a_subclass_has_its_fields_beside_its_bases() -> None:
    class More(Inner):
        other: str = "o"

    assert More(size=1).model_dump() == {"size": 1, "other": "o"}
    assert list(Inner.model_fields) == ["size"]


def test_the_schema_of_nested_classes() -> None:
    schema = json_schema(Outer)
    assert schema["required"] == ["name"]
    properties = schema["properties"]
    assert properties["share"] == {
        "type": "number",
        "exclusiveMinimum": 0,
        "exclusiveMaximum": 1,
        "default": 0.5,
    }
    assert properties["inner"]["anyOf"] == [{"$ref": "#/$defs/Inner"}, {"type": "null"}]
    assert properties["many"]["items"] == {"$ref": "#/$defs/Inner"}
    assert schema["$defs"]["Inner"]["properties"] == {"size": {"type": "integer", "minimum": 1}}
    assert schema["$defs"]["Inner"]["additionalProperties"] is False
