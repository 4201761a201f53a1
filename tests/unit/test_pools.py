"""Pools as declared and set, and whose turn it is among the queues of one."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from framework import Pool, Queue, Settings, WorkerApp
from framework.model.errors import SettingsError
from framework.model.job import Lease
from framework.runner.context import crews_of
from framework.runner.resolving import check, resolve
from framework.service.app import Slot
from framework.service.options import resolve as resolve_queue
from framework.service.options import resolve_pool
from framework.service.settings import load_settings
from framework.worker.gate.claims import Turns
from tests.unit.helpers import FIRST, a_lease, refusal


class Base(WorkerApp):
    light = Pool("light", workers=2, concurrency=4, max_jobs_per_process=10, max_memory="1GiB")
    idle = Pool("idle")


class Relay(Base):
    mails = Queue[int]("mails", pool=Base.light, weight=3, timeout=7)
    texts = Queue[int]("texts", pool=Base.light)
    big = Queue[int]("big", workers=3)

    @mails.handler
    @texts.handler
    @big.handler
    def act(self, number: int) -> None: ...


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.upper().startswith("WORKER_")]:
        monkeypatch.delenv(name)


def test_a_pool_gives_its_queues_their_processes_and_nothing_else() -> None:
    assert list(Relay.worker_pools.values()) == [Base.light, Base.idle]
    settings = load_settings()
    found = resolve(Relay, settings)
    mails = found["mails"]
    assert (mails.pool, mails.workers, mails.concurrency, mails.weight, mails.timeout) == ("light", 2, 4, 3, 7)
    assert (mails.max_jobs_per_process, mails.max_memory) == (10, 2**30)
    crews = crews_of(Relay, settings, found, ["mails", "texts", "big"])
    assert {name: [queue.name for queue in crew.queues] for name, crew in crews.items()} == {
        "light": ["mails", "texts"], "big": ["big"],
    }  # fmt: skip
    assert crews["light"].slot(1) == Slot(Relay.mails, 1, Base.light, (Relay.mails, Relay.texts))
    assert crews["big"].slot(0) == Slot(Relay.big, 0)
    assert crews["big"].options.workers == 3


def test_settings_of_a_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKER_POOLS__LIGHT__WORKERS", "5")
    monkeypatch.setenv("WORKER_POOLS__LIGHT__MAX_MEMORY", "2GiB")
    monkeypatch.setenv("WORKER_POOLS__LIGHT__MAX_JOBS_PER_PROCESS", "none")
    monkeypatch.setenv("WORKER_QUEUES__MAILS__WEIGHT", "9")
    settings = load_settings()
    pool, mails = resolve_pool(Base.light, settings), resolve_queue(Relay.mails, settings)
    assert (pool.workers, pool.concurrency, pool.max_memory, pool.max_jobs_per_process) == (5, 4, 2**31, None)
    assert (mails.workers, mails.weight) == (5, 9)
    assert crews_of(Relay, settings, resolve(Relay, settings), ["mails"])["light"].options == pool


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("QUEUES__MAILS__WORKERS", "2", "pool 'light' serves the queue: set WORKER_POOLS__LIGHT__WORKERS"),
        ("QUEUES__MAILS__MAX_MEMORY", "1G", "pool 'light' serves the queue: set WORKER_POOLS__LIGHT__MAX_MEMORY"),
        ("QUEUES__BIG__WEIGHT", "2", "the queue is in no pool, where alone a weight counts"),
        ("QUEUES__MAILS__WEIGHT", "0", "weight=0: must be 1 to 100"),
        ("POOLS__LIGHT__CONCURRENCY", "0", "concurrency=0: must be 1 or more"),
        ("POOLS__LIGHT__MAX_MEMORY", "much", "max_memory='much': write it as 512MiB, 2GiB or a number of bytes"),
        ("POOLS__LIHGT__WORKERS", "2", "no pool 'lihgt'; did you mean LIGHT?"),
        ("POOLS__BIG__WORKERS", "2", "no pool 'big'; it is a queue: set WORKER_QUEUES__BIG__WORKERS"),
        ("QUEUES__LIGHT__WORKERS", "2", "no queue 'light'; it is a pool: set WORKER_POOLS__LIGHT__WORKERS"),
        ("POOLS__LIGHT__WORKRES", "2", "no option 'workres'; did you mean workers?"),
        ("POOLS__LIGHT__TIMEOUT", "2", "no option 'timeout'"),
    ],
)
def test_wrong_settings(variable: str, value: str, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"WORKER_{variable}", value)
    with pytest.raises(SettingsError) as refused:
        resolve(Relay, load_settings())
    assert str(refused.value) == f"WORKER_{variable}: {says}"


def test_a_pool_that_serves_nothing_is_a_warning(tmp_path: Path) -> None:
    [warning] = check(Relay, Settings(engine_url=f"spool:{tmp_path}/spool"))
    assert warning.endswith("pool 'idle' serves nothing: no queue with a handler here has pool=idle")


BODIES: list[tuple[str, int, str]] = [
    (
        'q = Queue[int]("q", pool=Pool("y"))',
        1,
        (
            "Relay.q: its pool 'y' ({here}:{line}) is neither declared nor inherited by Relay: make it a class "
            "attribute there"
        ),
    ),
    (
        'a = Pool("x")\n    b = Pool("x")',
        2,
        "Relay.b and Relay.a ({here}:{before}) are both pools named 'x': give one another name",
    ),
    (
        'a = Pool("x")\n    q = Queue[int]("x")',
        1,
        "pool Relay.a and queue Relay.q ({here}:{after}) are both named 'x': give one another name",
    ),
    (
        'a = Pool("x")\n    q = Queue[int]("q", pool=a, workers=1)',
        2,
        "workers=1 is an option of pool 'x' ({here}:{before}): write it there",
    ),
    (
        'a = Pool("x")\n    q = Queue[int]("q", pool=a, max_memory="1G")',
        2,
        "max_memory='1G' is an option of pool 'x' ({here}:{before}): write it there",
    ),
    ('q = Queue[int]("q", pool="x")', 1, "pool='x': give the pool itself, not its name"),
    ('q = Queue[int]("q", pool=Pool)', 1, "pool=Pool: give the pool itself, not its class"),
    ('q = Queue[int]("q", weight=2)', 1, "weight=2 counts among the queues of a pool: add pool=, or remove it"),
    ('a = Pool("x")\n    q = Queue[int]("q", pool=a, weight=101)', 2, "weight=101: must be 1 to 100"),
    ('a = Pool("X")', 1, "pool name 'X': 1 to 100 of a-z 0-9 . _ - and a letter or digit first"),
    ('a = Pool("x", workers=-1)', 1, "workers=-1: must be 0 or more"),
    ('a = Pool("x", max_memory="lots")', 1, "max_memory='lots': write it as 512MiB, 2GiB or a number of bytes"),
]


@pytest.mark.parametrize(("body", "line", "says"), BODIES)
def test_mistakes(body: str, line: int, says: str, tmp_path: Path) -> None:
    here, at = tmp_path / "relay.py", FIRST + line + 1
    text = refusal(f"from framework import Pool\nclass Relay(WorkerApp):\n    {body}", here)
    assert text == f"{here}:{at}: " + says.format(here=here, line=at, before=at - 1, after=at + 1)


def test_sync_and_async_handlers_in_one_pool(tmp_path: Path) -> None:
    here = tmp_path / "relay.py"
    text = refusal(
        """
        from framework import Pool
        class Relay(WorkerApp):
            light = Pool("light")
            a = Queue[int]("a", pool=light)
            b = Queue[int]("b", pool=light)

            @a.handler
            def one(self, number: int) -> None: ...

            @b.handler
            async def two(self, number: int) -> None: ...
        """,
        here,
    )
    assert text == (
        f"{here}:{FIRST + 9}: two, the handler of queue 'b', is async, and one ({here}:{FIRST + 6}) of queue 'a' is "
        "sync: both are in pool 'light': make a pool for each kind"
    )


def test_two_mixins_that_mean_different_pools_by_one_name(tmp_path: Path) -> None:
    text = refusal(
        """
        from framework import Pool
        class One(WorkerApp): light = Pool("one")
        class Two(WorkerApp): light = Pool("two")
        class Relay(One, Two): ...
        """,
        tmp_path / "relay.py",
    )
    assert "Relay.light is both One.light, pool 'one' (" in text
    assert text.endswith("and Two.light, pool 'two': the second would be out of reach: rename one")


def test_more_threads_than_a_process_can_use(tmp_path: Path) -> None:
    text = refusal(
        """
        from framework import Pool
        class Relay(WorkerApp):
            light = Pool("light", concurrency=300)
            a = Queue[int]("a", pool=light)

            @a.handler
            def one(self, number: int) -> None: ...
        """,
        tmp_path / "relay.py",
    )
    assert "concurrency=300 must be at most 256" in text


# --- turns ----------------------------------------------------------------------------------------------------------


def taken(turns: Turns, jobs: Counter[str], limit: int) -> Sequence[Lease]:
    """Claim as an engine does: in the order given, up to the limit."""
    found = [queue for queue in turns.order for _ in range(jobs[queue])][:limit]
    jobs -= Counter(found)
    leases = [replace(a_lease(), queue=queue) for queue in found]
    turns.took(leases)
    return leases


@pytest.mark.parametrize("limit", [1, 3, 16])
def test_queues_that_are_full_share_by_their_weights(limit: int) -> None:
    turns = Turns({"a": 1, "b": 3, "empty": 50})
    jobs = Counter(a=5_000, b=5_000)
    ran = Counter(lease.queue for _ in range(400) for lease in taken(turns, jobs, limit))
    assert abs(ran["b"] - 3 * ran["a"]) <= 8 * limit


def test_a_job_beside_a_flood_comes_at_the_next_claim() -> None:
    turns, jobs = Turns(dict.fromkeys(("seldom", "flood"), 1)), Counter(flood=5_000)
    for _ in range(1000):
        taken(turns, jobs, 16)
    jobs["seldom"] += 1
    assert "seldom" in [lease.queue for lease in taken(turns, jobs, 16)]


def test_a_queue_that_was_idle_has_saved_up_nothing() -> None:
    turns, jobs = Turns({"a": 1, "b": 1}), Counter(a=5_000)
    for _ in range(1000):
        taken(turns, jobs, 1)
    jobs["b"] = 5_000
    ran = Counter(lease.queue for _ in range(100) for lease in taken(turns, jobs, 1))
    assert abs(ran["a"] - ran["b"]) <= 2
