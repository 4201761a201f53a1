"""The torture service on a disk whose every flush takes FLUSH seconds: a hard disk, a throttled volume in a cloud."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

from framework.engine.calls import Calls
from tests.process.torture import Torture

__all__ = ["Torture"]


def slowly(call: Callable[[int], Any]) -> Any:
    def flush(descriptor: int) -> None:
        time.sleep(float(os.environ["FLUSH"]))
        call(descriptor)

    return staticmethod(flush)


Calls.fsync = slowly(os.fsync)
Calls.fdatasync = slowly(os.fdatasync)
Calls.syncfs = slowly(Calls.syncfs)
