"""A disk without room for the tables of jobs: an enqueue is refused, what is stored runs, and it goes on with more."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from framework.engine.port import open_engine
from framework.model.errors import QueueFull
from framework.model.options import QueueOptions
from framework.model.outcome import SUCCEEDED, Settlement
from tests.support import postgres
from tests.unit.helpers import a_job

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root for a small disk")]
JOBS = QueueOptions("jobs", max_payload_bytes=1 << 20)


@pytest.fixture
def small() -> Iterator[tuple[postgres.Server, Path]]:
    """A server whose jobs lie on a disk of 16 MB; its log lies elsewhere, without which no server goes on."""
    server = postgres.Server()
    disk = Path(tempfile.mkdtemp(dir=postgres._scratch()))
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m,mode=0700", "tmpfs", disk]).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        shutil.chown(disk, "nobody", "nogroup")
        list(postgres.migrated(server))
        server.execute(f"create tablespace small location '{disk}'")
        server.execute("alter table worker.job set tablespace small")
        yield server, disk
    finally:
        server.stop(signal.SIGKILL)
        subprocess.run(["umount", disk], check=True)


def test_a_full_disk_refuses_jobs_and_runs_those_that_it_has(
    small: tuple[postgres.Server, Path], tmp_path: Path
) -> None:
    server, disk = small
    engine = open_engine(f"{server.url}?local_dir={tmp_path}", incarnation="a")
    engine.open([JOBS])
    stored: list[str] = []
    while True:
        try:
            stored += engine.enqueue([a_job(os.urandom(100_000), job_id=f"{len(stored)}")])
        except QueueFull as full:
            assert "No space left on device" in str(full)  # noqa: PT017 -- the loop has no other end
            break
    with pytest.raises(QueueFull) as refused:
        engine.enqueue([a_job(os.urandom(100_000), job_id=f"many {n}") for n in range(5)])
    assert refused.value.enqueued == ()
    ran: list[str] = []
    while leases := engine.claim(["jobs"], limit=20, wait=0):
        ran += [lease.job.id for lease in leases]
        engine.settle([Settlement(lease, SUCCEEDED) for lease in leases])
    assert ran == stored
    subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
    engine.enqueue([a_job(os.urandom(100_000))])
    engine.close()
