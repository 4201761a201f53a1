"""The engine on PostgreSQL, for a service on many machines. Its tables and functions are in `schema_1.sql`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from hashlib import blake2b
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
            `local_dir`, the directory for files of this machine's processes (default: one for each database and schema
            in `$STATE_DIRECTORY`, which systemd sets, or in `~/.local/state/worker`), `timeout`, seconds in which the
            server must answer (default 5), and the options of libpq, such as `sslmode`.
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
           (("schema", "worker"), ("local_dir", None), ("timeout", 5.0))}  # fmt: skip
    defaults = {"target_session_attrs": "read-write", "application_name": "worker"}
    try:
        info = conninfo.make_conninfo(base, **{**defaults, **given})
        known = conninfo.conninfo_to_dict(info)
        # Of several hosts a silent one is in front after each failover: with 5 s for it, 5 s would not do for all.
        seconds = "2" if "," in str(known.get("host", "")) else "5"
        info = conninfo.make_conninfo(info, connect_timeout=known.get("connect_timeout", seconds))
    except Error:  # not chained: its text may quote the password
        raise SettingsError("WORKER_ENGINE_URL: write postgresql://user:password@host:port/database") from None
    shown = f"PostgreSQL at {urlsplit(base).netloc.rpartition('@')[2] or given.get('host', 'localhost')}"
    local_dir = own["local_dir"] or _local_dir(conninfo.conninfo_to_dict(info), own["schema"])
    return Place(info, own["schema"], local_dir.absolute(), own["timeout"], shown)


def _local_dir(info: Mapping[str, Any], schema: str) -> Path:
    """Return the directory of all processes of this machine and user that use a database and schema.

    It does not depend on the working directory: processes with different ones would take each other for two machines.
    """
    state = os.environ.get("STATE_DIRECTORY", "").partition(":")[0]
    parent = state or os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    place = "\n".join(str(info.get(name, "")) for name in ("host", "port", "dbname")) + schema
    try:
        home = Path(parent).expanduser()
    except RuntimeError:  # the user has none: workers say that the directory cannot be used, and what to set
        home = Path("/")
    return Path(home, "worker", f"postgres-{blake2b(place.encode(), digest_size=4).hexdigest()}")


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
