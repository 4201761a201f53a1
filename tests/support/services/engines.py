"""The usual services on engines and disks that are not as usual.

- `slow:DIR`: a spool as if it were far away, 20 ms a verb.
- `surprising:DIR`: a spool whose verbs raise surprises now and then.
- FLUSH=seconds: a disk whose every flush takes so long, as a hard disk or a throttled volume in a cloud does.

`framework.engine.port` finds this module as both engines where a service imports it.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from framework.engine.calls import Calls
from framework.engine.port import ENGINES, Features
from framework.engine.spool import engine as spool
from tests.contract.slow import SlowBroker
from tests.support.ledger import note, ran
from tests.support.services.threads import Threads
from tests.support.services.torture import Torture

__all__ = ["Threads", "Torture"]

ENGINES["slow"] = ENGINES["surprising"] = __name__
# Which calls of a verb raise, in each process that has seen no other one do so: claims while jobs run.
SURPRISES = {"claim": (2,), "settle": (1,), "rescue": (1, 2), "maintain": (1, 2), "lead": (1,), "lost": (1,)}


class Surprising:
    """Some calls of most verbs raise."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self._calls: Counter[str] = Counter()
        self._mine: set[str] = set()

    @property
    def features(self) -> Features:
        """Local or far away, as the environment says."""
        found: Features = self._inner.features
        return found if "LOCAL" in os.environ else replace(found, local=False, settle_delay=0.02)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        return partial(self._call, name, found) if name in SURPRISES else found

    def _call(self, name: str, verb: Any, *arguments: Any, **options: Any) -> Any:
        self._calls[name] += 1
        if self._calls[name] in SURPRISES[name] and not set(ran(f"surprise {name}")) - self._mine:
            self._mine.add(f"surprise {name} {os.getpid()}\n")
            note(f"surprise {name} {os.getpid()}")
            raise ValueError(f"a driver's surprise in {name}")
        return verb(*arguments, **options)


def connect(url: str, **options: Any) -> SlowBroker | Surprising:
    """Return the spool in DIR, changed as the scheme says."""
    scheme, _, place = url.partition(":")
    kind = SlowBroker if scheme == "slow" else Surprising
    return kind(spool.connect(f"spool:{place}", **options))


def slowly(call: Callable[[int], Any]) -> Any:
    def flush(descriptor: int) -> None:
        time.sleep(float(os.environ["FLUSH"]))
        call(descriptor)

    return staticmethod(flush)


if "FLUSH" in os.environ:
    Calls.fsync = slowly(os.fsync)
    Calls.fdatasync = slowly(os.fdatasync)
    Calls.syncfs = slowly(Calls.syncfs)
