"""What is PostgreSQL's own: its schema, its connection's breaks, its clock, and machines that are far apart."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest

from framework.cli import main
from framework.engine import postgres as engine
from framework.engine.port import open_engine
from framework.engine.postgres import inspect, upkeep
from framework.model.errors import EngineError, EngineUnavailable, EnqueueError, EnqueueUncertain, SettingsError
from framework.model.options import QueueOptions
from framework.model.outcome import SUCCEEDED, Settlement
from tests.support import postgres
from tests.support.postgres import Server
from tests.unit.helpers import a_job

JOBS = QueueOptions("jobs", service="tests")
Open = Callable[..., Any]


@pytest.fixture
def url() -> str:
    postgres.empty(postgres.shared())
    return postgres.shared().url


@pytest.fixture
def opened(url: str, tmp_path: Path) -> Iterator[Open]:
    """Opens owners on machines of these names."""
    brokers: list[Any] = []

    def open_(name: str, machine: str = "here", queue: QueueOptions = JOBS, options: str = "") -> Any:
        broker = open_engine(f"{url}?local_dir={tmp_path}/{machine}{options}", incarnation=name)
        brokers.append(broker)
        broker.open([queue])
        return broker

    yield open_
    for broker in brokers:
        broker.close()


def put(broker: Any, *ids: str, **fields: Any) -> None:
    broker.enqueue([a_job(b"{}", "jobs", one, **fields) for one in ids])


def take(broker: Any, count: int = 1) -> list[Any]:
    leases: list[Any] = []
    end = time.monotonic() + 30
    while len(leases) < count and time.monotonic() < end:
        leases += broker.claim(["jobs"], limit=count - len(leases), wait=0.2)
    assert len(leases) == count
    return leases


def ids(leases: Any) -> list[str]:
    return sorted(lease.job.id for lease in leases)


# --- the schema -------------------------------------------------------------------------------------------------------


def test_a_migration_can_be_repeated_and_run_twice_at_once(url: str) -> None:
    here = f"{url}?schema=twice"
    with ThreadPoolExecutor(4) as pool:
        said = list(pool.map(lambda _: list(engine.migrate(here)), range(4)))
    assert sorted(said) == [["schema 'twice': version 1 applied"], *[["schema 'twice': version 1, nothing to do"]] * 3]


def test_without_its_schema_the_engine_says_what_to_run(url: str) -> None:
    broker = open_engine(f"{url}?schema=missing", incarnation="a")
    with pytest.raises(EngineError, match="run `worker migrate`"):
        broker.open([])
    broker.close()


def test_a_newer_schema_is_refused_and_the_next_one_is_not(url: str) -> None:
    here = f"{url}?schema=newer"
    list(engine.migrate(here))
    for version, refused in ((2, False), (3, True)):
        with psycopg.connect(url) as connection:
            connection.execute("insert into newer.version (version) values (%s)", [version])
        broker = open_engine(here, incarnation=f"at {version}")
        if refused:
            with pytest.raises(EngineError, match="has version 3, this code knows 1: update it"):
                broker.open([])
        else:
            broker.open([JOBS])
        broker.close()
    with pytest.raises(EngineError, match="update it"):
        list(engine.migrate(here))


def test_the_command_migrates_and_prints(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["migrate", f"{url}?schema=by_hand"]) == 0
    assert capsys.readouterr().out == "schema 'by_hand': version 1 applied\n"
    assert main(["migrate", "--sql", f"{url}?schema=printed"]) == 0
    sql = capsys.readouterr().out
    with psycopg.connect(url) as connection:
        assert connection.execute("select to_regnamespace('printed')").fetchone() == (None,)
        connection.execute(sql, prepare=False)  # type: ignore[call-overload]
    broker = open_engine(f"{url}?schema=printed", incarnation="a")
    broker.open([JOBS])
    broker.close()
    assert main(["migrate", "spool:./x"]) == 2


def test_schemas_do_not_mix(opened: Open, url: str) -> None:
    list(engine.migrate(f"{url}?schema=other"))
    put(opened("a"), "x")
    other = opened("b", options="&schema=other")
    assert other.claim(["jobs"], limit=1, wait=0) == []


# --- breaks -----------------------------------------------------------------------------------------------------------


def cut(broker: Any, *, link: str = "link") -> None:
    """The server ends the connection."""
    found = getattr(broker, link)
    with psycopg.connect(postgres.shared().url, autocommit=True) as connection:
        connection.execute("select pg_terminate_backend(%s, 10000)", [found._connection.info.backend_pid])


def test_a_cut_connection_is_opened_again_and_its_leases_stay(opened: Open) -> None:
    broker, other = opened("a"), opened("b")
    put(broker, "x", "y")
    (lease,) = take(broker)
    cut(broker)
    cut(broker, link="_sending")
    put(broker, "z")
    assert ids(take(broker, 2)) == ["y", "z"]
    assert other.rescue() == []
    broker.settle([Settlement(lease, SUCCEEDED)])
    assert broker.stats("jobs").in_flight == 2


def test_a_claim_whose_answer_was_lost_is_given_back(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    broker = opened("a")
    put(broker, "x")
    taken = broker.claims._take

    def lose(*arguments: Any) -> Any:
        taken(*arguments)
        monkeypatch.undo()
        cut(broker)
        raise EngineUnavailable("no answer")

    monkeypatch.setattr(broker.claims, "_take", lose)
    with pytest.raises(EngineUnavailable):
        broker.claim(["jobs"], limit=1, wait=0)
    (lease,) = take(broker)
    assert (lease.job.id, lease.attempt, lease.delivery) == ("x", 1, 2)


def test_an_ack_that_the_server_lost_is_made_again(opened: Open, url: str) -> None:
    """It commits acks asynchronously: a crash undoes the last of them."""
    broker = opened("a")
    put(broker, "x")
    (lease,) = take(broker)
    with psycopg.connect(url) as connection:
        connection.execute("create temporary table before as select * from worker.job")
        broker_done = threading.Thread(target=broker.settle, args=([Settlement(lease, SUCCEEDED)],))
        connection.commit()
        broker_done.start()
        broker_done.join(30)
        connection.execute("insert into worker.job select * from before")
    cut(broker)
    assert broker.claim(["jobs"], limit=1, wait=0) == []
    assert broker.stats("jobs").jobs == 0


def test_a_server_that_stands_still_is_given_up_and_the_enqueue_is_uncertain(opened: Open) -> None:
    broker = opened("a", options="&timeout=0.5")
    put(broker, "x")
    pid = broker._sending._connection.info.backend_pid
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(EnqueueUncertain) as caught:
            put(broker, "y")
    finally:
        os.kill(pid, signal.SIGCONT)
    assert caught.value.job_id == "y"
    put(broker, "z")


def test_a_server_that_is_away_says_so_and_is_found_again(tmp_path: Path) -> None:
    server = Server()
    list(postgres.migrated(server))
    broker = open_engine(f"{server.url}?local_dir={tmp_path}", incarnation="a")
    broker.open([JOBS])
    put(broker, "x")
    (lease,) = take(broker)
    server.stop(signal.SIGKILL)
    with pytest.raises(EngineUnavailable):
        broker.settle([Settlement(lease, SUCCEEDED)])
    with pytest.raises(EnqueueError) as refused:
        put(broker, "y")
    assert not isinstance(refused.value, EnqueueUncertain), "its connection was closed before"
    server.start()
    end = time.monotonic() + 30
    while True:
        try:
            broker.settle([Settlement(lease, SUCCEEDED)])
            break
        except EngineUnavailable:
            assert time.monotonic() < end
            time.sleep(0.05)
    put(broker, "y")
    assert ids(take(broker)) == ["y"]
    broker.close()
    server.stop()


# --- machines ---------------------------------------------------------------------------------------------------------


def test_a_machine_that_beats_no_more_loses_what_it_held(opened: Open, url: str) -> None:
    there, here = opened("there", "far"), opened("here")
    put(there, "x", "y")
    (lease,) = take(there)
    here.maintain()
    assert here.rescue() == []
    with psycopg.connect(url) as connection:
        connection.execute("update worker.node set beat = beat - %s", [upkeep.PATIENCE + 1])
    here.maintain()
    assert here.rescue() == [], "the database may just be back, for all of them"
    here.link.since -= upkeep.PATIENCE
    (rescued,) = here.rescue()
    assert (rescued.owner, rescued.lease.job.id) == ("there", "x")
    here.settle([Settlement(rescued.lease, SUCCEEDED)])
    with pytest.raises(Exception, match="the claim was lost: x"):
        there.settle([Settlement(lease, SUCCEEDED)])
    assert ids(take(there)) == ["y"]  # it lives after all


def test_the_dead_of_other_services_stay_theirs(opened: Open) -> None:
    dead = opened("dead")
    put(dead, "x")
    take(dead)
    dead.close()
    stranger = opened("stranger", queue=QueueOptions("others"))
    assert stranger.rescue() == []
    assert [one.lease.job.id for one in opened("b").rescue()] == ["x"]


def test_urgent_and_released_jobs_below_the_floor_are_found(opened: Open) -> None:
    producer, one, other = opened("p"), opened("a"), opened("b")
    put(producer, *(f"{n:03}" for n in range(50)))
    first = take(one, 20)
    take(other, 10)
    one.release(first)
    assert set(ids(first)) <= set(ids(take(other, 40)))


def test_large_counts_are_estimated(opened: Open, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspect, "EXACT", 50)
    monkeypatch.setattr(inspect, "NEAR", 20)
    broker = opened("a")
    put(broker, *(f"{n}" for n in range(200)))
    take(broker, 5)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("analyze worker.job")
    stats = broker.stats("jobs")
    assert (stats.ready, stats.in_flight, stats.delayed) == (195, 5, 0)


def test_a_wrong_url_is_refused_without_its_password() -> None:
    with pytest.raises(SettingsError) as refused:
        open_engine("postgresql://me:secret@[::1/x", incarnation="a")
    assert "secret" not in str(refused.value)


def test_no_thread_is_left_behind(opened: Open) -> None:
    before = threading.active_count()
    broker = opened("a")
    put(broker, "x")
    take(broker)
    assert threading.active_count() == before
