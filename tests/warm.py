"""`worker` commands without the quarter of a second in which a fresh interpreter imports the framework.

`python tests/warm.py` imports the command and does nothing else; each command is a fork of it, with the descriptors,
environment and directory that it is given, and ends as its interpreter ends. What depends on how an interpreter starts
(a terminal, variables of Python, broken streams, the first hour) is tested with `worker` itself.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path

WORKER = str(Path(sys.executable).with_name("worker"))
_MOST = 1 << 20  # bytes of a request


class Warm:
    """The process that forks, and what it is asked for."""

    def __init__(self) -> None:
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._channel.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _MOST)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno())],
                stdin=subprocess.PIPE,  # no device: what Python learns of its streams at its start must fit a pipe
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=[theirs.fileno()],
            )

    def run(
        self, *args: str, data: bytes, cwd: Path, env: Mapping[str, str], timeout: float
    ) -> subprocess.CompletedProcess[bytes]:
        """As `subprocess.run([WORKER, *args], input=data, capture_output=True, …)`."""
        pipes = [os.pipe() for _ in range(3)]
        (stdin, feed), (out, stdout), (err, stderr) = pipes
        mine, theirs = socket.socketpair()
        request = json.dumps({"args": [WORKER, *args], "cwd": str(cwd), "env": dict(env)}).encode()
        with theirs:
            socket.send_fds(self._channel, [request], [stdin, stdout, stderr, theirs.fileno()])
        for fd in (stdin, stdout, stderr):
            os.close(fd)
        found: dict[int, bytes] = {}
        threads = [threading.Thread(target=_feed, args=(feed, data), daemon=True)]
        threads += [threading.Thread(target=_read, args=(fd, found), daemon=True) for fd in (out, err)]
        for thread in threads:
            thread.start()
        with mine, mine.makefile("r") as told:
            mine.settimeout(timeout)
            pid = int(told.readline())
            try:
                status = int(told.readline())
            except TimeoutError:
                os.kill(pid, signal.SIGKILL)
                raise subprocess.TimeoutExpired(["worker", *args], timeout) from None
        for thread in threads:
            thread.join(timeout)
        return subprocess.CompletedProcess(args, os.waitstatus_to_exitcode(status), found[out], found[err])


@cache
def warm() -> Warm:
    """One for this process and its tests."""
    return Warm()


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

    gc.collect()
    gc.freeze()
    sys.argv = _serve(socket.socket(fileno=int(sys.argv[1])))
    sys.exit(framework.cli.main())
