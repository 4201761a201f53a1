"""Shutdown within a budget.

The SDK's shutdown takes no timeout and can last 30 s with a silent collector. So the deadline is ours: a daemon thread
flushes each signal, and the process does not wait for a late one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping


def flush(calls: Mapping[str, Callable[[], object]], budget: float) -> list[str]:
    """Run all calls in parallel daemon threads and return after `budget` seconds at the latest.

    Args:
        calls: by signal (traces, metrics, logs), the call that flushes and closes it.
        budget: seconds.

    Returns:
        The signals that were not finished in time.
    """
    deadline = time.monotonic() + max(0.0, budget)
    threads = {}
    for signal, call in calls.items():
        thread = threading.Thread(target=_swallow, args=(call,), name=f"flush-{signal}", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # no more threads are available: this signal is lost, but the process leaves in time
            continue
        threads[signal] = thread
    for thread in threads.values():
        thread.join(max(0.0, deadline - time.monotonic()))
    return [signal for signal in calls if signal not in threads or threads[signal].is_alive()]


def _swallow(call: Callable[[], object]) -> None:
    try:
        call()
    except Exception:  # at shutdown it cannot be reported any more; failed exports were reported already
        return
