"""One operation in a process of its own, which is killed at one of its changes."""

from __future__ import annotations

import os
import pickle
import signal
from pathlib import Path

from .cases import CASES
from .seam import Seam, kill_at, pass_on

DONE, RETURNED = b"done", b"returned"


def live(write: int, name: str, root: Path, number: int | None, torn: bool) -> None:
    """Write the acknowledged ids, and then how the act ended, in the fork that is to be killed at change `number`.

    Nothing: it was killed in its midst. `DONE`: it is killed after the last change, before its caller knew. Without a
    number it is not killed: `RETURNED`.
    """
    (case,) = (case for case in CASES if case.name == name)
    seam = Seam()
    stage = case.stage(root, seam)
    os.write(write, pickle.dumps(stage.stored))
    seam.arm(pass_on if number is None else kill_at(number, torn=torn))
    case.act(stage)
    os.write(write, RETURNED if number is None else DONE)
    if number is not None:
        os.kill(os.getpid(), signal.SIGKILL)
