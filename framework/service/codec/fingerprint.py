"""The fingerprint of a payload type: versions of a service that differ in it may not read each other's payloads."""

from __future__ import annotations

import json
from hashlib import blake2b
from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

_NOTES = ("title", "description", "examples", "deprecated")  # texts for people, without effect on the payload
_NAMED = ("properties", "patternProperties", "$defs")  # their keys are names that the service chose
_VALUES = ("default", "const", "enum")


class _Quiet(GenerateJsonSchema):
    """A schema generator without warnings: the caller of `enqueue` has not asked for a schema."""

    def emit_warning(self, kind: Any, detail: str) -> None:
        """Ignore a warning."""


def fingerprint(adapter: TypeAdapter[Any]) -> str | None:
    """Return 12 hex digits of a hash of the type's JSON schema; None: pydantic cannot make the schema."""
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
