"""Encoding and decoding of payloads: validated by pydantic, stored as JSON, never pickled."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterable
from functools import cached_property, lru_cache, partial
from hashlib import blake2b
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic.json_schema import GenerateJsonSchema

from framework.model.errors import DeclarationError, InvalidPayload
from framework.model.outcome import conceal
from framework.model.text.exceptions import describe
from framework.service.codec.complaints import MISTAKES, declared_names, explain, explain_fully, explain_other
from framework.service.codec.fidelity import Difference, Doubt, difference

CONTENT_TYPE = "application/json"
MAX_DEPTH = 100
LARGE = 64 << 10  # bytes as JSON: about half a millisecond to encode and to check
_ITEM = 32  # bytes: the assumed size of an item of a container
_MOST_LOOKS = 500

# Keys of a JSON schema: texts for people, without effect on the payload; names that the service chose; values.
_NOTES = ("title", "description", "examples", "deprecated")
_NAMED = ("properties", "patternProperties", "$defs")
_VALUES = ("default", "const", "enum")

log = logging.getLogger("framework")


class UndecodablePayload(Exception):
    """The stored bytes do not fit the queue's payload type. The message never quotes the payload."""


class Codec:
    """The codec of one payload type. Raises DeclarationError if pydantic cannot validate the type.

    Args:
        full_errors: messages are pydantic's own, which may quote the payload.
    """

    def __init__(self, payload_type: Any, *, queue: str, full_errors: bool = False) -> None:
        self.queue = queue
        self._full = full_errors
        self._warned = False
        try:
            self._adapter: TypeAdapter[Any] = TypeAdapter(payload_type)
            _ = self._adapter.core_schema["type"]  # an undefined name fails here, and not at the first payload
            # The adapter's own methods pass on twenty options, which costs a microsecond for the three.
            self._validate = self._adapter.validator.validate_python
            self._validate_json = self._adapter.validator.validate_json
            self._dump = self._adapter.serializer.to_json
        except MISTAKES as error:
            why = str(error).partition("\n")[0]
            raise DeclarationError(
                f"queue {queue!r} carries {payload_type!r}, which pydantic cannot validate: {why}"
            ) from None

    @cached_property
    def fingerprint(self) -> str | None:
        """Return 12 hex digits of a hash of the type's JSON schema; None: pydantic cannot make the schema.

        Versions of a service that differ in it may not read each other's payloads. It takes a millisecond.
        """
        return _fingerprint(self._adapter)

    def encode(self, payload: Any) -> bytes:
        """Validate a payload and return it as JSON. Raises InvalidPayload: what is wrong and where, without values.

        The caller has the payload, but if a handler enqueues it, this message reaches the log.
        """
        try:
            valid = self._validate(payload)
        except Exception as error:
            raise self._refusal("does not fit", error, payload) from (error if self._full else None)
        try:
            # round_trip leaves out computed fields, which a model that forbids extra fields would refuse.
            data = self._dump(valid, round_trip=True, by_alias=False, warnings=False)
            # A payload that cannot be read back must not be stored: only a worker would notice, and later.
            found = difference(valid, self._validate_json(data, by_alias=True, by_name=True))
            if b"NaN" in data or b"Infinity" in data:
                json.loads(data, parse_constant=_refuse_constant)
        except Exception as error:
            raise self._refusal("cannot be stored as JSON", error) from (error if self._full else None)
        if found is not None:
            self._judge(found)
        return data

    def decode(self, data: bytes) -> Any:
        """Return the payload of stored bytes. Raises UndecodablePayload; other errors of a validator pass unchanged."""
        try:
            # By name, as `encode` writes it; by alias, as a person may have written it.
            return self._validate_json(data, by_alias=True, by_name=True)
        except (ValueError, RecursionError) as error:
            raise UndecodablePayload(self._explain(error)) from (error if self._full else None)
        except Exception as error:
            if not self._full and not isinstance(error, MISTAKES):
                conceal(error)
            raise

    def _judge(self, found: Difference) -> None:
        """Raise InvalidPayload if the payload would come back different; warn once if no comparison can tell."""
        if not isinstance(found, Doubt):
            raise InvalidPayload(f"queue {self.queue!r}: payload would reach the handler changed: {found}")
        if not self._warned:
            self._warned = True
            log.warning("queue %r: payloads may reach the handler changed: %s", self.queue, found)

    def _refusal(self, what: str, error: Exception, payload: Any = None) -> InvalidPayload:
        return InvalidPayload(f"queue {self.queue!r}: payload {what}: {self._explain(error, payload)}")

    def _explain(self, error: Exception, payload: Any = None) -> str:
        if self._full:
            return explain_fully(error) if isinstance(error, ValidationError) else describe(error)[0]
        if isinstance(error, ValidationError):
            return explain(error, self._names, payload)
        return explain_other(error)

    @cached_property
    def _names(self) -> frozenset[str]:
        return declared_names(self._adapter.core_schema)


def parse_strict(text: str | bytes, *, full_errors: bool = False) -> Any:
    """Parse JSON from outside (command line, pipes), strictly.

    Raises ValueError for values on which JSON parsers differ: NaN, duplicate keys, lone surrogates, nesting deeper than
    100. With `full_errors` the message quotes the key or number.
    """
    unique, finite = partial(_unique, quote=full_errors), partial(_finite, quote=full_errors)
    try:
        value = json.loads(
            text, object_pairs_hook=unique, parse_constant=_refuse_constant, parse_float=finite, parse_int=_whole
        )
    except RecursionError:
        raise ValueError(f"nested deeper than {MAX_DEPTH}") from None
    except UnicodeDecodeError:
        raise ValueError("not UTF-8") from None
    if _too_deep(value):
        raise ValueError(f"nested deeper than {MAX_DEPTH}")
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError("a lone surrogate (half of a UTF-16 pair) is no text") from None
    return value


def parse_lenient(data: bytes) -> Any:
    """Return a payload for display: decoded JSON, else its first 1,000 characters as text."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return data.decode("utf-8", "replace")[:1000]


def _too_deep(value: Any, depth: int = 1) -> bool:
    if not isinstance(value, (dict, list)):
        return False
    items = value.values() if isinstance(value, dict) else value
    return depth > MAX_DEPTH or any(_too_deep(item, depth + 1) for item in items)


def _unique(pairs: list[tuple[str, Any]], *, quote: bool) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f"duplicate key {key[:60]!r}" if quote else "duplicate key")
        result[key] = value
    return result


def _finite(text: str, *, quote: bool) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:60] if quote else 'a number'} is too large")
    return number


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:  # over Python's limit of digits; its message advises to raise that limit
        raise ValueError(f"a number has {len(text.lstrip('-')):,} digits, which is too many") from None


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


@lru_cache(maxsize=256)
def _cached(payload_type: Any, queue: str, full_errors: bool) -> Codec:
    return Codec(payload_type, queue=queue, full_errors=full_errors)


def codec_for(payload_type: Any, *, queue: str, full_errors: bool = False) -> Codec:
    """Return the codec of a queue. It is cached, because a pydantic schema takes a millisecond to build."""
    try:
        return _cached(payload_type, queue, full_errors)
    except TypeError:  # unhashable annotation
        return Codec(payload_type, queue=queue, full_errors=full_errors)


def looks_large(payload: Any) -> bool:
    """Return whether a payload will probably be large as JSON, by its outermost level only."""
    inside = getattr(payload, "__dict__", None)
    parts: Iterable[Any] = (payload,)
    if isinstance(inside, dict):
        parts = inside.values()
    elif isinstance(payload, dict) and len(payload) <= _MOST_LOOKS:
        parts = payload.values()
    elif isinstance(payload, list | tuple) and len(payload) <= _MOST_LOOKS:
        parts = payload
    size = 0
    for part in parts:
        if isinstance(part, str | bytes):
            size += len(part)
        elif isinstance(part, list | tuple | dict | set | frozenset):
            size += len(part) * _ITEM
    return size > LARGE


class _Quiet(GenerateJsonSchema):
    """A schema generator without warnings: the caller of `enqueue` has not asked for a schema."""

    def emit_warning(self, kind: Any, detail: str) -> None:
        """Ignore a warning."""


def _fingerprint(adapter: TypeAdapter[Any]) -> str | None:
    try:
        schema = adapter.json_schema(schema_generator=_Quiet, mode="validation")
        text = json.dumps(_bare(schema), sort_keys=True, separators=(",", ":"))
    except Exception:  # includes errors of the type's own hooks: the job matters more than its fingerprint
        return None
    return blake2b(text.encode(), digest_size=6).hexdigest()


def _bare(schema: Any, *, named: bool = False) -> Any:
    if isinstance(schema, list):
        return [_bare(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {name: part for name, part in schema.items() if named or name not in _NOTES}
    return {
        name: part if name in _VALUES and not named else _bare(part, named=name in _NAMED and not named)
        for name, part in kept.items()
    }
