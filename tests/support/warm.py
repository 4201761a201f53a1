"""`worker` commands without the quarter of a second in which a fresh interpreter imports the framework.

`python -m tests.support.warm` imports the command and does nothing else; each command is a fork of it, with the
descriptors, environment and directory that it is given, and ends as its interpreter ends. What depends on how an
interpreter starts (a terminal, variables of Python, broken streams, the first hour) is tested with `worker` itself.
"""

from __future__ import annotations

import gc
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import BinaryIO

WORKER = str(Path(sys.executable).with_name("worker"))
_MOST = 1 << 20  # bytes of a request


class Warm:
    """The process that forks, and what it is asked for."""

    def __init__(self) -> None:
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._channel.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _MOST)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.warm", str(theirs.fileno())],
                cwd=Path(__file__).parents[2],
                env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
                stdin=subprocess.PIPE,  # no device: what Python learns of its streams at its start must fit a pipe
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=[theirs.fileno()],
            )

    def start(self, *args: str, cwd: Path, env: Mapping[str, str], streams: tuple[int, int, int]) -> Running:
        """As `subprocess.Popen([WORKER, *args], …)`, with these descriptors for its streams."""
        mine, theirs = socket.socketpair()
        request = json.dumps({"args": [WORKER, *args], "cwd": str(cwd), "env": dict(env)}).encode()
        with theirs:
            socket.send_fds(self._channel, [request], [*streams, theirs.fileno()])
        return Running(mine)


class Running:
    """A command that was forked, as far as tests use a `Popen`.

    Attributes:
        stdout: the other end of its standard output, where the caller has put one.
    """

    def __init__(self, told: socket.socket) -> None:
        self._told = told
        self._heard = b""
        self.returncode: int | None = None
        self.stdout: BinaryIO | None = None
        self.pid = int(self._next(None))

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code. Raises TimeoutExpired."""
        if self.returncode is None:
            try:
                self.returncode = os.waitstatus_to_exitcode(int(self._next(timeout)))
            except (TimeoutError, BlockingIOError):
                raise subprocess.TimeoutExpired(["worker"], timeout or 0.0) from None
            self._told.close()
        return self.returncode

    def poll(self) -> int | None:
        with suppress(subprocess.TimeoutExpired):
            return self.wait(0.0)
        return None

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _next(self, timeout: float | None) -> bytes:
        """The next line."""
        self._told.settimeout(timeout)
        while b"\n" not in self._heard:
            heard = self._told.recv(64)
            if not heard:
                raise ConnectionError("the process that forks commands has died")
            self._heard += heard
        line, _, self._heard = self._heard.partition(b"\n")
        return line


@cache
def warm() -> Warm:
    """One for this process and its tests."""
    return Warm()


def run(
    *args: str, data: bytes, cwd: Path, env: Mapping[str, str], timeout: float
) -> subprocess.CompletedProcess[bytes]:
    """A command to its end, as by `subprocess.run`: a fork, where its environment asks Python for nothing else.

    `-m` and a module in the place of a command run that module.
    """
    if not can_be_warm(env):
        program = sys.executable if args[:1] == ("-m",) else WORKER
        return subprocess.run([program, *args], input=data, capture_output=True, cwd=cwd, env=env, timeout=timeout)
    (stdin, feed), (out, stdout), (err, stderr) = (os.pipe() for _ in range(3))
    process = warm().start(*args, cwd=cwd, env=env, streams=(stdin, stdout, stderr))
    for fd in (stdin, stdout, stderr):
        os.close(fd)
    found: dict[int, bytes] = {}
    threads = [threading.Thread(target=_feed, args=(feed, data), daemon=True)]
    threads += [threading.Thread(target=_read, args=(fd, found), daemon=True) for fd in (out, err)]
    for thread in threads:
        thread.start()
    try:
        code = process.wait(timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    for thread in threads:
        thread.join(timeout)
    return subprocess.CompletedProcess(args, code, found[out], found[err])


def can_be_warm(env: Mapping[str, str]) -> bool:
    """Return whether an interpreter starts in this environment as in ours."""
    return _of_python(env) == _of_python(os.environ)


def _of_python(env: Mapping[str, str]) -> dict[str, str]:
    harmless = ("PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE")
    return {name: env[name] for name in env if name.startswith("PYTHON") and name not in harmless and env[name]}


def _feed(fd: int, data: bytes) -> None:
    try:
        with open(fd, "wb") as pipe:
            pipe.write(data)
    except BrokenPipeError:
        return


def _read(fd: int, found: dict[int, bytes]) -> None:
    with open(fd, "rb") as pipe:
        found[fd] = pipe.read()


def _serve(channel: socket.socket) -> list[str]:
    """Fork for each request; return in the fork: its arguments. Ends with the other side of the channel."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        data, fds, _, _ = socket.recv_fds(channel, _MOST, 4)
        if not data:
            os._exit(0)
        if os.fork() == 0:
            return _become(channel, json.loads(data), fds)
        for fd in fds:
            os.close(fd)


def _become(channel: socket.socket, request: dict[str, object], fds: list[int]) -> list[str]:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    with socket.socket(fileno=fds.pop()) as told:
        pid = os.fork()
        if pid:
            for fd in fds:
                os.close(fd)
            told.sendall(b"%d\n" % pid)
            told.sendall(b"%d\n" % os.waitpid(pid, 0)[1])
            os._exit(0)
    channel.close()
    for target, fd in enumerate(fds):
        os.dup2(fd, target)
        os.close(fd)
    os.chdir(str(request["cwd"]))
    os.environ.clear()
    os.environ.update(request["env"])  # type: ignore[call-overload]
    time.tzset()
    return list(request["args"])  # type: ignore[call-overload]


if __name__ == "__main__":
    sys.path[0] = str(Path(WORKER).parent)
    import rich.table  # noqa: F401 -- what most commands print with

    import framework.cli
    import framework.runner.service

    gc.collect()
    gc.freeze()
    sys.argv = _serve(socket.socket(fileno=int(sys.argv[1])))
    if sys.argv[1:2] == ["-m"]:
        sys.path[0] = os.getcwd()
        module, *sys.argv[1:] = sys.argv[2:]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    else:
        sys.exit(framework.cli.main())
