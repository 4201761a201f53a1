"""What runs out comes back: a full disk, no inodes, no descriptors, a read-only disk, something in the way. The spool
says so, loses nothing, and goes on by itself within 5 s once it can.

Alone: `python -m tests.faults.resources`; needs root, for mounts.
"""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from framework.engine.spool.claim.life import wid_of
from framework.engine.spool.engine import SpoolEngine
from framework.model.errors import EngineError, EnqueueError
from tests.spool.world import JOBS, LETTERS, broker, claim, ids, job, one
from tests.support.services.acts import Task
from tests.support.services.torture import Torture
from tests.support.settling import ack
from tests.support.tree import Tree

from .report import Report, print_and_exit

WITHIN = 5.0  # seconds, as promised
ROUNDS = 3


@contextmanager
def small_disk(where: Path, options: str) -> Iterator[Path]:
    """A tmpfs. Raises OSError where there is no mounting."""
    where.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"mode=0700,{options}", "small", str(where)]
    if subprocess.run(command, capture_output=True).returncode:
        raise OSError("no mounting here: needs root")
    try:
        yield where
    finally:
        subprocess.run(["umount", "--lazy", where], check=True)


@contextmanager
def a_tree(options: str) -> Iterator[Tree]:
    """A `worker run` whose spool is a small disk of its own."""
    with tempfile.TemporaryDirectory(prefix="resources-") as place:
        with small_disk(Path(place) / "spool", options):
            tree = Tree(Path(place))
            try:
                yield tree
            finally:
                tree.close()


def fill_bytes(place: Path) -> Callable[[], None]:
    """Not a block is left; returns what gives them back."""
    filler = place / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    return filler.unlink


def fill_inodes(place: Path) -> Callable[[], None]:
    """Not an inode is left."""
    fillers: list[Path] = []
    with contextlib.suppress(OSError):
        while True:
            filler = place / f"filler{len(fillers)}"
            filler.touch()
            fillers.append(filler)

    def free() -> None:
        for filler in fillers:
            filler.unlink()

    return free


def a_service_goes_on(options: str, fill: Callable[[Path], Callable[[], None]]) -> float:
    """A job is running when the disk fills up; then there is space again. Seconds until it was tried again."""
    with a_tree(options) as tree:
        tree.start("--queue", "sync")
        tree.enqueue(Torture.sync, Task(do="sleep", key="k", until=1))
        tree.wait_ledger("start k 1")
        free = fill(tree.root)
        refused = 0
        try:
            tree.enqueue(Torture.sync, Task(key="refused"))
        except EnqueueError:
            refused += 1
        assert refused, "a full disk took a job"
        tree.wait(lambda: any("free some space" in str(event) for event in tree.events()), "the service says why")
        assert tree.ran("start k 2") == []
        free()
        began = time.monotonic()
        tree.wait_ledger("end k 2")
        seconds = time.monotonic() - began
        tree.enqueue(Torture.sync, Task(key="after"))
        tree.wait_ledger("end after")
        assert tree.stop() == 0
        assert tree.ran("start refused") == [], "what was refused ran"
        stats = tree.stats("sync")
        assert (stats.ready, stats.delayed, stats.in_flight, stats.bad) == (0, 0, 0, 0)
    return seconds


def a_full_disk() -> float:
    """Blocks."""
    return a_service_goes_on("size=4m", fill_bytes)


def no_inodes() -> float:
    """Inodes: the minute that a retry waits in cannot be made."""
    return a_service_goes_on("size=16m,nr_inodes=90", fill_inodes)


def no_descriptors() -> float:
    """Workers that may open nothing more: they put their limit back, as after a job that has lowered it."""
    with a_tree("size=16m") as tree:
        tree.start("--queue", "sync")
        for slot in tree.workers("sync"):
            resource.prlimit(
                slot.pid, resource.RLIMIT_NOFILE, (3, resource.prlimit(slot.pid, resource.RLIMIT_NOFILE)[1])
            )
        began = time.monotonic()
        tree.enqueue(Torture.sync, Task(key="k"))
        tree.wait_ledger("end k")
        seconds = time.monotonic() - began
        assert tree.stop() == 0
        assert tree.stats("sync").bad == 0
        assert len(tree.ran("start k")) == 1
    return seconds


def a_read_only_disk() -> float:
    """The spool alone: the kernel lets nobody remount below an open lock file."""
    with tempfile.TemporaryDirectory(prefix="resources-") as place:
        with small_disk(Path(place) / "disk", "size=4m") as disk:
            mine = broker(disk / "spool", JOBS, LETTERS)
            mine.enqueue([job("a")])
            subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
            _refused(lambda: mine.enqueue([job("b")]), "Read-only")
            _refused(lambda: claim(mine), "remount")
            subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
            began = time.monotonic()
            assert ids(claim(mine)) == ["a"]
            seconds = time.monotonic() - began
            mine.close()
    return seconds


@contextmanager
def mounted(image: Path, where: Path) -> Iterator[None]:
    """An ext4 that turns read-only when it is in trouble."""
    subprocess.run(["mount", "-o", "loop,errors=remount-ro", image, where], check=True)
    try:
        yield
    except BaseException:
        subprocess.run(["umount", "--lazy", where], check=True)  # a traceback may hold a mapping
        raise
    subprocess.run(["umount", where], check=True)


def _mend(image: Path) -> None:
    """As an administrator would: once the kernel has let go of the image, which it does some time after `umount`."""
    end = time.monotonic() + 20
    while subprocess.run(["losetup", "-j", image], capture_output=True, check=True).stdout:
        assert time.monotonic() < end, "the loop device stays"
        time.sleep(0.02)
    found = subprocess.run(["fsck.ext4", "-f", "-y", image], capture_output=True, text=True)
    assert found.returncode in (0, 1), found.stdout + found.stderr  # nothing to mend, mended


def a_disk_in_trouble() -> float:
    """The kernel turns it read-only beneath a service, with its lock files and boards open, as after an error of the
    device: the service says so, keeps what it cannot settle, and ends in time; on the mended disk every job runs."""
    with tempfile.TemporaryDirectory(prefix="resources-") as place:
        image, root = Path(place) / "image", Path(place) / "spool"
        root.mkdir()
        with image.open("wb") as file:
            file.truncate(128 << 20)
        subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True)
        with mounted(image, root):
            (root / "lost+found").rmdir()
            root.chmod(0o700)
            _trouble(_durable(Path(place)))
        _mend(image)
        with mounted(image, root):
            return _mended(_durable(Path(place)))


def _durable(place: Path) -> Tree:
    """One that does what it promises for a disk: the other tests do without fsync."""
    tree = Tree(place)
    tree.environ["WORKER_DURABILITY"] = "power"
    return tree


def _trouble(tree: Tree) -> None:
    try:
        tree.start("--queue", "sync", WORKER_DRAIN="3")
        tree.enqueue(Torture.sync, Task(do="sleep", key="k", until=1))
        tree.wait_ledger("start k 1")
        for number in range(20):
            tree.enqueue(Torture.sync, Task(do="sleep", key=f"n{number}", seconds=0.02))
        subprocess.run(["mount", "-o", "remount,abort", tree.root], check=True)
        _refused(lambda: tree.enqueue(Torture.sync, Task(key="refused")), "Read-only")
        tree.wait(lambda: any("remount the file" in str(event) for event in tree.events()), "the service says why")
        tree.signal(signal.SIGTERM)
        code = tree.exit_code()
        assert code in (0, 5), f"exit code {code}\n{tree.tail()}"
        deaths = [
            event for event in tree.events("process_exited") if event["reason"] not in ("drained", "drain_timeout")
        ]
        assert deaths == [], "somebody died of it"
    finally:
        tree.close()


def _mended(tree: Tree) -> float:
    try:
        began = time.monotonic()
        tree.start("--queue", "sync")
        for number in range(20):
            tree.wait_ledger(f"end n{number}")
        tree.wait_ledger("end k 2")
        seconds = time.monotonic() - began
        # What had ended before the trouble may run again: its line in the ledger is older than its end.
        tree.wait(lambda: _left(tree) == (0, 0, 0), "every job ends")
        assert tree.ran("start refused") == [], "what was refused ran"
        assert tree.stop() == 0
        assert tree.stats("sync").bad == 0
    finally:
        tree.close()
    return seconds


def _left(tree: Tree) -> tuple[int, int, int]:
    stats = tree.stats("sync")
    return stats.ready, stats.delayed, stats.in_flight


def a_directory_in_the_way() -> float:
    """Where a bucket, a lock, the depth and the bell should be: each in its turn, and then it is gone."""
    with tempfile.TemporaryDirectory(prefix="resources-") as place:
        root = Path(place) / "spool"
        mine = broker(root, JOBS, LETTERS)
        for entry in ("depth", "doorbell"):
            path = root / "jobs" / entry
            if path.exists():
                path.unlink()
            path.mkdir()
        (root / "jobs" / "claimed" / f".{_wid(mine)}.lock").mkdir()
        mine.enqueue([job("a")])
        _maintain(mine)
        ack(mine, [one(mine)])
        for entry in ("depth", "doorbell"):
            (root / "jobs" / entry).rmdir()
        began = time.monotonic()
        mine.enqueue([job("b")])
        ack(mine, [one(mine)])
        seconds = time.monotonic() - began
        assert mine.stats("jobs").ready == 0
        mine.close()
    return seconds


def _wid(mine: SpoolEngine) -> str:
    return wid_of(mine._spool.incarnation)


def _maintain(mine: SpoolEngine) -> None:
    """Says what is in its way, after it has done the rest."""
    _refused(mine.maintain, "Is a directory")


def _refused(act: Callable[[], object], words: str) -> None:
    said = ""
    try:
        act()
    except (EnqueueError, EngineError) as error:
        said = str(error)
    assert words in said, f"{words!r} is not in {said!r}"


SCENARIOS: dict[str, Callable[[], float]] = {
    "a full disk": a_full_disk,
    "no inodes": no_inodes,
    "no descriptors": no_descriptors,
    "a read-only disk": a_read_only_disk,
    "a disk in trouble": a_disk_in_trouble,
    "a directory in the way": a_directory_in_the_way,
}


def run(budget_seconds: float) -> Report:
    """Each, several times."""
    report = Report("resources")
    end = time.monotonic() + budget_seconds
    for name, scenario in SCENARIOS.items():
        if os.geteuid() != 0 and scenario is not a_directory_in_the_way:
            report.left_out.append(f"{name}: needs root")
            continue
        if scenario is a_disk_in_trouble and shutil.which("mkfs.ext4") is None:
            report.left_out.append(f"{name}: no mkfs.ext4: install e2fsprogs")
            continue
        times: list[float] = []
        while len(times) < ROUNDS and (not times or time.monotonic() < end):
            try:
                times.append(scenario())
            except AssertionError as error:
                report.violations.append(f"{name}: {str(error)[:1500]}")
                break
        report.tried[f"{name}: seconds until it went on"] = ", ".join(f"{one:.2f}" for one in times)
        # A busy machine makes any of them slow, but not each: what waits too long does so every time.
        report.expect(not times or min(times) <= WITHIN, f"{name}: went on only after {min(times, default=0):.1f} s")
    return report


if __name__ == "__main__":
    print_and_exit(run(300))
