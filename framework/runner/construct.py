"""Calls of the service's constructor, which is the service's code, like `lifespan`. It may fail, hang, or start
things."""

from __future__ import annotations

import os
import secrets
import select
import signal
from contextlib import suppress

from framework.model.errors import WorkerError
from framework.model.text.exceptions import describe
from framework.process import orphans
from framework.process.forks import parent_goes_on
from framework.process.supervisor import die_with_parent, threads
from framework.service.app import WorkerApp
from framework.service.loading import innermost

_MOST = 4000  # bytes of a message


def construct(app: type[WorkerApp]) -> WorkerApp:
    """Return an instance of the app. Raises WorkerError: its constructor fails; one line, with the source location."""
    try:
        with parent_goes_on():
            return app()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # also sys.exit(): without a line the cause would be unknown
        message = " ".join(describe(error)[0].split())
        raise WorkerError(f"{app.__name__}() fails: {type(error).__name__}: {message} ({innermost(error)})") from None


def try_constructor(app: type[WorkerApp], within: float) -> None:
    """Construct the app once, for a test, in a separate process.

    What a constructor opens or starts must not be in the supervisor when that forks. If other threads run, a fork is
    not safe: then the test runs in this process, because the workers will be spawned.

    Args:
        within: seconds that it may take.

    Raises:
        WorkerError: it fails, or does not return.
    """
    if app.__init__ is object.__init__ and app.__new__ is object.__new__:
        return
    if threads() > 1:
        construct(app)
        return
    reader, writer = os.pipe()
    trial = f"trial-{secrets.token_hex(8)}"
    pid = os.fork()
    if pid == 0:
        try:
            orphans.wear(orphans.mark_of(trial, 1))
            _construct_and_tell(app, writer)
        finally:
            os._exit(0)
    try:
        os.close(writer)
        poll = select.poll()
        poll.register(reader)
        told = poll.poll(within * 1000)
        answer = os.read(reader, _MOST) if told else f"{app.__name__}() did not return within {within:g} s".encode()
    finally:
        os.close(reader)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        orphans.kill(trial)
    if answer != b"ok":
        raise WorkerError(answer.decode(errors="replace") or f"{app.__name__}() ends its process")


def _construct_and_tell(app: type[WorkerApp], writer: int) -> None:
    die_with_parent(signal.SIGKILL)
    try:
        construct(app)
        answer = "ok"
    except WorkerError as error:
        answer = str(error)
    os.write(writer, answer.encode(errors="replace")[:_MOST])
