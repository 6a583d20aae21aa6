"""The ``data`` section of a plan: where records are, how they are read, and which tokens the loss
counts."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast

from msgspec import structs, to_builtins

from planner.base.phrases import Phrase
from planner.base.strict_yaml import PositiveFloat, Share, Spec

DataFormat = Literal["messages", "sharegpt", "alpaca", "completion", "text", "guanaco", "xtuner"]
"""``guanaco``: one text with the marks ``### Human:`` and ``### Assistant:``, never recognised."""

FieldName = Literal[
    "messages",
    "conversations",
    "conversation",
    "tools",
    "system",
    "instruction",
    "input",
    "output",
    "history",
    "prompt",
    "completion",
    "text",
]
LossOn = Literal["answers", "everything"]
DataErrors = Literal["stop", "skip"]


class FieldNames(Spec, omit_defaults=True):
    """Names that the records use instead of a format's own: ``{instruction: instruction_zh}``."""

    messages: str | None = None
    """Field with OpenAI's messages."""
    conversations: str | None = None
    """Field with ShareGPT's turns."""
    conversation: str | None = None
    """Field with XTuner's turns."""
    tools: str | None = None
    """Field with the functions that may be called."""
    system: str | None = None
    """Field with the system message."""
    instruction: str | None = None
    """Field with Alpaca's instruction."""
    input: str | None = None
    """Field with the input of Alpaca's instruction."""
    output: str | None = None
    """Field with Alpaca's answer."""
    history: str | None = None
    """Field with earlier turns of an Alpaca record."""
    prompt: str | None = None
    """Field with the prompt of a completion."""
    completion: str | None = None
    """Field with the completion."""
    text: str | None = None
    """Field with plain text."""

    @property
    def given(self) -> Mapping[FieldName, str]:
        return cast("Mapping[FieldName, str]", to_builtins(self))


class DataSource(Spec):
    """One source of records of one kind."""

    source: str
    """The source: a file, a folder of files, a data set's name on the hub, or ``demo``."""
    weight: PositiveFloat = 1.0
    """How often an epoch sees each record: 2 is twice, 0.5 half of the records, drawn by the
    seed."""
    format: DataFormat | None = None
    """The format; where it is left out, the first record's fields decide."""
    fields: FieldNames = FieldNames()
    split: str = "train"
    """The split of a data set on the hub."""
    subset: str | None = None
    """The subset of a data set on the hub that has several."""
    system: str | None = None
    """The system message of conversations that have none."""


class DataSection(Spec):
    """The records of a run: one source, or several."""

    source: str | None = None
    """The only source, if there is one: a file, a folder, a data set's name on the hub, or
    ``demo``."""
    sources: tuple[DataSource, ...] = ()
    format: DataFormat | None = None
    """The format of the only source; where it is left out, the first record's fields decide."""
    fields: FieldNames = FieldNames()
    split: str = "train"
    """The split of the only source."""
    loss_on: LossOn = "answers"
    """The tokens that the loss counts."""
    errors: DataErrors = "stop"
    """The treatment of a bad record: it ends the launch, or is left out and counted."""
    validation_fraction: Share = 0.0
    """Share of the records that the seed draws and that are kept out of training."""

    def __post_init__(self) -> None:
        if self.source is not None and self.sources:
            raise ValueError(Phrase("give either source or sources"))
        if self.sources and (self.format is not None or self.fields.given):
            raise ValueError(
                Phrase("with several sources, format and fields belong to each of them")
            )

    @property
    def every_source(self) -> tuple[DataSource, ...]:
        """All sources in order; none where the plan leaves the data to its launch."""
        if self.source is None:
            return self.sources
        only = DataSource(
            source=self.source, format=self.format, fields=self.fields, split=self.split
        )
        return (only,)

    def reading(self, named: str) -> "DataSection":
        """Return the section with the sources that ``--data`` names; how records are read stays."""
        return structs.replace(self, **data_keys(named))


def data_keys(named: str) -> dict[str, Any]:
    """Return the keys that ``--data`` sets: a file, a folder or a name, or several with commas
    between.

    >>> data_keys("a.jsonl")
    {'source': 'a.jsonl', 'sources': ()}
    """
    names = [named] if Path(named).exists() else [name for name in named.split(",") if name]
    if len(names) == 1:
        return {"source": names[0], "sources": ()}
    return {"source": None, "sources": tuple(DataSource(source=name) for name in names)}
