"""The engine through a real PgBouncer in transaction mode; skipped where Debian's package `pgbouncer` is missing."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest

from framework.engine import postgres as engine
from framework.engine.port import open_engine
from framework.engine.postgres.schema import VERSION
from framework.model.options import QueueOptions
from framework.model.outcome import SUCCEEDED, Settlement
from tests.support import postgres
from tests.unit.helpers import a_job

PROGRAM = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
pytestmark = pytest.mark.skipif(PROGRAM is None, reason="needs the program pgbouncer")
JOBS = QueueOptions("jobs", service="tests", max_length=1000)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """The shared server through a pool of three sessions, so that clients get each other's."""
    place = Path(tempfile.mkdtemp(dir=postgres._scratch()))
    place.chmod(0o755)  # it refuses to run as root
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = place / "pgbouncer.ini"
    settings.write_text(
        f"[databases]\npostgres = host=127.0.0.1 port={postgres.shared().port} user=postgres\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nauth_type = any\npool_mode = transaction\n"
        "default_pool_size = 3\nmax_client_conn = 200\nunix_socket_dir =\n"
    )
    with (place / "log").open("wb") as log:
        command = [PROGRAM, *(["-u", "nobody"] if os.geteuid() == 0 else []), settings]
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd="/")  # type: ignore[arg-type]
    there = f"postgresql://postgres@127.0.0.1:{port}/postgres"
    end = time.monotonic() + 30
    while True:
        try:
            psycopg.connect(there, connect_timeout=2).close()
            break
        except psycopg.OperationalError:
            assert time.monotonic() < end, (place / "log").read_text()
            time.sleep(0.05)
    yield there
    process.terminate()
    process.wait(30)


@pytest.fixture
def opened(url: str, tmp_path: Path) -> Iterator[Any]:
    postgres.empty(postgres.shared())
    engines = []

    def open_(name: str) -> Any:
        engines.append(open_engine(f"{url}?local_dir={tmp_path}", incarnation=name))
        engines[-1].open([JOBS])
        return engines[-1]

    yield open_
    for one in engines:
        one.close()


def test_a_pooler_is_detected_and_said(opened: Any) -> None:
    assert "is reached through a pooler: new jobs are looked for each 0.1 s" in opened("a").notes[0]


def test_many_clients_share_few_sessions_and_each_job_runs_once(opened: Any) -> None:
    engines = [opened(f"owner-{n}") for n in range(8)]
    ran: list[str] = []
    lock = threading.Lock()

    def serve(one: Any) -> None:
        for n in range(20):
            one.enqueue([a_job(job_id=f"{one.incarnation} {n}", chosen_id=n % 2 == 0)])
        one.enqueue([a_job(job_id=f"{one.incarnation} many {n}") for n in range(20)])
        while leases := one.claim(["jobs"], limit=7, wait=0.3):
            assert one.lost(leases) == []
            with lock:
                ran.extend(lease.job.id for lease in leases)
            one.settle([Settlement(lease, SUCCEEDED) for lease in leases])
            one.maintain()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(serve, engines))
    assert len(ran) == len(set(ran)) == 8 * 40


def test_no_session_keeps_what_a_statement_has_set(opened: Any, url: str) -> None:
    """Claims and acks commit asynchronously; another client of the same session must not."""
    one = opened("a")
    for _ in range(20):
        one.enqueue([a_job()])
        leases = one.claim(["jobs"], limit=1, wait=1)
        if len(leases) % 2:
            one.settle([Settlement(lease, SUCCEEDED) for lease in leases])
        with psycopg.connect(url, prepare_threshold=None) as connection:
            shown = connection.execute("show synchronous_commit").fetchone()
            assert shown == ("on",)
            assert connection.execute("show idle_in_transaction_session_timeout").fetchone() == ("0",)


def test_a_job_ends_in_a_transaction_through_the_pooler(opened: Any) -> None:
    one = opened("a")
    for _ in range(5):
        one.enqueue([a_job()])
        [lease] = one.claim(["jobs"], limit=1, wait=1)
        with one.transaction(lease) as connection:
            connection.execute("select 1")
        one.settle([Settlement(lease, SUCCEEDED)])
    assert one.claim(["jobs"], limit=1, wait=0) == []
    assert one.lost([]) == []


def test_the_migration_runs_through_the_pooler(url: str) -> None:
    with ThreadPoolExecutor(3) as pool:
        said = list(pool.map(lambda _: list(engine.migrate(f"{url}?schema=pooled")), range(3)))
    assert sum("applied" in line for lines in said for line in lines) == VERSION
