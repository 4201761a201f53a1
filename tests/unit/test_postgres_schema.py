"""The tables of PostgreSQL: made, brought from version to version, and refused where they do not fit."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from framework.cli import main
from framework.engine import postgres as engine
from framework.engine.port import open_engine
from framework.engine.postgres.schema import VERSION, script
from framework.model.errors import EngineError
from framework.model.options import QueueOptions
from framework.model.outcome import SUCCEEDED, Settlement
from tests.support import postgres

JOBS = QueueOptions("jobs", service="tests")


@pytest.fixture
def url() -> str:
    postgres.empty(postgres.shared())
    return postgres.shared().url


@pytest.mark.parametrize("isolation", ["read committed", "repeatable read", "serializable"])
def test_a_migration_can_be_repeated_and_run_twice_at_once(url: str, isolation: str) -> None:
    """Whatever the default of the database is."""
    name = f"twice_{isolation.replace(' ', '_')}"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"alter database postgres set default_transaction_isolation = '{isolation}'")
    try:
        with ThreadPoolExecutor(4) as pool:
            said = list(pool.map(lambda _: list(engine.migrate(f"{url}?schema={name}")), range(4)))
    finally:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("alter database postgres reset default_transaction_isolation")
    done = [f"schema {name!r}: version {version} applied" for version in range(1, VERSION + 1)]
    assert sorted(said) == [done, *[[f"schema {name!r}: version {VERSION}, nothing to do"]] * 3]


def test_without_its_schema_the_engine_says_what_to_run(url: str) -> None:
    broker = open_engine(f"{url}?schema=missing", incarnation="a")
    with pytest.raises(EngineError, match="run `worker migrate`"):
        broker.open([])
    broker.close()


def test_a_newer_schema_is_refused_and_the_next_one_is_not(url: str) -> None:
    here = f"{url}?schema=newer"
    list(engine.migrate(here))
    for version, refused in ((VERSION + 1, False), (VERSION + 2, True)):
        with psycopg.connect(url) as connection:
            connection.execute("insert into newer.version (version) values (%s)", [version])
        broker = open_engine(here, incarnation=f"at {version}")
        if refused:
            with pytest.raises(EngineError, match=f"has version {VERSION + 2}, this code knows {VERSION}: update it"):
                broker.open([])
        else:
            broker.open([JOBS])
        broker.close()
    with pytest.raises(EngineError, match="update it"):
        list(engine.migrate(here))


def test_jobs_of_the_version_before_are_kept_by_the_migration(url: str, tmp_path: Path) -> None:
    with psycopg.connect(url) as connection:
        connection.execute(script(1, "older"), prepare=False)  # type: ignore[call-overload]
        connection.execute(
            "insert into older.queue (name) values ('jobs'); insert into older.job (queue, place, owner, attempt, "
            "delivery, eligible_at, since, home, id, uid, payload, enqueued_at) values "
            "(1, 1, null, 1, 1, 0, 0, 1, 'ready', '0123456789abcdef', '{}', 0)",
            prepare=False,
        )
    broker = open_engine(f"{url}?schema=older&local_dir={tmp_path}", incarnation="a")
    with pytest.raises(EngineError, match="has version 1: run `worker migrate`"):
        broker.open([JOBS])
    assert list(engine.migrate(f"{url}?schema=older")) == [
        f"schema 'older': version {n} applied" for n in range(2, VERSION + 1)
    ]
    broker.open([JOBS])
    (lease,) = broker.claim(["jobs"], limit=1, wait=0)
    assert (lease.job.id, lease.attempt, lease.delivery) == ("ready", 2, 2)
    broker.settle([Settlement(lease, SUCCEEDED)])
    assert broker.stats("jobs").jobs == 0
    broker.close()


def test_the_command_migrates_and_prints(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["migrate", f"{url}?schema=by_hand"]) == 0
    assert capsys.readouterr().out == "".join(f"schema 'by_hand': version {n} applied\n" for n in range(1, VERSION + 1))
    assert main(["migrate", "--sql", f"{url}?schema=printed"]) == 0
    sql = capsys.readouterr().out
    with psycopg.connect(url) as connection:
        assert connection.execute("select to_regnamespace('printed')").fetchone() == (None,)
        connection.execute(sql, prepare=False)  # type: ignore[call-overload]
    broker = open_engine(f"{url}?schema=printed", incarnation="a")
    broker.open([JOBS])
    broker.close()
    assert main(["migrate", "spool:./x"]) == 2
