"""Payloads to bytes and back: validated by pydantic, stored as JSON, never pickle."""

from __future__ import annotations

import json
import math
from functools import lru_cache
from typing import Any

from pydantic import SecretBytes, SecretStr, TypeAdapter, ValidationError
from pydantic.errors import PydanticUndefinedAnnotation, PydanticUserError
from pydantic_core import PydanticSerializationError

from framework.errors import DeclarationError, InvalidPayload

CONTENT_TYPE = "application/json"
MAX_DEPTH = 100
_LOSSES = (b"null", b"NaN", b"Infinity", b"*****")  # what stored bytes show where pydantic may have lost a value


class UndecodablePayload(Exception):
    """Stored bytes that do not fit the queue's payload type; the message never quotes the payload."""


class Codec:
    """Encodes and decodes one payload type. Raises DeclarationError: pydantic cannot validate it."""

    def __init__(self, payload_type: Any, *, queue: str) -> None:
        self.queue = queue
        try:
            self._adapter: TypeAdapter[Any] = TypeAdapter(payload_type)
        except (PydanticUserError, PydanticUndefinedAnnotation) as error:
            why = str(error).partition("\n")[0]
            raise DeclarationError(
                f"queue {queue!r} carries {payload_type!r}, which pydantic cannot validate: {why}"
            ) from None

    def encode(self, payload: Any) -> bytes:
        """Validates and encodes. Raises InvalidPayload: what is wrong and where, without the values."""
        try:
            valid = self._adapter.validate_python(payload)
            # round_trip leaves out computed fields, which a model that forbids extra ones would not take back.
            data = self._adapter.dump_json(valid, round_trip=True, warnings=False)
            # What cannot be read back must not be stored: a worker would only find it later.
            self.decode(data)
            if any(trace in data for trace in _LOSSES):
                _refuse_losses(self._adapter.dump_python(valid, round_trip=True, warnings=False))
        except ValidationError as error:
            raise InvalidPayload(f"queue {self.queue!r}: payload does not fit: {explain(error)}") from None
        except (UndecodablePayload, ValueError, TypeError, RecursionError, PydanticSerializationError) as error:
            raise InvalidPayload(f"queue {self.queue!r}: payload cannot be stored as JSON: {error}") from None
        return data

    def decode(self, data: bytes) -> Any:
        """Bytes to a payload. Raises UndecodablePayload."""
        try:
            # By name, as dump_json wrote it; by alias, as a person may have.
            return self._adapter.validate_json(data, by_alias=True, by_name=True)
        except ValidationError as error:
            raise UndecodablePayload(explain(error)) from None
        except (ValueError, RecursionError) as error:
            raise UndecodablePayload(str(error)) from None


def explain(error: ValidationError) -> str:
    """The first three complaints as `place: message`, without the values: those may be secret."""
    items = error.errors(include_url=False, include_input=False, include_context=False)
    text = "; ".join(f"{'.'.join(map(str, item['loc'])) or 'payload'}: {item['msg']}" for item in items[:3])
    return text + (f" (and {len(items) - 3} more)" if len(items) > 3 else "")


def parse_strict(text: str | bytes) -> Any:
    """JSON from outside (command line, pipes). Raises ValueError for what JSON leaves open: NaN, duplicate keys, lone
    surrogates, nesting deeper than 100."""
    try:
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant, parse_float=_finite)
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
    """A payload for people to look at: decoded JSON, or the text, or its size where it is neither."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return data.decode("utf-8", "replace")[:1000]


def _too_deep(value: Any, depth: int = 1) -> bool:
    if not isinstance(value, (dict, list)):
        return False
    items = value.values() if isinstance(value, dict) else value
    return depth > MAX_DEPTH or any(_too_deep(item, depth + 1) for item in items)


def _refuse_losses(value: Any) -> None:
    """pydantic writes NaN as null, which an optional field takes back silently, and a secret as asterisks."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{value} is not JSON")
    if isinstance(value, (SecretStr, SecretBytes)):
        raise ValueError("a secret would be stored as asterisks: enqueue where to find it instead")
    if isinstance(value, dict):
        for item in value.values():
            _refuse_losses(item)
    elif isinstance(value, (list, tuple, set, frozenset)):
        for item in value:
            _refuse_losses(item)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f"duplicate key {key[:60]!r}")
        result[key] = value
    return result


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:60]} is too large a number")
    return number


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


@lru_cache(maxsize=256)
def _cached(payload_type: Any, queue: str) -> Codec:
    return Codec(payload_type, queue=queue)


def codec_for(payload_type: Any, *, queue: str) -> Codec:
    """The codec of a queue, built once: a pydantic schema takes a millisecond."""
    try:
        return _cached(payload_type, queue)
    except TypeError:  # unhashable annotation
        return Codec(payload_type, queue=queue)
