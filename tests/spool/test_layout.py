"""The place: made durably, refused when it is unsafe, and never left through a name."""

from __future__ import annotations

import io
import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from framework.engine.port import open_engine
from framework.engine.spool import engine as engine
from framework.engine.spool.disk import filesystem, layout
from framework.engine.spool.engine import SpoolEngine, connect
from framework.model.errors import EngineError, EngineUnavailable, QueueFull, SettingsError
from framework.model.options import QueueOptions
from tests.support.settling import retry

from .seam import Seam, fail_calls, pass_on
from .world import JOBS, LETTERS, QUEUES, broker, claim, failure, files, ids, in_child, job, one

ROOT_USER = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: chown and mount")


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("spool:./var/spool", "var/spool"),
        ("spool:var", "var"),
        ("spool:/abs/olute", "/abs/olute"),
        ("spool:///abs", "/abs"),
        ("spool:/with space:and#hash", "/with space:and#hash"),
    ],
)
def test_urls(url: str, path: str) -> None:
    assert engine.directory(url) == Path(path)
    assert connect(url, incarnation="i").root == Path.cwd() / path


@pytest.mark.parametrize("url", ["spool:", "spool:\0", "spool://host/dir", "memory:", "nothing"])
def test_urls_without_a_directory(url: str) -> None:
    with pytest.raises(SettingsError, match="WORKER_ENGINE_URL"):
        engine.directory(url)


def test_it_is_opened_by_its_scheme(root: Path) -> None:
    made = open_engine(f"spool:{root}", incarnation="i", durability="process", unknown_option=1)
    assert isinstance(made, SpoolEngine)
    made.open([JOBS])
    assert made.features.durable == "process"
    assert made.features.system == "spool"
    assert (made.features.local, made.features.settle_delay, made.local_dir) == (True, 0, root)
    made.close()
    with pytest.raises(SettingsError, match="durability"):
        connect("spool:x", incarnation="i", durability="maybe")  # type: ignore[arg-type]


def test_everything_is_ours_alone(root: Path) -> None:
    mine = broker(root)
    mine.enqueue([job("a"), job("b", delay=3600), job("c", chosen=True)])
    claim(mine, limit=1)
    mine.maintain()
    for path in (root, *root.rglob("*")):
        wanted = 0o700 if path.is_dir() else 0o600
        assert stat.S_IMODE(path.lstat().st_mode) == wanted, path
    mine.close()


def test_every_new_directory_is_made_durable(root: Path) -> None:
    """The parent's fsync follows each mkdir, before anything is renamed into it."""
    seam = Seam()
    seam.arm(pass_on)
    mine = broker(root, calls=seam)
    names = [name for name in seam.names if name in ("mkdir", "fsync")]
    assert names[-1] == "fsync"
    mine.enqueue([job("a")])
    at = len(seam.names) - 1 - seam.names[::-1].index("mkdir")
    assert "fsync" in seam.names[at:]
    seam.arm(pass_on)
    mine.open(QUEUES)
    broker(root, calls=seam).close()
    assert "fsync" not in seam.names  # nothing new
    mine.close()


def test_opening_is_idempotent_and_adds_queues(root: Path) -> None:
    mine = broker(root, JOBS)
    mine.open([JOBS])
    mine.open([QueueOptions("more")])
    mine.enqueue([job("a"), job("b", queue="more")])
    assert ids(claim(mine)) + ids(claim(mine, "more")) == ["a", "b"]
    assert mine.stats("letters").ready == 0  # JOBS names it
    mine.close()


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777, 0o1777])
def test_a_root_that_others_may_write_is_refused(root: Path, mode: int) -> None:
    root.mkdir(parents=True)
    root.chmod(mode)
    with pytest.raises(EngineError, match=f"chmod 700 {root}"):
        broker(root)


@ROOT_USER
def test_a_root_of_somebody_else_is_refused(root: Path) -> None:
    root.mkdir(parents=True)
    os.chown(root, 12345, 12345)
    with pytest.raises(EngineError, match=r"belongs to uid 12345, this process is uid 0: run both as one user"):
        broker(root)


@ROOT_USER
def test_a_user_who_may_not_gets_a_clear_line(root: Path) -> None:
    root.mkdir(parents=True)

    def live() -> None:
        os.setuid(12345)
        with pytest.raises(EngineError, match="uid 12345"):
            broker(root)
        with pytest.raises(EngineError, match="permission denied for uid 12345"):
            broker(root / "below")

    in_child(live)


def test_a_root_that_is_a_file_is_refused(root: Path) -> None:
    root.parent.mkdir(exist_ok=True)
    root.write_text("x")
    with pytest.raises(EngineError, match="set WORKER_ENGINE_URL to a directory"):
        broker(root)


@pytest.mark.parametrize("state", ["tmp", "ready", "claimed", "ids"])
def test_something_in_the_place_of_a_directory_is_named(root: Path, state: str) -> None:
    broker(root).close()
    shutil.rmtree(root / "jobs" / state)
    (root / "jobs" / state).write_text("x")
    with pytest.raises(EngineError, match=f"jobs/{state} is not a directory"):
        broker(root)


@pytest.mark.parametrize("name", ["../x", "..", ".", "a/b", "", "A", "x" * 101, "a\0b", "@run"])
def test_a_name_never_leaves_the_root(name: str) -> None:
    with pytest.raises(ValueError, match="queue name"):
        layout.directory_of(name)


@pytest.mark.parametrize("name", ["run", "instances", "leader.lock", "clock.x", "clock.", "queue", "a" * 100])
def test_a_queue_may_be_called_like_something_of_the_roots(root: Path, name: str) -> None:
    mine = broker(root, QueueOptions(name))
    (root / "run").mkdir(exist_ok=True)
    mine.enqueue([job("a", queue=name)])
    assert ids(claim(mine, name)) == ["a"]
    assert layout.queue_of(layout.directory_of(name)) == name
    mine.close()
    again = broker(root, QueueOptions(name))
    assert len(list(root.glob("clock.*-*"))) == 1
    again.close()


def test_directories_of_the_root_are_told_apart() -> None:
    assert layout.queue_of("run") is None
    assert layout.queue_of("@run") == "run"
    assert layout.queue_of("@jobs") is None
    assert layout.queue_of("clock.abc") is None
    assert layout.queue_of("..") is None


def test_a_network_file_system_is_refused_unless_insisted_on(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = filesystem.FileSystem("nfs4", "/mnt", False, "nfs4 at /mnt: ...")
    monkeypatch.setattr(filesystem, "probe", lambda path: found)
    with pytest.raises(EngineError, match="nfs4 at /mnt"):
        broker(root)
    made = connect(f"spool:{root}", incarnation="i", network_file_system=True)
    made.open([JOBS])
    assert len(made.notes) == 1
    made.close()


def test_memory_is_warned_of_in_one_line() -> None:
    if not Path("/dev/shm").is_dir():
        pytest.skip("no tmpfs")
    place = Path("/dev/shm") / f"spool-warning-{os.getpid()}"
    mine = broker(place)
    try:
        (warning,) = mine.notes
        assert "tmpfs" in warning
        assert "\n" not in warning
        assert mine.features.durable == "process"
    finally:
        mine.close()
        shutil.rmtree(place)


@pytest.mark.parametrize("number", [5, 28, 30, 24])
def test_an_error_at_the_root_is_one_line(root: Path, number: int) -> None:
    seam = Seam()
    seam.arm(fail_calls(number, "mkdir"))
    with pytest.raises(EngineUnavailable, match=f"spool {root}: "):
        broker(root, calls=seam)


def test_an_error_below_the_root_names_where(root: Path) -> None:
    broker(root).close()
    seam = Seam()

    def fail(name: str, args: Any, kwargs: Any, real: Any) -> Any:
        if name == "stat" and args[0] == "jobs/claimed":
            raise OSError(5, "injected", args[0])
        return real(*args, **kwargs)

    seam.arm(fail)
    with pytest.raises(EngineUnavailable, match=f"spool {root}: jobs/claimed: Input/output error"):
        broker(root, calls=seam)


def test_looking_at_jobs_fails_in_words(root: Path) -> None:
    """Like counting them: a CLI has one line for it."""
    seam = Seam()
    mine = broker(root, calls=seam)
    mine.enqueue([job("a")])
    seam.arm(fail_calls(5, "listdir"))
    with pytest.raises(EngineUnavailable, match="looking at 'jobs': Input/output error"):
        list(mine.browse("jobs", "ready"))
    seam.disarm()
    mine.close()


# --- real mounts --------------------------------------------------------------------------------------------------


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs of one megabyte and fifty inodes."""
    place = tmp_path / "small"
    place.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m,nr_inodes=60", "x", place], capture_output=True
    ).returncode:
        pytest.skip("no mounting here")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


def fill_queue(mine: SpoolEngine, size: int, queued: list[str]) -> None:
    for number in range(100):
        mine.enqueue([job(f"n{number}", payload=bytes(size))])
        queued.append(f"n{number}")


def fill_file(file: io.FileIO) -> None:
    while True:
        file.write(bytes(4096))


@ROOT_USER
@pytest.mark.parametrize("size", [40_000, 10], ids=["blocks", "inodes"])
def test_a_full_disk_refuses_loses_nothing_and_goes_on(small: Path, size: int) -> None:
    """Real ENOSPC: everything that was acknowledged runs, and what was refused was never there."""
    mine = broker(small / "spool", JOBS, LETTERS)
    mine.enqueue([job("first")])
    first = one(mine)
    queued: list[str] = []
    with (small / "filler").open("wb", buffering=0) as filler:
        with pytest.raises(QueueFull):
            fill_queue(mine, size, queued)
        assert len(queued) > 5
        with pytest.raises(OSError, match="No space left"):
            fill_file(filler)
        with pytest.raises(EngineUnavailable, match="free some space"):
            retry(mine, first, delay=0, failure=failure(first))
        assert mine.stats("jobs").in_flight == 1
        filler.truncate(0)
        retry(mine, first, delay=0, failure=failure(first))
    found = ids(claim(mine))
    assert found == ["first", *queued]
    assert mine.stats("jobs").bad == 0
    assert files(small, "spool/jobs/tmp/*") == []
    mine.close()


@ROOT_USER
def test_a_mount_below_the_root_is_named_at_start(tmp_path: Path) -> None:
    """Regression of the seed: temporary files on another file system, and the rename's EXDEV was silent loss."""
    place = tmp_path / "spool"
    broker(place).close()
    target = place / "jobs" / "ready"
    if subprocess.run(["mount", "-t", "tmpfs", "x", target], capture_output=True).returncode:
        pytest.skip("no mounting here")
    try:
        with pytest.raises(EngineError, match=f"{target} is on another file system"):
            broker(place)
    finally:
        subprocess.run(["umount", "--lazy", target], check=True)
    broker(place).close()


@ROOT_USER
def test_a_read_only_root_is_one_clear_line(small: Path) -> None:
    broker(small / "spool", JOBS).close()
    subprocess.run(["mount", "-o", "remount,ro", small], check=True)
    with pytest.raises(EngineError, match="read-only"):
        broker(small / "spool", QueueOptions("new"))


def test_a_note_of_a_handler_is_durable_and_made_once(root: Path) -> None:
    """A power cut that took it would let another service's ttl end letters that wait for this one's handler."""
    letters = QueueOptions("letters", is_dead_letter=True, service="relay:Relay")
    broker(root, JOBS, letters).close()
    note = root / "letters" / "handled.relay%3ARelay"
    syncs = []
    for present in (True, False):
        if not present:
            note.unlink()
        seam = Seam()
        seam.arm(pass_on)
        broker(root, JOBS, letters, calls=seam).close()
        assert note.is_file()
        syncs.append(seam.names.count("fsync"))
    assert syncs == [0, 1]
