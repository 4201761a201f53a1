"""Leaving within a budget. The SDK's shutdown takes no timeout and can last 30 s with a silent collector, so the
deadline is ours: every signal is flushed in a daemon thread of its own, and what is late stays behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping


def flush(calls: Mapping[str, Callable[[], object]], budget: float) -> list[str]:
    """Runs all calls in parallel daemon threads and returns after `budget` seconds at the latest.

    Args:
        calls: by signal (traces, metrics, logs), what flushes and closes it.
        budget: seconds.

    Returns:
        The signals that were not done in time.
    """
    deadline = time.monotonic() + max(0.0, budget)
    threads = {}
    for signal, call in calls.items():
        thread = threading.Thread(target=_swallow, args=(call,), name=f"flush-{signal}", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # no more threads to be had: this signal is lost, the process still leaves in time
            continue
        threads[signal] = thread
    for thread in threads.values():
        thread.join(max(0.0, deadline - time.monotonic()))
    return [signal for signal in calls if signal not in threads or threads[signal].is_alive()]


def _swallow(call: Callable[[], object]) -> None:
    try:
        call()
    except Exception:  # a leaving process has nobody left to tell; the export itself was reported already
        return
