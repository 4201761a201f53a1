"""What a job costs in system calls, listings, objects and spans: counts that are the same on every machine.

The bounds leave room above what is measured today (in brackets), not for a second call of a kind.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import pytest

from framework import Queue, Settings, WorkerApp
from framework.engine.spool.claim import listing
from framework.engine.spool.engine import SpoolEngine, connect
from framework.engine.spool.segments import append
from framework.model.job import Job
from framework.model.options import QueueOptions
from framework.model.outcome import SUCCEEDED, Settlement
from tests.spool.seam import Seam, pass_on
from tests.support.receiver import Receiver

JOBS = 400
WARM = 100  # jobs until batches have found their size and caches are filled
ROOT = Path(__file__).parents[2]
CALL = re.compile(r"^(\d+) +([a-z_0-9]+)\((.*)")
LISTING = ("opendir", "getdents64", "lseek", "fcntl")


class Costs(WorkerApp):
    jobs = Queue[int]("jobs")

    @jobs.handler
    def mark(self, number: int) -> None:
        """Its getppid marks the job among the system calls; the last job ends the service."""
        supervisor = os.getppid()
        if number in (WARM, JOBS - 1):
            with open(os.environ["BLOCKS"], "a") as file:
                print(sys.getallocatedblocks(), file=file)
        if number == JOBS - 1:
            os.kill(supervisor, signal.SIGTERM)


@dataclass(frozen=True)
class Spent:
    """By one worker between job WARM and the last one.

    Attributes:
        calls: system calls of its main thread, the one that runs the jobs.
        blocks: by how many blocks of memory Python has more.
        spans: ids of the `process` spans that arrived, of all jobs.
        requests: that the receiver got.
    """

    calls: Counter[str]
    blocks: int
    spans: list[str]
    requests: int

    def per_job(self, *names: str) -> float:
        """System calls of these names; or all but those of listings, which are renewed as time passes."""
        if names:
            return sum(self.calls[name] for name in names) / (JOBS - WARM)
        others = sum(count for name, count in self.calls.items() if name not in LISTING)
        # Each listing also has a stat before it, one of the descriptor, and a close.
        return (others - 3 * self.calls["opendir"]) / (JOBS - WARM)


@pytest.fixture(scope="module", params=["telemetry off", "every job traced", "sampled out"])
def telemetry(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def spent(telemetry: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Spent]:
    """One run of a service with one worker under strace."""
    strace, place = usable_strace(), tmp_path_factory.mktemp("costs")
    url, blocks, output = f"spool:{place}/spool", place / "blocks", place / "trace"
    with Costs.connect(Settings(engine_url=url, durability="process")):
        Costs.jobs.enqueue_many(range(JOBS))
    variables = {"WORKER_ENGINE_URL": url, "WORKER_LOG_LEVEL": "warning", "BLOCKS": str(blocks)}
    with ExitStack() as stack:
        receiver = stack.enter_context(Receiver())
        variables |= receiver.env(fast=False)
        variables["OTEL_SDK_DISABLED"] = "true" if telemetry == "telemetry off" else "false"
        variables["OTEL_TRACES_SAMPLER"] = "always_off" if telemetry == "sampled out" else "always_on"
        ended = subprocess.run(
            [strace, "-f", "-qq", "-s", "0", "-o", output, worker_script(), "run", "tests.process.test_costs"],
            env={"PATH": os.environ["PATH"], **variables},
            cwd=ROOT,
            capture_output=True,
            timeout=110,
            check=False,
        )
        assert ended.returncode == 0, ended.stdout.decode()[-2000:] + ended.stderr.decode()[-2000:]
        first, last = map(int, blocks.read_text().split())
        spans = [span.span_id for span in receiver.spans("process jobs")]
        yield Spent(calls_between(output), last - first, spans, receiver.asked)


def usable_strace() -> str:
    """Its path; skips the test where it is missing or may not trace."""
    found = shutil.which("strace")
    if found is None:
        pytest.skip("strace is not installed")
    if subprocess.run([found, "-qq", "-o", os.devnull, "true"], check=False, capture_output=True).returncode:
        pytest.skip("strace may not trace here")
    return found


def worker_script() -> Path:
    return Path(sys.executable).with_name("worker")


def calls_between(trace: Path) -> Counter[str]:
    """What the thread that made a getppid in every job called between job WARM and the last."""
    calls = [
        (found[1], "opendir" if "O_DIRECTORY" in found[3] else found[2])
        for line in trace.read_text().splitlines()
        if (found := CALL.match(line))
    ]
    [(thread, marks)] = Counter(thread for thread, name in calls if name == "getppid").most_common(1)
    assert marks >= JOBS, "each job has left its mark"
    own = [name for number, name in calls if number == thread]
    places = [at for at, name in enumerate(own) if name == "getppid"][-JOBS:]
    # Without the marks, and without the few calls of the two jobs that count blocks: they stand outside.
    return Counter(name for name in own[places[WARM + 1] : places[-1]] if name != "getppid")


def test_a_job_costs_a_worker_few_system_calls(spent: Spent) -> None:
    assert spent.per_job() <= 10, spent.calls  # 8 or 9: claim, open, stat, read, close, two records, unlink


def test_a_job_opens_reads_renames_and_removes_one_file_once(spent: Spent) -> None:
    for names in (("openat",), ("renameat", "rename"), ("unlinkat", "unlink"), ("pread64", "read")):
        assert spent.per_job(*names) <= 1.1, spent.calls
    assert spent.per_job("pwrite64", "write") <= 2.1, spent.calls  # the start and the outcome of the run


def test_a_worker_waits_for_no_disk(spent: Spent) -> None:
    assert not [name for name in spent.calls if "sync" in name and name != "rt_sigreturn"], spent.calls


def test_telemetry_sends_nothing_from_the_thread_that_runs_jobs(spent: Spent) -> None:
    assert spent.per_job("sendto", "sendmsg", "connect", "socket") == 0, spent.calls


def test_jobs_leave_no_objects_behind(spent: Spent, telemetry: str) -> None:
    # A kept job would be 10 blocks or more. A batch that is half used up may hide 3 per job, in either direction; the
    # SDK's queue keeps some 30 for each span until it sends.
    waiting = 60 if telemetry == "every job traced" else 0
    assert spent.blocks / (JOBS - WARM) < 5 + waiting, "blocks of memory per job that has ended"


def test_each_traced_job_has_one_span_and_no_other_has_any(spent: Spent, telemetry: str) -> None:
    wanted = JOBS if telemetry == "every job traced" else 0
    assert len(spent.spans) == len(set(spent.spans)) == wanted


def test_spans_and_counts_are_sent_together(spent: Spent, telemetry: str) -> None:
    assert spent.requests <= (0 if telemetry == "telemetry off" else JOBS / 10), "requests to the collector"


def jobs_of(count: int) -> list[Job]:
    return [
        Job(id=f"{n:08}", uid=os.urandom(16), queue="jobs", payload=b"1", headers={}, enqueued_at=1.0)
        for n in range(count)
    ]


def opened(root: Path, seam: Seam, durability: Literal["process", "power"]) -> SpoolEngine:
    spool = connect(f"spool:{root}", incarnation="costs-1", durability=durability, calls=seam)  # type: ignore[arg-type]
    spool.open([QueueOptions("jobs")])
    seam.arm(pass_on)
    return spool


def listings(root: Path, count: int) -> int:
    """Directory listings of a worker that runs so many jobs."""
    seam = Seam()
    spool = opened(root, seam, "process")
    spool.enqueue(jobs_of(count))
    seam.arm(pass_on)
    ran = 0
    while leases := spool.claim(["jobs"], limit=16, wait=0):
        spool.settle([Settlement(lease, SUCCEEDED) for lease in leases])
        ran += len(leases)
    assert ran == count
    spool.close()
    return seam.names.count("listdir")


def test_listings_do_not_grow_with_the_number_of_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A listing is also renewed when it is old: on a slow machine that would count, so here no time passes.
    monkeypatch.setattr(listing, "time", SimpleNamespace(monotonic=lambda: 0.0, thread_time=lambda: 0.0))
    few, many = listings(tmp_path / "few", 100), listings(tmp_path / "many", 2_000)
    assert many <= few + 4, "20 times the jobs; a bucket's minute may end meanwhile"


def test_a_durable_enqueue_is_one_flush_and_so_is_that_of_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(append, "AGE", 3600.0)  # however slow the machine is
    monkeypatch.setattr(append, "WORTH", 1)
    seam = Seam()
    spool = opened(tmp_path / "spool", seam, "power")
    spool.maintain()  # says that all workers read segments
    spool.enqueue(jobs_of(1))
    seam.arm(pass_on)
    for job in jobs_of(99):
        spool.enqueue([job])
    assert sum("sync" in name for name in seam.names) == 99
    assert seam.names.count("fdatasync") > 90, "into blocks that are there, which takes no commit of the journal"
    assert len(seam.names) / 99 <= 11  # 9: the root (2), marker, room, our file, records, flush, still ours, words
    seam.arm(pass_on)
    spool.enqueue(jobs_of(200))
    assert sum("sync" in name for name in seam.names) == 1
    assert len(seam.names) / 200 <= 0.2
    spool.close()
