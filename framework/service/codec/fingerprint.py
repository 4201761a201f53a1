"""A short mark of what a payload type accepts: two versions of a service that differ in it may not read each other."""

from __future__ import annotations

import json
from hashlib import blake2b
from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

_NOTES = ("title", "description", "examples", "deprecated")  # what people read changes nothing for the payload
_NAMED = ("properties", "patternProperties", "$defs")  # their keys are names that the service has chosen
_VALUES = ("default", "const", "enum")


class _Quiet(GenerateJsonSchema):
    """A generator that warns of nothing: whoever enqueues has not asked for a schema."""

    def emit_warning(self, kind: Any, detail: str) -> None:
        """Say nothing."""


def fingerprint(adapter: TypeAdapter[Any]) -> str | None:
    """Return 12 hex digits of the type's JSON schema; None: pydantic can make none."""
    try:
        schema = adapter.json_schema(schema_generator=_Quiet, mode="validation")
        text = json.dumps(_bare(schema), sort_keys=True, separators=(",", ":"))
    except Exception:  # also what the type's own hooks raise: the job is worth more than its mark
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
