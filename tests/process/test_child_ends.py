"""Whatever breaks in a forked child, it ends there: it never goes on in the code of the supervisor that forked it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.tree import Tree

# Whoever returns from `fork` is a supervisor, and says so in the witness.
SUPERVISOR = """
import fcntl, json, os, sys, time
from framework.process import stdio
from framework.process.supervisor import children, platform
from framework.process.supervisor.children import ChildInfo, ChildSpec

null = os.open("/dev/null", os.O_WRONLY)
witness = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
children.FLUSH = 0.05

class Odd(BaseException):
    def __str__(self):
        raise ValueError("no text")

def boom(*args, **kwargs):
    raise RuntimeError("step")

def raising(error):
    def run(child):
        raise error
    return run

def closed(fd):
    os.close(fd)

def no_reader(fd):
    reader, writer = os.pipe()
    os.close(reader)
    os.dup2(writer, fd)

def full_pipe(fd):
    reader, writer = os.pipe()
    fcntl.fcntl(writer, 1031, 4096)
    os.write(writer, bytes(4096))
    os.dup2(writer, fd)

def full_device(fd):
    os.dup2(os.open("/dev/full", os.O_WRONLY), fd)

def read_only(fd):
    os.dup2(os.open("/dev/null", os.O_RDONLY), fd)

def fine(fd):
    os.dup2(null, fd)

def returns(child):
    return 7

LIVES = {
    "7": returns,
    "exception": raising(RuntimeError("life")),
    "text": raising(SystemExit("why")),
    "number": raising(SystemExit(3)),
    "huge": raising(SystemExit(2**70)),
    "odd": raising(Odd()),
    "interrupt": raising(KeyboardInterrupt()),
    "memory": raising(MemoryError()),
    "nothing": lambda child: None,
}
STEPS = [
    (children, "reset_in_child"), (platform, "die_with_parent"), (children, "_exit_code"), (children, "_live"),
    (stdio, "flush"), (children, "Outlet"), (children.traceback, "format_exc"), (os, "getppid"),
]

def born(life):
    print("left in the buffer", end="")
    child = ChildInfo("q/0", 0, "life", os.getpid(), -1, -1, 1)
    pid = children.fork(ChildSpec("q/0", 0, life), child)
    os.write(witness, b"%d\\n" % os.getpid())
    for _ in range(1000):
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(pid, 9)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

codes = {}
for broken in (fine, closed, no_reader, full_pipe, full_device, read_only):
    for fd in (1, 2):
        fine(fd)
    for fd in (1, 2):
        broken(fd)
    for name, life in LIVES.items():
        codes[f"{broken.__name__} {name}"] = born(life)
    for module, name in STEPS:
        kept = getattr(module, name)
        setattr(module, name, boom)
        codes[f"{broken.__name__} step {name}"] = born(raising(RuntimeError("life")))
        setattr(module, name, kept)
os.write(witness, json.dumps(codes).encode())
os._exit(0)
"""
EXPECTED = {"7": 7, "text": 1, "number": 3}


def test_no_broken_descriptor_and_no_broken_step_makes_a_second_supervisor(tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    environ = {**os.environ, "PYTHONUNBUFFERED": ""}
    process = subprocess.Popen([sys.executable, "-c", SUPERVISOR, str(witness)], start_new_session=True, env=environ)
    try:
        assert process.wait(60) == 0
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    *pids, codes = witness.read_text().splitlines()
    assert set(pids) == {str(process.pid)}
    found = json.loads(codes)
    assert len(pids) == len(found) == 6 * 17
    assert found == {name: EXPECTED.get(name.partition(" ")[2], 70) for name in found}


@pytest.mark.parametrize("redirection", [">&- 2>&-", "2>&1 | true"])
def test_a_service_whose_children_fail_at_once_stays_one_tree(tree: Tree, redirection: str, tmp_path: Path) -> None:
    """Verified: a traceback that could not be printed made hundreds of supervisors within seconds."""
    command = tmp_path / "start"
    command.write_text(f'#!/bin/bash\nsleep 600 &\necho $! > {tmp_path}/other\n( exec "$@" ) {redirection}\n')
    command.chmod(0o755)
    mine = f"CHILD_ENDS={tmp_path}"
    tree.start(
        module="tests.support.services.odd:FailsInConstructor",
        ready=False,
        command=str(command),
        CHILD_ENDS=mine[11:],
        WORKER_DRAIN="1",
        TRIED="yes",
    )
    try:
        tree.wait_ledger("constructor", 8)
        supervisors = {line.split()[1] for line in tree.ran("constructor")}
        assert len(supervisors) == 1
        os.kill(int(supervisors.pop()), signal.SIGTERM)
        tree.wait(lambda: not _with(mine, "worker"), "the end of the tree")
    finally:
        for pid in _with(mine):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _with(variable: str, command: str = "") -> list[int]:
    """Return the processes that carry a variable in their environment."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                if f"{variable}\0".encode() in (entry / "environ").read_bytes() + b"\0":
                    if command.encode() in (entry / "cmdline").read_bytes():
                        found.append(int(entry.name))
    return found
