"""SIGTERM and SIGINT as a call from a thread."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable

STOP_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT})


def on_stop_signal(act: Callable[[], None]) -> None:
    """Calls `act` once, from a thread, at the first SIGTERM or SIGINT. Call it before other threads start.

    A signal handler that sets a threading.Event can deadlock: it may interrupt the main thread while that holds the
    event's own lock. So the signals are blocked everywhere and one thread waits for them.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)

    def wait() -> None:
        signal.sigwait(STOP_SIGNALS)
        act()

    threading.Thread(target=wait, name="signals", daemon=True).start()
