"""Payloads: round trips, and what is refused before it is stored."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, SecretStr, computed_field, field_serializer

from framework.model.errors import DeclarationError, InvalidPayload
from framework.model.job import Failure
from framework.service.codec import MAX_DEPTH, Codec, UndecodablePayload, codec_for, parse_lenient, parse_strict

NAN, INF = float("nan"), float("inf")


class Colour(Enum):
    RED = "red"


class Inner(BaseModel):
    number: int | None = None
    ratio: float | None = None


class Model(BaseModel):
    text: str
    inner: Inner = Inner()
    many: list[Inner] = []
    when: datetime | None = None
    price: Decimal = Decimal(0)
    place: Path = Path(".")
    anything: Any = None


class Aliased(BaseModel):
    user: str = Field(alias="userId")
    read_as: str = Field(validation_alias="readAs", default="")
    written_as: str = Field(serialization_alias="writtenAs", default="")


class Computed(BaseModel):
    model_config = ConfigDict(extra="forbid")
    side: int

    @computed_field  # type: ignore[prop-decorator]
    @property
    def area(self) -> int:
        return self.side**2


@dataclass
class Data:
    name: str
    ratio: float | None = field(default=None, compare=False)


def codec(payload_type: Any) -> Codec:
    return Codec(payload_type, queue="jobs")


MOMENT = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("payload_type", "payload"),
    [
        (Model, Model(text="ü\u2028\0", many=[Inner(number=1)], when=MOMENT, price=Decimal("1.10"), place=Path("/x"))),
        (Model, Model(text="", anything={"a": [1, None, "b", {"c": 2.5}]})),
        (Data, Data("x", 1.5)),
        (Aliased, Aliased(userId="u", readAs="r", written_as="w")),
        (Computed, Computed(side=3)),
        (int, 2**70),
        (float, 0.1),
        (str, "a"),
        (bool, False),
        (bytes, b"abc"),
        (None, None),
        (str | None, None),
        (str | None, ""),
        (Colour, Colour.RED),
        (date, MOMENT.date()),
        (datetime, MOMENT),
        (timedelta, timedelta(hours=1, microseconds=1)),
        (Decimal, Decimal("0.10")),
        (UUID, UUID(int=7)),
        (list[Inner], [Inner(number=1), Inner()]),
        (tuple[int, str], (1, "a")),
        (set[int], {1, 2}),
        (dict[int, list[str]], {1: ["a"]}),
        (Annotated[int, Field(gt=0)], 1),
        (Literal["a", "b"], "b"),
        (Inner | Data, Data("x")),
    ],
)
def test_round_trip(payload_type: Any, payload: Any) -> None:
    data = codec(payload_type).encode(payload)
    json.loads(data)
    again = codec(payload_type).decode(data)
    assert again == payload
    assert type(again) is type(payload)


@pytest.mark.parametrize(
    ("payload_type", "payload", "complaint"),
    [
        (int, "seven", "payload does not fit: payload: int_parsing"),
        (int, None, "payload does not fit"),
        (None, 0, "payload does not fit"),
        (Model, {"text": 1, "inner": {"number": "x"}}, "text: string_type; inner.number: int_parsing"),
        (Model, Inner(), "payload does not fit"),
        (Annotated[int, Field(gt=0)], -1, "payload: greater_than"),
        (float, NAN, ""),
        (float, INF, ""),
        (float | None, NAN, "nan is not JSON"),
        (float | None, -INF, "-inf is not JSON"),
        (Inner, Inner(ratio=NAN), "nan is not JSON"),
        (Model, Model(text="", many=[Inner(), Inner(ratio=INF)]), "inf is not JSON"),
        (Model, Model(text="", anything=NAN), "nan is not JSON"),
        (Model, Model(text="", anything={"a": [1, (2, NAN)]}), "nan is not JSON"),
        (Data, Data("x", NAN), "nan is not JSON"),
        (Any, [[NAN]], "nan is not JSON"),
        (str, "\ud800", ""),
        (Any, {"a": "\udfff"}, "surrogates"),
        (bytes, b"\xff", "utf-8"),
        (Any, object(), "cannot be stored as JSON"),
        (SecretStr, SecretStr("hunter2"), "asterisks"),
        (dict[str, SecretStr], {"a": SecretStr("hunter2")}, "asterisks"),
    ],
)
def test_refused_at_enqueue(payload_type: Any, payload: Any, complaint: str) -> None:
    with pytest.raises(InvalidPayload) as refused:
        codec(payload_type).encode(payload)
    text = str(refused.value)
    assert text.startswith("queue 'jobs': payload ")
    assert complaint in text
    assert "hunter2" not in text


def test_asterisks_and_null_are_text_like_any_other() -> None:
    assert codec(Any).encode({"a": "*****", "b": None, "c": "NaN"}) == b'{"a":"*****","b":null,"c":"NaN"}'


def test_a_secret_that_its_model_writes_out_is_kept() -> None:
    class Open(BaseModel):
        secret: SecretStr
        none: None = None

        @field_serializer("secret")
        def reveal(self, secret: SecretStr) -> str:
            return secret.get_secret_value()

    assert codec(Open).decode(codec(Open).encode(Open(secret=SecretStr("*****")))).secret.get_secret_value() == "*****"


def test_what_cannot_be_read_back_is_not_stored() -> None:
    class Lossy(BaseModel):
        left_out: str = Field(exclude=True)

    with pytest.raises(InvalidPayload, match="left_out: missing"):
        codec(Lossy).encode(Lossy(left_out="x"))
    with pytest.raises(InvalidPayload, match="text: string_type"):
        codec(Model).encode(Model.model_construct(text=7, place=Path(), price=Decimal(1)))


def test_no_complaint_quotes_the_payload() -> None:
    with pytest.raises(InvalidPayload) as refused:
        codec(dict[str, int]).encode({f"k{i}": "hunter2" for i in range(9)})
    assert "(and 6 more)" in str(refused.value)
    assert "hunter2" not in str(refused.value)
    with pytest.raises(UndecodablePayload) as undecodable:
        codec(Inner).decode(b'{"number": "hunter2"}')
    assert "hunter2" not in str(undecodable.value)


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b'{"number": []}', b"[" * 5000, b"null", b"1"])
def test_undecodable(data: bytes) -> None:
    with pytest.raises(UndecodablePayload):
        codec(Inner).decode(data)


def test_stored_by_hand_with_aliases_or_names() -> None:
    expected = Aliased(userId="u", readAs="r")
    assert codec(Aliased).decode(b'{"userId": "u", "readAs": "r"}') == expected
    assert codec(Aliased).decode(b'{"user": "u", "read_as": "r"}') == expected


class Unfinished(BaseModel):
    part: Nowhere  # type: ignore[name-defined]  # noqa: F821


class Deferred(BaseModel):
    model_config = ConfigDict(defer_build=True)
    number: int


def test_a_model_that_is_built_later_is_built_for_its_queue() -> None:
    assert codec(Deferred).decode(b'{"number": 1}') == Deferred(number=1)


@pytest.mark.parametrize("payload_type", [Failure, list[Failure], type("Plain", (), {}), Unfinished, list[Unfinished]])
def test_a_type_that_pydantic_cannot_validate(payload_type: Any) -> None:
    with pytest.raises(DeclarationError, match=r"queue 'jobs' carries .* which pydantic cannot validate: ") as refused:
        codec(payload_type)
    assert "\n" not in str(refused.value)


def test_codecs_are_built_once() -> None:
    assert codec_for(Model, queue="a") is codec_for(Model, queue="a")
    assert codec_for(Model, queue="a") is not codec_for(Model, queue="b")
    unhashable = Annotated[int, Field(json_schema_extra={}), []]
    assert codec_for(unhashable, queue="a").decode(b"7") == 7


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)


@given(JSON)
@settings(max_examples=60, deadline=None)
def test_any_json_survives(value: Any) -> None:
    data = codec_for(Any, queue="any").encode(value)
    assert codec_for(Any, queue="any").decode(data) == value
    assert parse_strict(data) == value == parse_lenient(data)


@given(st.binary(max_size=40))
@settings(max_examples=60, deadline=None)
def test_no_bytes_break_the_readers(data: bytes) -> None:
    parse_lenient(data)
    for read in (parse_strict, codec_for(Model, queue="any").decode):
        try:
            read(data)
        except (ValueError, UndecodablePayload):
            continue


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("NaN", "NaN is not JSON"),
        ("[Infinity]", "Infinity is not JSON"),
        ('{"a": -Infinity}', "-Infinity is not JSON"),
        ("1e999", "a number is too large"),
        ('{"a": 1, "a": 2}', "duplicate key"),
        ('[{"a": {"b": 1, "b": 1}}]', "duplicate key"),
        ('"\\ud800"', "lone surrogate"),
        ('{"\\udc00": 1}', "lone surrogate"),
        ("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), f"nested deeper than {MAX_DEPTH}"),
        ('{"a":' * 100_000 + "1" + "}" * 100_000, f"nested deeper than {MAX_DEPTH}"),
        ("{", "Expecting property name"),
        ("", "Expecting value"),
        (b"\xff", "not UTF-8"),
        ("9" * 5000, "digits"),
    ],
)
def test_strict_refuses_what_json_leaves_open(text: str | bytes, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint.replace("(", r"\(")):
        parse_strict(text)


def test_strict_takes_the_deepest_allowed() -> None:
    assert parse_strict("[" * MAX_DEPTH + "]" * MAX_DEPTH)
    assert parse_strict('"\\ud83d\\ude00"') == "😀"


def test_lenient_shows_what_there_is() -> None:
    assert parse_lenient(b'{"a": 1}') == {"a": 1}
    assert parse_lenient(b"\xffabc") == "\ufffdabc"
    assert parse_lenient(b"[" * 100_000) == "[" * 1000
