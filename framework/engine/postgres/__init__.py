"""The engine on PostgreSQL, for a service on many machines. Its tables and functions are in `schema_1.sql`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from framework.engine import url_options as options
from framework.model.errors import SettingsError
from framework.model.options import check_name

if TYPE_CHECKING:
    from framework.engine.postgres.engine import PostgresEngine
    from framework.engine.postgres.link import Place

LONGEST_SCHEMA = 40  # characters; the notification channels of its queues are named after the schema
EXTRA = "the engine on PostgreSQL needs psycopg: pip install 'continuum-worker[postgres]'"


def connect(url: str, *, incarnation: str, **_: Any) -> PostgresEngine:
    """Return the engine on a database, not opened yet.

    Args:
        url: `postgresql://user:password@host:port/database`; its query may hold `schema` (default `worker`),
            `local_dir`, the directory for files of this machine's processes (default `./var/postgres`), `timeout`,
            seconds in which the server must answer (default 5), and the options of libpq, such as `sslmode`.
        incarnation: name of this process's run, never reused.

    Raises:
        SettingsError: an unknown option or value; psycopg is not installed.
    """
    place = _place(url)
    from framework.engine.postgres.engine import PostgresEngine

    return PostgresEngine(place, incarnation)


def migrate(url: str) -> Iterator[str]:
    """Bring the database's schema to this version and yield a line for each step. Raises EngineError, SettingsError."""
    place = _place(url)
    from framework.engine.postgres.schema import migrate

    return migrate(place)


def script(url: str) -> str:
    """Return the SQL that makes the whole schema. Raises SettingsError."""
    place = _place(url)
    from framework.engine.postgres.schema import VERSION, script

    return "\n".join(script(version, place.schema) for version in range(1, VERSION + 1))


def _place(url: str) -> Place:
    try:
        from psycopg import Error, conninfo, pq

        from framework.engine.postgres.link import Place
    except ImportError as error:
        raise SettingsError(f"{EXTRA} ({error})") from error
    libpq = {one.keyword.decode(): str for one in pq.Conninfo.get_defaults()}
    base, given = options.split(url, {"schema": _schema, "local_dir": Path, "timeout": _timeout, **libpq})
    own = {name: given.pop(name, default) for name, default in
           (("schema", "worker"), ("local_dir", Path("var/postgres")), ("timeout", 5.0))}  # fmt: skip
    defaults = {"connect_timeout": "5", "target_session_attrs": "read-write", "application_name": "worker"}
    try:
        info = conninfo.make_conninfo(base, **{**defaults, **given})
    except Error:  # not chained: its text may quote the password
        raise SettingsError("WORKER_ENGINE_URL: write postgresql://user:password@host:port/database") from None
    shown = f"PostgreSQL at {urlsplit(base).netloc.rpartition('@')[2] or given.get('host', 'localhost')}"
    return Place(info, own["schema"], own["local_dir"].absolute(), own["timeout"], shown)


def _schema(text: str) -> str:
    try:
        check_name(text, "schema")
    except ValueError:
        text = ""
    if not text or len(text) > LONGEST_SCHEMA:
        raise ValueError(f"1 to {LONGEST_SCHEMA} of a-z 0-9 . _ - and a letter or digit first")
    return text


def _timeout(text: str) -> float:
    found = float(text) if text.replace(".", "", 1).isdigit() else 0.0
    if not 0.5 <= found <= 300:
        raise ValueError("seconds, 0.5 to 300")
    return found
