"""Changes of a payload model between two versions of a service: can the new one read what the old one stored?"""

from __future__ import annotations

from typing import NamedTuple


class Change(NamedTuple):
    """One change: the bodies of the class Item in both versions, what the old one stores, and the verdict.

    Attributes:
        cause: why the new version cannot read it, as `worker check --against` says; empty: it can.
    """

    name: str
    old: str
    stored: str
    new: str
    cause: str = ""


# The old version stores texts with the word `secret`, which must not be printed.
COMPATIBLE = (
    Change("an optional field more", "to: str", "to='secret'", "to: str\nnote: str | None = None"),
    Change("a field with a default more", "to: str", "to='secret'", "to: str\nweight: float = 1.0"),
    Change("a list with a default more", "to: str", "to='secret'", "to: str\nmore: list[str] = []"),
    Change("int becomes float", "n: int", "n=7", "n: float"),
    Change("a field may be None", "to: str", "to='secret'", "to: str | None"),
    Change("a field may be of another type", "n: int", "n=7", "n: int | str"),
    Change("a field gets a default", "to: str", "to='secret'", "to: str = ''"),
    Change("fields change places", "to: str\nn: int", "to='secret', n=1", "n: int\nto: str"),
    Change("a limit goes", "to: str = Field(max_length=9)", "to='secret'", "to: str"),
    Change("a limit widens", "n: int = Field(le=10)", "n=10", "n: int = Field(le=100)"),
    Change("a member of a Literal more", "kind: Literal['a']", "kind='a'", "kind: Literal['a', 'b']"),
    Change("a field goes", "to: str\nn: int", "to='secret', n=1", "to: str"),
    Change("a new name, the old one as an alias", "to: str", "to='secret'",
           "url: str = Field(validation_alias=AliasChoices('url', 'to'))"),
    Change("a member of an inner model more", "inner: Inner", "inner=Inner(x=1)", "inner: Wider"),
    Change("a list becomes a tuple", "many: list[str]", "many=['secret']", "many: tuple[str, ...]"),
    Change("a datetime becomes text", "at: datetime", "at='2026-01-02T03:04:05Z'", "at: str"),
    Change("another default", "n: int = 1", "n=1", "n: int = 2"),
    Change("another description", "to: str", "to='secret'", "to: str = Field(description='where to')"),
    Change("a validator before that reads both", "to: str", "to='secret'",
           "url: str\n@model_validator(mode='before')\n@classmethod\ndef both(cls, data):\n"
           "    return {'url': data.get('url') or data.get('to')}"),
)  # fmt: skip
INCOMPATIBLE = (
    Change("a required field more", "to: str", "to='secret'", "to: str\nweight: float", "weight: missing"),
    Change("a new name", "to: str", "to='secret'", "url: str", "url: missing"),
    Change("text becomes int", "to: str", "to='secret'", "to: int", "to: int_parsing"),
    Change("float becomes int", "n: float", "n=1.5", "n: int", "n: int_from_float"),
    Change("a field may not be None any more", "to: str | None", "to=None", "to: str", "to: string_type"),
    Change("a limit narrows", "to: str", "to='secret'", "to: str = Field(max_length=3)", "to: string_too_long"),
    Change("a least value", "n: int", "n=-1", "n: int = Field(ge=0)", "n: greater_than_equal"),
    Change("a member of a Literal less", "kind: Literal['a', 'b']", "kind='b'", "kind: Literal['a']",
           "kind: literal_error"),
    Change("a field goes, and others are forbidden", "to: str\nn: int", "to='secret', n=1",
           "model_config = ConfigDict(extra='forbid')\nto: str", "*: extra_forbidden"),
    Change("a list becomes one", "to: list[str]", "to=['secret']", "to: str", "to: string_type"),
    Change("one becomes a list", "to: str", "to='secret'", "to: list[str]", "to: list_type"),
    Change("a field of an inner model more", "inner: Inner", "inner=Inner(x=1)", "inner: Stricter",
           "inner.y: missing"),
    Change("a type of a union less", "n: int | str", "n='secret'", "n: int", "n: int_parsing"),
    Change("text becomes a datetime", "at: str", "at='secret'", "at: datetime", "at: datetime_from_date_parsing"),
    Change("other keys of a dict", "by: dict[str, int]", "by={'secret': 1}", "by: dict[int, int]",
           "by.*.[key]: int_parsing"),
    Change("a pattern", "to: str", "to='secret'", "to: str = Field(pattern='^[0-9]+$')", "to: string_pattern_mismatch"),
    Change("a validator", "to: str", "to='secret'",
           "to: str\n@field_validator('to')\n@classmethod\ndef no(cls, to):\n    raise ValueError(f'not {to}')",
           "to: value_error"),
    Change("strict types", "n: str", "n='7'", "model_config = ConfigDict(strict=True)\nn: int", "n: int_type"),
    Change("a validator that fails by itself", "to: str", "to='secret'",
           "to: str\n@field_validator('to')\n@classmethod\ndef no(cls, to):\n    raise KeyError(to)",
           "KeyError in a validator or serializer"),
)  # fmt: skip

_MODULE = """\
from datetime import datetime
from typing import Literal
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, field_validator, model_validator
from framework import Queue, WorkerApp

class Inner(BaseModel):
    x: int

class Wider(Inner):
    y: int = 0

class Stricter(Inner):
    y: int

class Item(BaseModel):
{body}

class Service(WorkerApp):
    items = Queue[Item]("items")

    @items.handler
    def handle(self, item: Item) -> None: ...
"""


def module(body: str) -> str:
    """Return the source of a service whose queue carries this model."""
    return _MODULE.format(body="\n".join(f"    {line}" for line in body.split("\n")))
