"""Forty queues in one pool: how many processes, what they cost while idle, and how soon a job and a delayed one start.

    python -m bench.pools [SECONDS]     idle time to measure, 30 by default

With JOBS=1 each queue has had a job before, so its directories are not as they were made.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.children.forty import Forty, queues
from bench.measure import proc
from framework import Settings
from framework.process.scoreboard import READY, Scoreboard

SETTLE = 12.0  # seconds: what was made at the start is looked at more often


def main(seconds: float = 30.0) -> int:
    with tempfile.TemporaryDirectory(prefix="pools-") as place:
        url = f"spool:{place}/spool"
        settings = Settings(engine_url=url, durability="process")
        environ = os.environ | {
            "WORKER_ENGINE_URL": url, "WORKER_DURABILITY": "process", "OTEL_SDK_DISABLED": "true",
            "WORKER_LOG_LEVEL": "warning",
        }  # fmt: skip
        worker = Path(sys.executable).with_name("worker")
        tree = subprocess.Popen([worker, "run", "bench.children.forty:Forty"], env=environ)
        try:
            board = ready(Path(place) / "spool" / "run" / "0.board")
            if os.environ.get("JOBS"):
                with Forty.connect(settings):
                    for queue in queues:
                        queue.enqueue(1)
            time.sleep(SETTLE)
            report(board, tree.pid, seconds)
        finally:
            tree.send_signal(signal.SIGTERM)
            tree.wait(30)
    return 0


def ready(path: Path) -> Scoreboard:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if path.exists():
            board = Scoreboard.open(path)
            if all(slot.state == READY for slot in board.all_slots()):
                return board
        time.sleep(0.1)
    raise TimeoutError("the tree did not become ready")


def report(board: Scoreboard, root: int, seconds: float) -> None:
    names = {slot.pid: slot.name for slot in board.all_slots() if slot.pid} | {root: "supervisor"}
    before = {pid: proc.cpu_of(pid) for pid in names}
    began = time.monotonic()
    time.sleep(seconds)
    took = time.monotonic() - began
    shares = {name: (proc.cpu_of(pid) - before[pid]) / took * 100 for pid, name in names.items()}
    print(f"processes beside the supervisor: {len(proc.tree(root)) - 1}")
    print("  ".join(f"{name} {share:.3f} %" for name, share in shares.items()))
    print(f"idle: {sum(shares.values()):.3f} % of a core over {took:.0f} s")


if __name__ == "__main__":
    sys.exit(main(*map(float, sys.argv[1:2])))
