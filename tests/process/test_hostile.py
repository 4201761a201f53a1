"""A whole service whose collector answers strangely: no process pays with its memory, and all arrives in the end."""

from __future__ import annotations

from pathlib import Path

from tests.support.services.acts import Task
from tests.support.services.torture import Torture
from tests.support.tree import Tree
from tests.telemetry import hostile
from tests.telemetry.hostile import Hostile

MOST = 160 << 10  # KiB; a process takes some 60 MiB, and one that reads the answers hundreds


def peak(pid: int) -> int:
    """KiB that a process has had in memory at most."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def test_answers_without_end_cost_no_memory_and_no_span_is_lost_when_they_end(tree: Tree) -> None:
    bomb = hostile.bomb("gzip", 300)
    strange = [bomb, hostile.HUGE, hostile.DRIP, hostile.says("503 No\r\nRetry-After: 0")]
    with Hostile(hostile.says("503 No")) as receiver:
        tree.start(
            "--queue", "sync", OTEL_SDK_DISABLED="false", OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url,
            OTEL_EXPORTER_OTLP_TIMEOUT="1", OTEL_BSP_SCHEDULE_DELAY="50", OTEL_METRIC_EXPORT_INTERVAL="100",
        )  # fmt: skip
        for number, answer in enumerate(strange):
            receiver.answer = answer
            tree.enqueue(Torture.sync, Task(key=f"k{number}"))
            tree.wait_ledger("end ", number + 1)
            before = len(receiver.asked)
            tree.wait(lambda: len(receiver.asked) >= before + 3, "requests")
        peaks = {slot.name: peak(slot.pid) for slot in tree.slots()}
        receiver.answer = hostile.OK
        before = len(receiver.heads)
        tree.wait(lambda: any("POST /v1/traces" in head for head in receiver.heads[before:]), "spans after all")
        assert tree.stop() == 0
    assert max(peaks.values()) < MOST, peaks
    assert len(peaks) > 2
    assert tree.events("process_exited", reason="crashed") == []
