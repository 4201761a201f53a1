"""Instances of a service on one spool: their numbers, boards and locks."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from framework.engine.flocks import FileLock
from framework.process.supervisor import instance, platform
from framework.process.supervisor.instance import Instance


def test_instances_take_the_lowest_free_number(tmp_path: Path) -> None:
    places = (tmp_path / "run", tmp_path / "instances")
    first, second, third = (Instance.take(*places) for _ in range(3))
    assert [i.number for i in (first, second, third)] == [0, 1, 2]
    os.close(second.descriptor)
    assert Instance.take(*places).number == 1
    assert first.board_path == tmp_path / "run" / "0.board"


def test_a_directory_in_the_place_of_an_instance_costs_its_number(tmp_path: Path) -> None:
    """Regression: no service could start on the store, exit code 3."""
    (tmp_path / "instances" / "0.lock").mkdir(parents=True)
    assert Instance.take(tmp_path / "run", tmp_path / "instances").number == 1


def test_a_lock_of_another_user_costs_its_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody ran the service as root once. Where nothing may be made, it is refused as before."""
    real, places = instance._open, (tmp_path / "run", tmp_path / "instances")

    def denied(path: Path) -> int:
        if path.name == "0.lock" or not path.parent.stat().st_mode & 0o200:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return real(path)

    monkeypatch.setattr(instance, "_open", denied)
    places[1].mkdir()
    (places[1] / "0.lock").touch(0)
    assert Instance.take(*places).number == 1
    (tmp_path / "instances").chmod(0o500)
    with pytest.raises(PermissionError):
        Instance.take(*places)


def test_an_instance_lives_as_long_as_its_last_process(tmp_path: Path) -> None:
    places = (tmp_path / "run", tmp_path / "instances")
    instance = Instance.take(*places)
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:  # a worker: keeps the inherited lock until it is told to go
        os.close(writer)
        os.read(reader, 1)
        os._exit(0)
    os.close(instance.descriptor)
    assert Instance.take(*places).number == 1
    os.close(writer)
    os.waitpid(pid, 0)
    os.close(reader)
    assert Instance.take(*places).number == 0


def test_the_old_board_is_kept(tmp_path: Path) -> None:
    instance = Instance.take(tmp_path, tmp_path / "i")
    instance.keep_old_board()
    instance.board_path.write_text("old")
    instance.keep_old_board()
    assert not instance.board_path.exists()
    assert [board.read_text() for board in tmp_path.glob("*.board-before")] == ["old"]


def test_one_leads_until_it_ends(tmp_path: Path) -> None:
    first, second = FileLock(tmp_path / "leader.lock"), FileLock(tmp_path / "leader.lock")
    assert [first.take(), second.take(), first.take(), second.take()] == [True, False, True, False]
    assert first._descriptor is not None
    os.close(first._descriptor)
    assert second.take()
    assert not FileLock(tmp_path / "missing" / "leader.lock").take()


# --- the platform ---------------------------------------------------------------------------------------------------


def test_children_are_seen_by_both_ways() -> None:
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(writer)
        os.read(reader, 1)
        os._exit(0)
    assert pid in platform.children()
    assert pid in platform._children_by_stat(os.getpid())
    os.close(writer)
    os.waitpid(pid, 0)
    os.close(reader)
    assert pid not in platform.children()


def test_what_the_kernel_says() -> None:
    assert platform.threads() >= 1
    assert platform.oom_kills() >= 0
