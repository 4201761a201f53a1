"""OTEL_SDK_DISABLED=true costs nothing: no SDK, no thread, no ring, no process, no call into OpenTelemetry a job."""

from __future__ import annotations

import json

from tests.support.services.counted import Counted
from tests.support.tree import Tree
from tests.telemetry.helpers import run


def test_no_sdk_no_thread_no_ring_and_no_exporter(tree: Tree) -> None:
    broker_files = tree.root / "run"
    with Counted.connect(tree.settings):
        Counted.sync.enqueue(1)
        Counted.many.enqueue(1)
    tree.start(
        module="tests.support.services.counted",
        OTEL_SDK_DISABLED="true",
        OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9",
    )
    found = {line.split(" ", 1)[0]: json.loads(line.split(" ", 1)[1]) for line in tree.wait_ledger("", 2)}
    assert {slot.name for slot in tree.slots()} == {"maintenance", "sync/0", "many/0"}
    assert not list(broker_files.glob("*.ring")) + list(broker_files.glob("*.reader"))
    assert tree.stop() == 0
    for said in found.values():
        assert (said["sdk"], said["wire"]) == ([], [])
        assert said["tasks"]["supervisor"] == 1
        assert not [name for name in said["threads"] if name.startswith(("Otel", "flush", "Periodic"))]
    # The helpers that give claims back and look for cancellations are the sync worker's own.
    assert found["sync"]["tasks"]["worker"] == len(found["sync"]["threads"]) <= 3


COUNT = """
import collections
where = collections.Counter()
def profile(frame, event, _):
    if event == "call":
        path = frame.f_code.co_filename
        where["theirs" if "/opentelemetry/" in path else "ours" if "/framework/telemetry/" in path else ""] += 1
telemetry = start(identity(), load_settings())
from framework.runner.bus import Bus
Relay.behaviours = {"ok": lambda ctx: None}
app = Relay()
handler = app.worker_handlers["deliveries"]
bus = Bus(telemetry.subscribe)
executor = Executor(app, handler, handler.queue.options, tracing=telemetry.tracing, emit=bus.emit)
leases = [lease_of("ok") for _ in range(100)]
sys.setprofile(profile)
for lease in leases:
    executor.run(executor.attempt(lease))
with telemetry.sending.one("deliveries", "id", 1) as headers:
    pass
sys.setprofile(None)
assert headers == {} or os.environ.get("OTEL_SDK_DISABLED") != "true"
print(where["theirs"], where["ours"])
"""


def test_a_job_calls_nothing_of_opentelemetry_and_little_of_ours() -> None:
    off = {"OTEL_SDK_DISABLED": "true", "WORKER_LOG_LEVEL": "warning"}
    theirs, ours = map(int, run(COUNT, off).split())
    assert theirs == 0
    # 15 a job: identify, the scope of the job with its four, the logger with its binding, the event with its level.
    assert ours / 100 <= 20
    theirs, _ = map(int, run(COUNT, {"WORKER_LOG_LEVEL": "warning", "OTEL_TRACES_EXPORTER": "none"}).split())
    assert theirs > 100, "the count can fail"
