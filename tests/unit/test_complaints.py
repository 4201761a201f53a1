"""What is said of a payload that does not fit quotes nothing that it holds, unless a setting allows it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Literal, NoReturn

import pytest
from pydantic import (
    AliasChoices,
    AliasPath,
    AnyUrl,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    StringConstraints,
    TypeAdapter,
    model_validator,
)
from pydantic.errors import PydanticUserError
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict

from framework import Context, Queue, RetryPolicy, WorkerApp
from framework.model.attempt import NoTracing
from framework.model.errors import InvalidPayload
from framework.model.events import Event, JobFinished
from framework.model.outcome import Reject
from framework.service.codec import Codec, UndecodablePayload
from framework.service.options import resolve
from framework.service.settings import load_settings
from framework.worker.executor import Executor
from tests.unit.helpers import a_lease

SECRET = "s3cr3t-4111"


def says(error: Callable[[str], BaseException]) -> Any:
    """A text whose validator raises an error that quotes it."""

    def validate(value: str) -> NoReturn:
        raise error(f"bad {value}")

    return Annotated[str, BeforeValidator(validate)]


class A(BaseModel):
    kind: Literal["a"]
    x: int


class B(BaseModel):
    kind: Literal["b"]


class Tagged(BaseModel):
    u: Annotated[A | B, Field(discriminator="kind")]


class Forbids(BaseModel):
    model_config = ConfigDict(extra="forbid")
    a: int = 0


class Aliased(BaseModel):
    one: int = Field(alias="oneAlias")
    two: int = Field(0, validation_alias=AliasChoices("second", AliasPath("deep", 1)))


class Whole(BaseModel):
    card: str

    @model_validator(mode="after")
    def check(self) -> Whole:
        raise ValueError(f"bad {self.card}")


class Member(TypedDict):
    number: int


@dataclass
class Plain:
    number: int


@pytest.mark.parametrize(
    ("payload_type", "data", "complaint"),
    [
        (Tagged, {"u": {"kind": SECRET, "x": 1}}, "u: union_tag_invalid"),
        (Tagged, {"u": {"kind": "a", "x": SECRET}}, "u.a.x: int_parsing"),
        (Tagged, {"u": {SECRET: 1}}, "u: union_tag_not_found"),
        (dict[str, int], {SECRET: "x"}, "*: int_parsing"),
        (dict[str, dict[str, A]], {SECRET: {SECRET: {"kind": "a"}}}, "*.*.x: missing"),
        (dict[Literal["a"], int], {SECRET: 1}, "*.[key]: literal_error"),
        (dict[str, list[int]], {SECRET: [1, SECRET]}, "*.1: int_parsing"),
        (list[Member], [{"number": 1}, {"number": SECRET}], "1.number: int_parsing"),
        (list[Plain], [{"number": SECRET}], "0.number: int_parsing"),
        (Forbids, {SECRET: 1}, "*: extra_forbidden"),
        (Aliased, {"oneAlias": SECRET}, "oneAlias: int_parsing"),
        (Aliased, {"oneAlias": 1, "deep": [0, SECRET]}, "deep.1: int_parsing"),
        (Whole, {"card": SECRET}, "payload: value_error"),
        (says(ValueError), SECRET, "payload: value_error"),
        (says(AssertionError), SECRET, "payload: assertion_error"),
        (says(lambda text: PydanticCustomError("card", text)), SECRET, "payload: custom_error"),
        (says(lambda text: PydanticCustomError(text.replace(" ", "_"), "bad")), SECRET, "payload: custom_error"),
        (AnyUrl, SECRET, "payload: url_parsing"),
        (Annotated[str, StringConstraints(pattern="^a$")], SECRET, "payload: string_pattern_mismatch"),
        (datetime, SECRET, "payload: datetime_from_date_parsing"),
        (Decimal, SECRET, "payload: decimal_parsing"),
        (Literal["a", "b"], SECRET, "payload: literal_error"),
        (int | A, SECRET, "int: int_parsing; A: model_type"),
        (set[int], [SECRET], "0: int_parsing"),
        (tuple[int, str], [SECRET, "a"], "0: int_parsing"),
    ],
)
def test_only_declared_names_and_error_types_are_told(payload_type: Any, data: Any, complaint: str) -> None:
    codec, full = Codec(payload_type, queue="jobs"), Codec(payload_type, queue="jobs", full_errors=True)
    with pytest.raises(UndecodablePayload) as undecodable:
        codec.decode(json.dumps(data).encode())
    assert str(undecodable.value) == complaint
    with pytest.raises(InvalidPayload) as refused:
        codec.encode(data)
    assert str(refused.value).startswith(f"queue 'jobs': payload does not fit: {complaint.split(':')[0]}: ")
    assert SECRET not in str(refused.value)
    assert "bad" not in str(refused.value)
    for error in (refused.value, undecodable.value):
        assert error.__suppress_context__  # a traceback would print pydantic's own text
    with pytest.raises(UndecodablePayload, match=r"(: [A-Z]|bad)"):
        full.decode(json.dumps(data).encode())


def test_a_number_is_told_where_it_is_an_index_and_not_where_it_is_a_key() -> None:
    codec = Codec(dict[int, list[list[int]]], queue="jobs")
    with pytest.raises(InvalidPayload, match=r"fit: \*\.1\.0: int_parsing$"):
        codec.encode({4111222233334444: [[1], ["x"]]})
    with pytest.raises(InvalidPayload, match=r"fit: \*\.\[key\]: int_parsing$"):
        codec.encode({SECRET: []})


def test_what_is_not_json_is_told_without_its_text() -> None:
    for data in (SECRET, f'{{"a": {SECRET}}}', f'{{"{SECRET}": 1', "\ud800"):
        with pytest.raises(UndecodablePayload, match=r"^payload: json_invalid$"):
            Codec(dict[str, int], queue="jobs").decode(data.encode("utf-8", "surrogatepass"))


class Odd:
    def __repr__(self) -> str:
        return SECRET


def write(value: str) -> str:
    raise ValueError(f"bad {value}")


@pytest.mark.parametrize(
    ("payload_type", "payload", "complaint"),
    [
        (Annotated[str, PlainSerializer(write)], SECRET, "Error calling function `write`: ValueError"),
        (Any, Odd(), "Unable to serialize unknown type: <class 'tests.unit.test_complaints.Odd'>"),
        (Any, {SECRET: Odd()}, "Unable to serialize unknown type: <class 'tests.unit.test_complaints.Odd'>"),
        (str, SECRET + "\ud800", "surrogates not allowed"),
        (bytes, SECRET.encode() + b"\xff", "invalid utf-8 sequence of 1 bytes from index 11"),
    ],
)
def test_what_cannot_be_written_is_told_without_its_text(payload_type: Any, payload: Any, complaint: str) -> None:
    with pytest.raises(InvalidPayload) as refused:
        Codec(payload_type, queue="jobs").encode(payload)
    assert str(refused.value) == f"queue 'jobs': payload cannot be stored as JSON: {complaint}"


@pytest.mark.parametrize("error", [KeyError, TypeError, OSError, RuntimeError])
def test_any_error_of_a_validator_makes_an_invalid_payload(error: type[Exception]) -> None:
    with pytest.raises(InvalidPayload) as refused:
        Codec(says(error), queue="jobs").encode(SECRET)
    assert str(refused.value) == f"queue 'jobs': payload does not fit: {error.__name__} in a validator or serializer"
    assert refused.value.__suppress_context__
    with pytest.raises(InvalidPayload, match=f"bad {SECRET}") as told:
        Codec(says(error), queue="jobs", full_errors=True).encode(SECRET)
    assert isinstance(told.value.__cause__, error)


def finished(payload_type: Any, data: bytes, *, full: bool = False) -> JobFinished:
    """The event of a job whose payload does not fit; logs, spans and dead letters are made of it."""

    class App(WorkerApp):
        jobs = Queue[payload_type]("jobs", retry=RetryPolicy(give_up_on=(KeyError,)))  # type: ignore[valid-type]

        @jobs.handler
        def job(self, payload: Any, ctx: Context) -> None: ...

    settings = load_settings(payload_errors="full" if full else "types")
    events: list[Event] = []
    options = resolve(App.jobs, settings)
    executor = Executor(App(), App.worker_handlers["jobs"], options, tracing=NoTracing(), emit=events.append)
    executor.run(executor.attempt(a_lease(data)))
    (event,) = events
    assert isinstance(event, JobFinished)
    return event


def test_a_job_whose_payload_does_not_fit_says_why_without_quoting_it() -> None:
    data = json.dumps({SECRET: "x"}).encode()
    event = finished(dict[str, int], data)
    assert (event.reason, event.message, event.traceback) == ("invalid_payload", "*: int_parsing", "")
    assert SECRET in finished(dict[str, int], data, full=True).message


def test_an_error_of_a_validator_fails_the_attempt_by_the_policy_and_hides_its_text() -> None:
    data = json.dumps(SECRET).encode()
    event = finished(says(KeyError), data)
    assert (event.outcome, event.reason, event.error_type) == ("dead_lettered", "error", "KeyError")
    assert event.message == "KeyError in a validator of the payload"
    assert "in validate" in event.traceback
    assert SECRET not in event.traceback
    assert SECRET in finished(says(KeyError), data, full=True).message
    assert finished(says(OSError), data).outcome == "retried"


def test_what_a_validator_says_in_the_frameworks_words_is_kept() -> None:
    event = finished(says(lambda text: Reject("the customer has left")), b'"x"')
    assert (event.outcome, event.message) == ("dead_lettered", "the customer has left")


def test_a_mistake_in_the_payload_type_is_told_in_full() -> None:
    class Unfinished(BaseModel):
        model_config = ConfigDict(defer_build=True)
        other: NotThere  # type: ignore[name-defined]  # noqa: F821

    codec = Codec(list[Any], queue="jobs")
    unfinished = TypeAdapter(Unfinished)
    codec._validate, codec._validate_json = unfinished.validate_python, unfinished.validate_json
    with pytest.raises(InvalidPayload, match=r"does not fit: .*Unfinished.* is not fully defined"):
        codec.encode({"other": SECRET})
    with pytest.raises(PydanticUserError):
        codec.decode(b"{}")
