"""A handler gets what was enqueued, or enqueue refuses it and names the place; where nobody can tell, one warning."""

from __future__ import annotations

import dataclasses
import datetime as dt
import logging
import re
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Annotated, Any

import pytest
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    PrivateAttr,
    Secret,
    SecretBytes,
    SerializeAsAny,
    field_validator,
    model_validator,
)
from pydantic.dataclasses import dataclass as pydantic_dataclass

from framework.model.errors import InvalidPayload
from framework.service.codec import Codec
from tests.unit.payloads import (
    BERLIN,
    STAYS,
    Box,
    City,
    Country,
    Enclosed,
    Loose,
    Odd,
    OddArray,
    OddNan,
    Place,
    Point,
    Word,
)


@pytest.mark.parametrize(("payload_type", "payload"), STAYS)
def test_what_stays_equal_is_stored_without_a_word(
    payload_type: Any, payload: Any, caplog: pytest.LogCaptureFixture
) -> None:
    codec = Codec(payload_type, queue="jobs")
    codec.decode(codec.encode(payload))
    assert caplog.text == ""


class Card(BaseModel):
    token: Secret[str]


class Cents(BaseModel):
    cents: int

    @field_validator("cents")
    @classmethod
    def euros_to_cents(cls, value: int) -> int:
        return value * 100


class Grows(BaseModel):
    tags: list[str]

    @model_validator(mode="after")
    def mark(self) -> Grows:
        self.tags.append("seen")
        return self


class Crossing(BaseModel):
    id_: int = Field(alias="id")
    id: int = Field(alias="external_id")


class Hidden(BaseModel):
    user: int
    password: str | None = Field(None, exclude=True)


class Halved(BaseModel):
    data: bytes

    model_config = ConfigDict(ser_json_bytes="base64")


class Cut(BaseModel):
    text: Annotated[str, PlainSerializer(lambda value: value[:2])]


class Puppy(City):
    chip: str = ""


class Kennel(BaseModel):
    best: SerializeAsAny[City]


@dataclasses.dataclass
class Late:
    a: int
    b: int = dataclasses.field(default=0, init=False, compare=False)


def late() -> Late:
    found = Late(1)
    found.b = 7
    return found


@pydantic_dataclass(config=ConfigDict(extra="allow"))
class Open:
    a: int


CHANGES: list[tuple[Any, Any, str]] = [
    (Card, Card(token=Secret("hunter2")), "token: a secret would be stored as asterisks"),
    (list[SecretBytes], [SecretBytes(b"hunter2")], "0: a secret would be stored as asterisks"),
    (Cents, Cents(cents=5), "cents: comes back as another value"),
    (Cents, {"cents": 5}, "cents: comes back as another value"),
    (Grows, Grows(tags=[]), "tags: comes back with another length"),
    (Crossing, Crossing(id=1, external_id=2), "id_: comes back as another value"),
    (dict[str | int, int], {1: 10, "1": 20}, "payload: comes back with other keys"),
    (dict[Any, int], {1: 10}, "payload: comes back with other keys"),
    (City, Puppy(name="rex", chip="985"), "payload: Puppy comes back as City"),
    (list[City], [City(name="a"), Puppy(name="rex")], "1: Puppy comes back as City"),
    (Kennel, Kennel(best=Puppy(name="rex")), "best: Puppy comes back as City"),
    (dt.time, dt.time(12, tzinfo=BERLIN), "payload: comes back as another value"),
    (list[dt.time], [dt.time(12, tzinfo=BERLIN)], "0: comes back as another value"),
    (Halved, Halved(data=b"\x00\xff"), "data: comes back as another value"),
    (Hidden, Hidden(user=1, password="hunter2"), "password: has a value, but Field(exclude=True) keeps it out"),
    (Place, Place(at=Country(name="Chad")), "at: Country comes back as City"),
    (dict[str, City | Country], {"x": Country(name="Chad")}, "*: Country comes back as City"),
    (City | Country, Country(name="Chad"), "payload: Country comes back as City"),
    (set[dt.timedelta | str], {"PT1H"}, "payload: comes back with other elements"),
    (dt.timedelta | str, "PT1H", "payload: str comes back as timedelta"),
    (str | bytes, b"a", "payload: bytes comes back as str"),
    (str | Decimal, Decimal(1), "payload: Decimal comes back as str"),
    (Late, late(), "b: comes back as another value"),
    (Open, Open(a=1, b=2), "b: int comes back as nothing"),  # type: ignore[call-arg]
    (Cut, Cut(text="abc"), "text: comes back as another value"),
    (Loose, Loose(a=1, b=dt.date(2026, 1, 1)), "*: date comes back as str"),  # type: ignore[call-arg]
    (Enclosed, Enclosed(inner=City(name="a")), "inner: City comes back as dict"),
    (Any, Point(1, 2), "payload: Point comes back as list"),
    (dict[str, Any], {"a": {"b": Decimal(1)}}, "*.*: Decimal comes back as str"),
    (float | None, float("nan"), "payload: nan is not JSON"),
    (Box[float | None], Box(value=float("inf")), "value: inf is not JSON"),
    (re.Pattern[str], re.compile("a", re.IGNORECASE), "payload: comes back as another value"),
]


@pytest.mark.parametrize(("payload_type", "payload", "complaint"), CHANGES)
def test_what_would_change_is_refused_and_the_place_is_named(payload_type: Any, payload: Any, complaint: str) -> None:
    codec = Codec(payload_type, queue="jobs")
    with pytest.raises(InvalidPayload) as refused:
        codec.encode(payload)
    text = str(refused.value)
    assert text.startswith(f"queue 'jobs': payload would reach the handler changed: {complaint}")
    assert "hunter2" not in text


class Private(BaseModel):
    a: int
    _token: str = PrivateAttr("")


def private() -> Private:
    found = Private(a=1)
    found._token = "abc"
    return found


@pytest.mark.parametrize(
    ("payload_type", "payload", "doubt"),
    [
        (Odd, Odd("a"), "payload: Odd has no equality"),
        (OddArray, OddArray("a"), "payload: OddArray has no equality"),
        (OddNan, OddNan("a"), "payload: OddNan has no equality"),
        (dict[str, list[Odd]], {"a": [Odd("a")]}, "*.0: Odd has no equality"),
        (Iterable[int], [1, 2], "payload: ValidatorIterator has no equality"),
        (Sequence[int], (1, 2), "payload: tuple comes back as list"),
        (Any, {"a": (1, 2)}, "*: tuple comes back as list"),
        (Word | str, Word.RED, "payload: Word comes back as str"),
        (dt.datetime, dt.datetime(2026, 10, 25, 2, 30, fold=1), "payload: the fold of a time without zone"),
        (Private, private(), "_token: a private attribute is not stored"),
    ],
)
def test_where_nobody_can_tell_one_warning_is_given(
    payload_type: Any, payload: Any, doubt: str, caplog: pytest.LogCaptureFixture
) -> None:
    codec = Codec(payload_type, queue="jobs")
    for _ in range(3):
        codec.encode(payload)
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("framework", logging.WARNING)
    assert record.getMessage().startswith(f"queue 'jobs': payloads may reach the handler changed: {doubt}")


def test_a_difference_counts_more_than_a_doubt_before_it() -> None:
    with pytest.raises(InvalidPayload, match=r"1: Puppy comes back as City"):
        Codec(tuple[Odd, City], queue="jobs").encode((Odd("a"), Puppy(name="a")))


def test_nan_as_a_bare_word_is_never_stored() -> None:
    class Constants(BaseModel):
        model_config = ConfigDict(ser_json_inf_nan="constants")
        ratio: float

    with pytest.raises(InvalidPayload, match="cannot be stored as JSON: NaN is not JSON"):
        Codec(Constants, queue="jobs").encode(Constants(ratio=float("nan")))


def test_deep_nesting_is_compared_as_well() -> None:
    deep: Any = 1
    for _ in range(150):
        deep = [deep, {"a": deep}] if isinstance(deep, int) else [deep]
    Codec(Any, queue="jobs").encode(deep)
