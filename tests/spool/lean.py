"""Forks of a small process, for tests that kill thousands of them.

A fork copies the page tables of its parent: of a pytest that has imported all tests, some twenty milliseconds of
processor time, most of what a killed process costs. This one imports what it is asked for and nothing else.
"""

from __future__ import annotations

import gc
import importlib
import os
import pickle
import socket
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

_MOST = 1 << 16  # bytes of a request


class Lean:
    """The process that forks, and what it is asked for."""

    def __init__(self) -> None:
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.spool.lean", str(theirs.fileno())],
                cwd=Path(__file__).parents[2],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )

    def run(self, module: str, function: str, *args: Any) -> tuple[bytes, int]:
        """Call a function in a fork, with a descriptor to write to before `args`; return what it wrote, and how the
        fork ended, as `os.waitpid` says it. A fork whose function returns ends with 0, and with 99 if it raises."""
        read, write = os.pipe()
        with open(read, "rb") as pipe:
            try:
                socket.send_fds(self._channel, [pickle.dumps((module, function, args))], [write])
            finally:
                os.close(write)
            written = pipe.read()
        answer = self._channel.recv(64)
        assert answer, "the process that forks has died"
        return written, int(answer)


@cache
def lean() -> Lean:
    """One for this process and its tests."""
    return Lean()


def _serve(channel: socket.socket) -> None:
    """Fork for each request, until the other side of the channel ends."""
    while True:
        data, fds, _, _ = socket.recv_fds(channel, _MOST, 1)
        if not data:
            return
        module, function, args = pickle.loads(data)
        called = getattr(importlib.import_module(module), function)
        gc.freeze()  # else a collection in a fork writes to every page
        child = os.fork()
        if child == 0:
            try:
                channel.close()
                called(fds[0], *args)
                os._exit(0)
            except BaseException as error:
                os.write(2, f"{function}{args}: {error!r}\n".encode())
                os._exit(99)
        os.close(fds[0])
        channel.send(b"%d" % os.waitpid(child, 0)[1])


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
