"""Engines that cannot be used: each is one line and exit code 2 or 3."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path

import pytest

from tests.support.command import Cli

VERBS = [("run", "relay"), ("enqueue", "relay", "digests", "1"), ("dead", "list", "relay")]


@pytest.mark.parametrize("args", VERBS)
def test_memory_lives_in_one_process(relay: Cli, args: tuple[str, ...]) -> None:
    result = relay.run(*args, env={"WORKER_ENGINE_URL": "memory:"})
    assert (result.code, result.out) == (2, "")
    assert result.error == (
        "WORKER_ENGINE_URL=memory: lives in one process, no other command or worker would see its jobs: "
        "set it to spool:DIR"
    )


@pytest.mark.parametrize("args", [*VERBS, ("health",)])
def test_an_unknown_engine(relay: Cli, args: tuple[str, ...]) -> None:
    result = relay.run(*args, env={"WORKER_ENGINE_URL": "redis://localhost"})
    assert (result.code, result.out) == (2, "")
    assert result.error.startswith("WORKER_ENGINE_URL='redis://localhost': no engine 'redis'; there are spool:")


@pytest.mark.parametrize("args", VERBS)
def test_a_spool_that_others_may_write(relay: Cli, args: tuple[str, ...]) -> None:
    relay.spool.mkdir()
    relay.spool.chmod(0o777)
    result = relay.run(*args)
    assert (result.code, result.out) == (3, "")
    assert result.error == (f"spool {relay.spool} has mode 777, others could plant jobs in it: chmod 700 {relay.spool}")
    assert not any(relay.spool.iterdir())


@pytest.mark.parametrize("args", VERBS)
def test_a_spool_that_is_a_file(relay: Cli, args: tuple[str, ...]) -> None:
    relay.write("spool", "not a directory")
    result = relay.run(*args)
    assert (result.code, result.out) == (3, "")
    assert result.error.startswith(f"spool {relay.spool}: Not a directory")


@pytest.mark.parametrize("args", [*VERBS, ("queues", "relay"), ("doctor", "relay")])
def test_a_spool_that_cannot_even_be_looked_at(relay: Cli, args: tuple[str, ...]) -> None:
    """As under a directory of another user, where the system answers with an error and not with *missing*."""
    relay.spool.mkdir(mode=0o700)
    result = relay.run(*args, env={"WORKER_ENGINE_URL": f"spool:{relay.spool}/{'x' * 300}"})
    assert "Traceback" not in result.err
    if args[0] == "doctor":
        assert (result.code, "File name too long" in result.out) == (3, True)
    else:
        assert (result.code, result.out) == (3, "")
        assert "File name too long" in result.error


@pytest.mark.parametrize("args", VERBS)
def test_a_queue_whose_name_is_taken(relay: Cli, args: tuple[str, ...]) -> None:
    """Also where it shows only at the first job: not queued because of the engine is still a 3."""
    relay.spool.mkdir(mode=0o700)
    relay.write("spool/digests", "no directory")
    result = relay.run(*args)
    assert "not a directory" in result.err.lower()
    if args[0] == "dead":  # what lies on the others is shown
        assert (result.code, result.rows) == (1, [])
    else:
        assert (result.code, result.out, result.error != "") == (3, "", True)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount")
def test_a_spool_that_cannot_be_written(relay: Cli) -> None:
    relay.spool.mkdir(mode=0o700)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro,size=1m,mode=700", "none", relay.spool], check=True)
    try:
        for args in VERBS:
            result = relay.run(*args)
            assert (result.code, result.out) == (3, "")
            assert "read-only" in result.error.lower()
            assert str(relay.spool) in result.error
    finally:
        subprocess.run(["umount", relay.spool], check=True)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount")
def test_a_full_disk(relay: Cli) -> None:
    relay.spool.mkdir(mode=0o700)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,nr_inodes=200,mode=700", "none", relay.spool], check=True)
    try:
        relay.ok("enqueue", "relay", "digests", "1")
        fill(relay.spool / "filler")
        result = relay.run("enqueue", "relay", "digests", "2")
        assert result.code in (1, 3)
        assert result.out == ""
        assert "spool" in result.error or "queue 'digests'" in result.error
        assert relay.queues()["digests"]["ready"] == 1
    finally:
        subprocess.run(["umount", relay.spool], check=True)


def fill(path: Path) -> None:
    """Until no block is left."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    try:
        while True:
            os.write(descriptor, bytes(4096))
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
    finally:
        os.close(descriptor)


def test_a_wrong_url_of_an_option_names_that_option(cli: Cli) -> None:
    """Regression: the error spoke of WORKER_ENGINE_URL, which was right."""
    for command in (("jobs", "list"), ("queues",), ("pause", "some-queue")):
        result = cli.run(*command, "--url", "./spool")
        assert (result.code, result.out) == (2, "")
        assert result.error.startswith("--url='./spool': this is no URL of an engine; it begins with one of spool:")
        assert result.error.endswith("did you mean spool:./spool?")
