"""A thousand hangs, in C code that holds the interpreter, in loops that swallow everything, in threads and on event
loops: the span of each killed attempt names the function that hung.

    HANGS=1000 python -m tests.faults.black_box

By budget as many as there is time for, at most HANGS. How long each kill waited for its stack is measured and reported,
not judged: it depends on the load of the machine.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections import Counter
from pathlib import Path

from framework import Queue
from tests.faults.report import Report, number, print_and_exit, seed
from tests.support.receiver import Receiver
from tests.support.services.hangs import ASYNC, HOGS, NAMED, SYNC, THREADS, Hangs
from tests.support.tree import Tree

HANGS, SHARE = 1000, 0.99
LEAST = 15.0  # seconds: it takes some until the first hang is killed
AHEAD = 6  # jobs of a queue that wait
PATIENCE = 30.0  # seconds without a killed attempt after which the run is over


class Run:
    """One run.

    Args:
        tree: not started.
        hangs: that are wanted.
    """

    def __init__(self, tree: Tree, receiver: Receiver, hangs: int, choices: random.Random) -> None:
        self.tree, self.receiver, self.hangs, self._choices = tree, receiver, hangs, choices
        self.wanted: dict[str, tuple[str, str, str]] = {}  # by job: queue, kind, function
        self._known = 0
        self.named: Counter[str] = Counter()
        self.unnamed: list[str] = []
        self._ended: set[str] = set()

    def go(self, until: float) -> None:
        """Enqueue and let them hang until there were enough, or time is over."""
        self.tree.start(
            module="tests.support.services.hangs",
            OTEL_SDK_DISABLED="false",
            WORKER_RESTART_BUDGET="1000000",
            WORKER_LOG_LEVEL="info",
            **self.receiver.env(),
        )
        last = time.monotonic()
        while len(self._ended) < self.hangs and time.monotonic() < min(until, last + PATIENCE):
            self._fill()
            if self._look():
                last = time.monotonic()
            time.sleep(0.05)
        self.tree.stop()
        self._look()

    def _fill(self) -> None:
        waiting = Counter(queue for job, (queue, _, _) in self.wanted.items() if job not in self._ended)
        quiet = [kind for kind in THREADS if kind not in HOGS]
        for queue, kinds in ((Hangs.sync, SYNC), (Hangs.many, list(ASYNC)), (Hangs.threads, quiet)):
            hogs = queue is Hangs.threads and self._choices.random() < 0.5
            if hogs and not waiting[queue.name]:  # alone: no other thread of the process would start its job
                self._hang(queue, self._choices.choice(HOGS))
            elif queue is not Hangs.threads or not waiting[queue.name]:
                for _ in range(AHEAD - waiting[queue.name]):
                    self._hang(queue, self._choices.choice(kinds))

    def _hang(self, queue: Queue[str], kind: str) -> None:
        job = self.tree.enqueue(queue, kind)
        self.wanted[job] = (queue.name, kind, NAMED.get(kind, kind))

    def _look(self) -> bool:
        """Take in the spans that have come; return whether there were any."""
        before = len(self._ended)
        spans = self.receiver.spans()
        for span in spans[self._known :]:
            job, outcome = span.attributes.get("messaging.message.id", ""), span.attributes.get("worker.job.outcome")
            if job not in self.wanted or job in self._ended or outcome == "released":
                continue
            self._ended.add(job)
            queue, kind, function = self.wanted[job]
            if outcome != "lost":  # the exception has hit the loop between two turns
                self.named["ended at the soft timeout"] += 1
                continue
            box = next((attributes for name, attributes in span.events if name == "worker.black_box"), {})
            if box.get("code.function.name") == function:
                self.named[f"{queue}, {kind}"] += 1
            else:
                self.unnamed.append(f"{queue}, {kind}: {box.get('code.function.name')} {box.get('code.stacktrace')}")
        self._known = len(spans)
        return len(self._ended) > before


def run(budget_seconds: float) -> Report:
    """For the registry."""
    report = Report("black_box", seed())
    until = time.monotonic() + max(LEAST, budget_seconds - 5.0)
    with tempfile.TemporaryDirectory(prefix="black-box-") as place, Receiver() as receiver:
        tree = Tree(Path(place), keep=lambda event: event["event"] in ("process_killed", "process_ready"))
        tree.app = Hangs
        done = Run(tree, receiver, int(number("HANGS", HANGS)), random.Random(report.seed))
        try:
            done.go(until)
            waits = sorted(event.get("waited", 0.0) * 1000 for event in tree.events("process_killed"))
        finally:
            tree.close()
    soft = done.named.pop("ended at the soft timeout", 0)
    named, unnamed = sum(done.named.values()), len(done.unnamed)
    killed = named + unnamed
    report.part = f"{killed} of {done.hangs} hangs"
    report.tried = {"killed attempts": killed, "of which name their function": named, "ended at the soft timeout": soft}
    report.tried |= {f"  {kind}": count for kind, count in sorted(done.named.items())}
    if waits:
        shown = (waits[len(waits) // 2], waits[int(len(waits) * 0.99)], waits[-1])
        report.tried["wait for a stack, median / 99 % / most, ms"] = " / ".join(f"{wait:.1f}" for wait in shown)
    report.expect(killed, "no attempt was killed")
    if killed and named < SHARE * killed:
        report.violations.append(f"{unnamed} of {killed} killed attempts do not name the function that hung")
    report.tried |= {f"  not named: {line}": 1 for line in done.unnamed[:10]}
    return report


if __name__ == "__main__":
    print_and_exit(run(60 * number("BUDGET", 5)))
