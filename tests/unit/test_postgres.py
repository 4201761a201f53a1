"""What is PostgreSQL's own: the breaks of its connections, its clock, and machines that are far apart."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest

from framework.engine import postgres as engine
from framework.engine.port import MOST_UNCHARGED_ELSEWHERE, open_engine
from framework.engine.postgres import inspect, upkeep
from framework.maintenance.rescue import Accounts
from framework.model.errors import EngineUnavailable, EnqueueError, EnqueueUncertain, SettingsError
from framework.model.extras import Extras
from framework.model.options import QueueOptions
from framework.model.outcome import SUCCEEDED, Settlement
from tests.proxy import Proxy
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


def test_schemas_do_not_mix(opened: Open, url: str) -> None:
    list(engine.migrate(f"{url}?schema=other"))
    put(opened("a"), "x")
    other = opened("b", options="&schema=other")
    assert other.claim(["jobs"], limit=1, wait=0) == []


@pytest.mark.parametrize("queue", ["jobs", "more"])
def test_a_claim_that_a_limit_keeps_waiting_looks_now_and_then(
    opened: Open, monkeypatch: pytest.MonkeyPatch, queue: str
) -> None:
    """So does a claim from another queue afterwards."""
    broker = opened("a", queue=replace(JOBS, max_running=1))
    broker.open([QueueOptions("more")])
    put(broker, "x", "y")
    take(broker)
    assert broker.claim(["jobs"], limit=1, wait=0.3) == []
    taken, looks = broker.claims._take, []
    monkeypatch.setattr(broker.claims, "_take", lambda *arguments: looks.append(1) or taken(*arguments))
    assert broker.claim([queue], limit=1, wait=0.5) == []
    assert len(looks) < 12


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


def test_a_claim_that_the_server_has_lost_takes_its_place_in_the_group_again(opened: Open, url: str) -> None:
    queue = replace(JOBS, grouped=True, group_order="strict")
    broker, other = opened("a", queue=queue), opened("b", queue=queue)
    put(broker, "x", "y", extras=Extras(group="g"))
    (lease,) = take(broker)
    cut(broker)
    with psycopg.connect(url) as connection:  # as after a crash of the server
        connection.execute("update worker.job set owner = null, delivery = 0 where owner is not null")
        connection.execute("delete from worker.held")
    broker.lost([lease])
    assert other.claim(["jobs"], limit=2, wait=0.3) == []
    broker.settle([Settlement(lease, SUCCEEDED)])
    assert ids(take(other)) == ["y"]


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
    broker._sending.connected()  # it has heard the end of its notification: the next message is the job
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


def test_of_a_dead_machine_only_what_had_started_is_charged(
    opened: Open, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, here = opened("there", "far"), opened("here")
    put(there, "x", "y")
    monkeypatch.setattr(upkeep, "PATIENCE", -1.0)
    for delivery in range(1, MOST_UNCHARGED_ELSEWHERE + 2):
        leases = take(there, 2)
        assert there.lost(leases[:1]) == []  # a worker asks about its runs
        here.upkeep._left_over.clear()  # as if it had been seen alive meanwhile
        rescued = {one.lease.job.id: one for one in here.rescue()}
        run = rescued["x"].run
        assert run is not None
        assert (run.delivery, run.attempt) == (delivery, 1)
        assert (rescued["y"].run, rescued["y"].elsewhere) == (None, True)
        charged = Accounts(here, None, lambda lease, run: run).of(rescued["y"]).run is not None
        assert charged == (delivery > MOST_UNCHARGED_ELSEWHERE), "it may have killed its machine at once, each time"
        here.release([one.lease for one in rescued.values()])


def test_a_run_whose_row_its_own_transaction_has_locked_is_not_waited_for(opened: Open, url: str) -> None:
    broker = opened("a", options="&timeout=1")
    put(broker, "x")
    (lease,) = take(broker)
    with psycopg.connect(url) as connection:
        connection.execute("delete from worker.job")
        assert broker.lost([lease]) == []


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


def test_one_job_is_found_by_its_id_and_no_other_is_read(opened: Open, url: str) -> None:
    broker = opened("a")
    put(broker, *(f"{n}" for n in range(3000)))
    put(broker, *(f"later {n}" for n in range(100)), not_before=time.time() + 3600)

    def read() -> int:
        broker.link.rows("select pg_stat_force_next_flush()")
        [(count,)] = broker.link.rows(
            "select sum(seq_tup_read + idx_tup_fetch)::int from pg_stat_user_tables where schemaname = 'worker' "
            "and relname in ('job', 'later', 'dead')"
        )
        return int(count)

    broker.keeps_dead_letters("jobs")
    before = read()
    assert broker.find("jobs", "2999", "ready").job.id == "2999"
    assert broker.find("jobs", "later 50", "delayed").job.id == "later 50"
    assert broker.find("jobs", "2999", "dead") is None
    assert read() - before <= 4


def test_the_local_directory_does_not_depend_on_the_working_directory(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def place(options: str = "") -> Path:
        return Path(open_engine(f"{url}{options}", incarnation="a").local_dir)

    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    here = place()
    monkeypatch.chdir(tmp_path)
    assert place() == here
    assert here.parent == tmp_path / ".local/state/worker"
    assert place("?schema=other") != here
    monkeypatch.setenv("STATE_DIRECTORY", f"{tmp_path}/state:{tmp_path}/second")
    assert place().parent == tmp_path / "state/worker"
    assert list(tmp_path.iterdir()) == [], "a process that only enqueues leaves no files"


def test_of_several_hosts_one_that_takes_writes_is_used(url: str, tmp_path: Path) -> None:
    standby, primary = Proxy(postgres.shared().port), Proxy(postgres.shared().port)
    hosts = f"127.0.0.1:{standby.port},127.0.0.1:{primary.port}"
    broker = open_engine(f"postgresql://postgres@{hosts}/postgres?local_dir={tmp_path}", incarnation="a")
    broker.open([JOBS])
    put(broker, "x")
    standby.refuse()
    end = time.monotonic() + 30
    while not (leases := claimed(broker)):
        assert time.monotonic() < end
    assert ids(leases) == ["x"]
    broker.close()
    standby.close()
    primary.close()


@pytest.mark.parametrize(("rest", "seconds"), [("/db", "5"), (",other/db", "2"), (",other/db?connect_timeout=9", "9")])
def test_a_silent_host_holds_up_the_next_one_for_two_seconds(rest: str, seconds: str) -> None:
    place = open_engine(f"postgresql://shop@primary{rest}", incarnation="a").place  # type: ignore[attr-defined]
    assert psycopg.conninfo.conninfo_to_dict(place.conninfo)["connect_timeout"] == seconds


def claimed(broker: Any) -> Any:
    try:
        return broker.claim(["jobs"], limit=1, wait=0.1)
    except EngineUnavailable:
        return ()


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
