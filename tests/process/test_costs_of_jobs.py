"""What an attempt costs: on its span and in counters, by queue and by one key of the baggage."""

from __future__ import annotations

import os
import time
from contextlib import closing

import pytest

from framework.model.job import Job
from tests.support.receiver import Receiver
from tests.support.services.costly import Costly, Work
from tests.support.tree import Tree

CPU, MEMORY = "worker.job.cpu_time", "worker.job.memory_growth"


@pytest.mark.parametrize("way", ["ring", "sdk"])
def test_a_sync_attempt_tells_its_processor_time_and_memory_and_counters_have_the_sum(tree: Tree, way: str) -> None:
    tree.app = Costly
    with Receiver() as receiver:
        sdk = {} if way == "ring" else {"OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": "delta"}
        tree.start(
            module="tests.support.services.costly", OTEL_SDK_DISABLED="false", WORKER_JOB_COSTS="true",
            WORKER_COST_KEY="tenant", **receiver.env(), **sdk,
        )  # fmt: skip
        ids = {
            "burns": tree.enqueue(Costly.one, Work(seconds=0.2)),
            "keeps": tree.enqueue(Costly.one, Work(mib=64)),
            "fails": tree.enqueue(Costly.one, Work(seconds=0.1, fails=True)),
            "thread": tree.enqueue(Costly.threads, Work(seconds=0.2)),
            "loop": tree.enqueue(Costly.loop, Work()),
        }
        with closing(tree.broker()) as engine:
            payload = Work(seconds=0.05).model_dump_json().encode()
            headers = {"baggage": "user=u,tenant=a%20b", "content-type": "application/json"}
            engine.enqueue([Job("tenant", os.urandom(16), "one", payload, headers, time.time())])
        receiver.wait_for(lambda: sum(span.name.startswith("process ") for span in receiver.spans()) == 6)
        assert tree.stop() == 0
        found = {span.attributes["messaging.message.id"]: span.attributes for span in receiver.spans()}
        counted = {
            (
                point.name,
                point.attributes["messaging.destination.name"],
                point.attributes.get("tenant", ""),
            ): point.value
            for point in (receiver.latest(CPU) + receiver.latest(MEMORY) if way == "ring" else receiver.metrics())
            if point.name in (CPU, MEMORY) and point.value
        }
    cost = {name: found[job_id] for name, job_id in ids.items()}
    assert 0.2 <= cost["burns"][CPU] < 2
    assert 0.2 <= cost["thread"][CPU] < 2
    assert 0.1 <= cost["fails"][CPU] < 2
    assert 60 * 2**20 <= cost["keeps"][MEMORY] < 200 * 2**20
    assert CPU not in cost["loop"]
    assert 0.05 <= found["tenant"][CPU] < 2
    assert counted[CPU, "one", "a b"] == pytest.approx(found["tenant"][CPU])
    if way == "ring":
        alone = sum(cost[name][CPU] for name in ("burns", "keeps", "fails"))
        assert counted[CPU, "one", ""] == pytest.approx(alone)
        assert counted[MEMORY, "one", ""] >= 60 * 2**20
        assert counted[CPU, "threads", ""] == pytest.approx(cost["thread"][CPU])


def test_without_the_setting_nothing_is_measured(tree: Tree) -> None:
    tree.app = Costly
    with Receiver() as receiver:
        tree.start(module="tests.support.services.costly", OTEL_SDK_DISABLED="false", **receiver.env())
        tree.enqueue(Costly.one, Work(seconds=0.01))
        receiver.wait_for(lambda: receiver.spans("process one"))
        receiver.wait_for(lambda: receiver.metrics("worker.job.attempts"))
        assert tree.stop() == 0
        [span] = receiver.spans("process one")
        assert CPU not in span.attributes
        assert not receiver.metrics(CPU)
