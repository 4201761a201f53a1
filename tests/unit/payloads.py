"""Payload types of many kinds, and payloads that a handler gets as they were enqueued."""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import re
import threading
import time
from collections import OrderedDict, defaultdict, deque
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from decimal import Decimal
from functools import cached_property
from ipaddress import IPv4Address
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, NamedTuple, TypeVar
from uuid import UUID
from zoneinfo import ZoneInfo

from pydantic import (
    AfterValidator,
    AliasChoices,
    AliasGenerator,
    AliasPath,
    AnyUrl,
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    PrivateAttr,
    RootModel,
    SecretStr,
    StringConstraints,
    computed_field,
    field_serializer,
)
from pydantic.alias_generators import to_camel
from pydantic.dataclasses import dataclass as pydantic_dataclass
from pydantic_core import core_schema
from typing_extensions import TypedDict

T = TypeVar("T")
BERLIN = ZoneInfo("Europe/Berlin")


class City(BaseModel):
    name: str


class Country(BaseModel):
    name: str


class Place(BaseModel):
    at: City | Country


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)
    name: str


class Colour(enum.Enum):
    RED = "red"


class Word(enum.StrEnum):
    RED = "red"


class Level(enum.IntEnum):
    LOW = 1


class Point(NamedTuple):
    x: int
    y: int


class Keys(TypedDict, total=False):
    a: Annotated[int, Field(alias="A")]
    when: dt.datetime


class Box(BaseModel, Generic[T]):
    value: T


class Cat(BaseModel):
    kind: Literal["cat"] = "cat"
    lives: int = 9


class Dog(BaseModel):
    kind: Literal["dog"] = "dog"


class Pets(RootModel[list[Annotated[Cat | Dog, Field(discriminator="kind")]]]):
    pass


class Tree(BaseModel):
    children: list[Tree] = []


class Made(BaseModel):
    """What a default makes is stored; what a model keeps for itself is made anew, and nobody misses it."""

    id: UUID = Field(default_factory=lambda: UUID(int=7))
    at: float = Field(default_factory=time.time)
    lock: Any = Field(default_factory=threading.Lock, exclude=True)
    stamp: float = Field(default_factory=time.monotonic, exclude=True)
    _lock: Any = PrivateAttr(default_factory=threading.Lock)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def twice(self) -> float:
        return 2 * self.at

    @cached_property
    def slow(self) -> float:
        return self.at


class Unlike(BaseModel):
    """Equality of its own, which says nothing of its fields."""

    a: int

    def __eq__(self, other: object) -> bool:
        return False

    __hash__ = None  # type: ignore[assignment]


class Aliases(BaseModel):
    one: int = Field(alias="first")
    two: int = Field(serialization_alias="second", default=2)
    three: int = Field(validation_alias=AliasChoices("third", AliasPath("deep", 0)), default=3)


class Camel(BaseModel):
    model_config = ConfigDict(
        alias_generator=AliasGenerator(serialization_alias=to_camel), serialize_by_alias=True, extra="forbid"
    )
    first_name: str


class Loose(BaseModel):
    model_config = ConfigDict(extra="allow")
    a: int = 0


class Defaults(BaseModel):
    """Defaults that nobody validates: an int where a float or a decimal stands, a tuple for any sequence."""

    ratio: float = 0
    price: Decimal = 0  # type: ignore[assignment]
    flag: bool = 0  # type: ignore[assignment]
    tags: Sequence[str] = ()


class Strings(BaseModel):
    model_config = ConfigDict(ser_json_inf_nan="strings")
    ratio: float


class Base64(BaseModel):
    model_config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")
    data: bytes


class Revealed(BaseModel):
    secret: SecretStr

    @field_serializer("secret")
    def reveal(self, secret: SecretStr) -> str:
        return secret.get_secret_value()


class Upper(BaseModel):
    name: Annotated[str, AfterValidator(str.upper), StringConstraints(min_length=1)]


@dataclasses.dataclass(slots=True, frozen=True)
class Slotted:
    a: int
    when: dt.datetime | None = None


@dataclasses.dataclass(eq=False)
class Identity:
    a: int


@pydantic_dataclass
class Pydantic:
    a: int = Field(alias="A")


class Odd:
    """A type that pydantic knows by its own schema."""

    def __init__(self, text: str) -> None:
        self.text = text

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(
            lambda value: value if isinstance(value, cls) else cls(value),
            serialization=core_schema.plain_serializer_function_ser_schema(lambda value: value.text),
        )


class OddEqual(Odd):
    def __eq__(self, other: object) -> bool:
        return isinstance(other, OddEqual) and other.text == self.text

    __hash__ = None  # type: ignore[assignment]


class OddArray(Odd):
    def __eq__(self, other: object) -> Any:
        raise ValueError("the truth value of an array is ambiguous")

    __hash__ = None  # type: ignore[assignment]


class OddNan(Odd):
    def __eq__(self, other: object) -> bool:
        return False

    __hash__ = None  # type: ignore[assignment]


class Enclosed(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)
    inner: Any


STAYS: list[tuple[Any, Any]] = [
    (City, City(name="Ulm")),
    (City, {"name": "Ulm"}),
    (Place, Place(at=City(name="Ulm"))),
    (Frozen, Frozen(name="a")),
    (set[Frozen], {Frozen(name="a"), Frozen(name="b")}),
    (Box[int], Box[int](value=1)),
    (Box[int], Box(value=1)),
    (Box[Any], Box[int](value=1)),
    (Box, Box[int](value=1)),
    (Box[Box[list[City]]], Box[Box[list[City]]](value=Box(value=[City(name="a")]))),
    (Pets, Pets([Cat(lives=3), Dog()])),
    (Tree, Tree(children=[Tree(), Tree(children=[Tree()])])),
    (Made, Made()),
    (Unlike, Unlike(a=1)),
    (Aliases, Aliases(first=1, third=7)),
    (Camel, Camel(first_name="Ada")),
    (Loose, Loose(a=1, b="x", c=[1, None])),  # type: ignore[call-arg]
    (Defaults, Defaults()),
    (Strings, Strings(ratio=float("nan"))),
    (Strings, Strings(ratio=float("-inf"))),
    (Base64, Base64(data=b"\x00\xff")),
    (Revealed, Revealed(secret=SecretStr("s"))),
    (Upper, Upper(name="ada")),
    (SecretStr, SecretStr("")),
    (Slotted, Slotted(1, dt.datetime(2026, 1, 1, tzinfo=BERLIN))),
    (Identity, Identity(1)),
    (Pydantic, Pydantic(A=1)),
    (list[Identity], [Identity(1), Identity(2)]),
    (Keys, {"a": 1, "when": dt.datetime(2026, 1, 1, tzinfo=dt.UTC)}),
    (Point, Point(1, 2)),
    (tuple[int, int], Point(1, 2)),
    (tuple[int, ...], (1, 2)),
    (deque[int], deque([1, 2])),
    (set[Colour], {Colour.RED}),
    (frozenset[str], frozenset("ab")),
    (AbstractSet[int], {1}),
    (Mapping[str, Decimal], {"a": Decimal("1.10")}),
    (dict[Word, Level], {Word.RED: Level.LOW}),
    (dict[int, str], {1: "a"}),
    (dict[dt.date, int], {dt.date(2026, 1, 1): 1}),
    (OrderedDict[str, int], OrderedDict(b=1, a=2)),
    (defaultdict[str, list[int]], defaultdict(list, a=[1])),
    (str, Word.RED),
    (int, Level.LOW),
    (float, 1),
    (float, 1e22),
    (float, -0.0),
    (int | float, 2.0),
    (int | bool, True),
    (int | Decimal, Decimal(1)),
    (Decimal, Decimal("1.10")),
    (bytes, b"abc"),
    (dt.datetime, dt.datetime(2026, 1, 1)),
    (dt.datetime, dt.datetime(2026, 7, 1, 12, tzinfo=BERLIN)),
    (dt.datetime, dt.datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN)),  # twice that day
    (dt.datetime, dt.datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN, fold=1)),
    (list[dt.datetime], [dt.datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN)]),
    (set[dt.datetime], {dt.datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN)}),
    (dict[dt.datetime, int], {dt.datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN): 1}),
    (dt.date | dt.datetime, dt.datetime(2026, 1, 1)),
    (dt.time, dt.time(12, 0, 0, 5)),
    (dt.time, dt.time(12, tzinfo=dt.UTC)),
    (dt.timedelta, dt.timedelta(days=-3, microseconds=1)),
    (AnyUrl, AnyUrl("http://example.com/a?b=c")),
    (IPv4Address, IPv4Address("127.0.0.1")),
    (Path, Path("/a/b")),
    (re.Pattern[str], re.compile("a+")),
    (OddEqual, OddEqual("a")),
    (Any, {"a": [1, 2.5, None, "b", {"c": [True, []]}]}),
]
