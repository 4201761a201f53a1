"""`opentelemetry-instrument worker run`: its providers are the only ones, in every process, and carry our spans."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.processes import alive
from tests.support.receiver import Receiver
from tests.support.services.instrumented import Calls
from tests.support.tree import Tree

INSTRUMENT = Path(sys.executable).with_name("opentelemetry-instrument")
MODULE = "tests.support.services.instrumented"
COUNTS = ("worker.job.attempts", "messaging.client.consumed.messages", "messaging.process.duration")


@pytest.fixture
def web() -> Iterator[Receiver]:
    """Any server: it answers 404 to what is no OTLP, and keeps the headers."""
    with Receiver() as made:
        yield made


def instrumented(receiver: Receiver, **more: str) -> dict[str, str]:
    # The distro's default is grpc, and logs are sent unless that is said.
    named = {"OTEL_SDK_DISABLED": "false", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf", "NO_PROXY": "*"}
    return {**receiver.env(), **named, **more}


def start(tree: Tree, receiver: Receiver, **more: str) -> None:
    tree.start(module=MODULE, command=str(INSTRUMENT), **instrumented(receiver, **more))


def test_one_provider_a_process_and_what_handlers_call_are_children_of_our_spans(tree: Tree, web: Receiver) -> None:
    with Receiver() as receiver:
        for number in range(6):
            tree.enqueue(Calls.calls, f"http://127.0.0.1:{web.port}/{'fails' if number == 5 else number}")
            tree.enqueue(Calls.async_calls, f"http://127.0.0.1:{web.port}/{number}")
        start(tree, receiver, OTEL_PYTHON_LOGGING_AUTO_INSTRUMENTATION_ENABLED="true")
        receiver.wait_for(lambda: len(receiver.spans("process calls")) == 7)
        receiver.wait_for(lambda: len(receiver.spans("process async-calls")) == 6)
        slots = {slot.name for slot in tree.slots()}
        assert tree.stop() == 0
    assert slots == {"maintenance", "calls/0", "calls/1", "async-calls/0"}, "the SDK sends: no exporter process"
    assert not tree.events("raw"), "nothing but log lines"

    jobs = receiver.spans("process calls") + receiver.spans("process async-calls")
    requests = receiver.spans("POST")
    assert len({span.span_id for span in receiver.spans()}) == len(receiver.spans()) == 26
    assert Counter(span.parent_id for span in requests) == Counter(span.span_id for span in jobs)
    by_id = {span.span_id: span for span in jobs}
    assert all(span.trace_id == by_id[span.parent_id].trace_id for span in requests)
    sent = {headers["traceparent"].split("-")[2] for headers in web.headers if "traceparent" in headers}
    assert sent == {span.span_id for span in requests}, "and go on into the server"

    # Each count once: what the process counted is what happened, and no process is there under two names.
    assert {name: receiver.value(name) for name in COUNTS} == dict.fromkeys(COUNTS, 13)
    instances = {span.resource["service.instance.id"] for span in jobs}
    assert len(instances) <= 3
    seen = {point.resource["service.instance.id"] for point in receiver.metrics("worker.slots.limit")}
    assert instances <= seen
    assert len(seen) == 3
    assert {item.resource["service.name"] for item in [*receiver.spans(), *receiver.metrics()]} == {"Calls"}

    calling = [log for log in receiver.logs() if log.body == "calling"]
    assert len(calling) == 7, "each line once, though the SDK's own handler was there"
    assert {log.span_id for log in calling} == {span.span_id for span in receiver.spans("process calls")}


def test_a_killed_attempt_has_its_span_and_a_new_process_no_new_name(tree: Tree, web: Receiver) -> None:
    with Receiver() as receiver:
        start(tree, receiver, WORKER_QUEUES__CALLS__WORKERS="1")
        job_id = tree.enqueue(Calls.calls, f"http://127.0.0.1:{web.port}/dies")
        receiver.wait_for(lambda: len(receiver.spans("process calls")) == 2)
        assert tree.stop() == 0
    first, second = sorted(receiver.spans("process calls"), key=lambda span: span.start)
    assert {span.attributes["messaging.message.id"] for span in (first, second)} == {job_id}
    assert (first.attributes["error.type"], second.attributes["worker.job.outcome"]) == ("worker_lost", "succeeded")
    assert first.span_id in {link.span_id for link in second.links}
    names = {point.resource["service.instance.id"] for point in receiver.metrics("worker.slots.limit")}
    assert len(names) == 2, "one for each slot, whoever fills it"


def test_a_silent_collector_does_not_hold_up_the_end(tree: Tree, web: Receiver) -> None:
    with Receiver() as receiver:
        receiver.hang()
        start(tree, receiver, WORKER_DRAIN="5")
        tree.enqueue(Calls.calls, f"http://127.0.0.1:{web.port}/1")
        tree.wait_event("job_finished")
        assert tree.stop() == 0
        assert not [pid for pid, begun in tree.pids if alive(pid, begun)]
        receiver.resume()


def test_fork_insisted_on_sends_each_thing_once_too(tree: Tree, web: Receiver) -> None:
    with Receiver() as receiver:
        for number in range(4):
            tree.enqueue(Calls.calls, f"http://127.0.0.1:{web.port}/{number}")
        start(tree, receiver, WORKER_START_METHOD="fork")
        receiver.wait_for(lambda: len(receiver.spans("process calls")) == 4)
        assert tree.stop() == 0
    assert len({span.span_id for span in receiver.spans()}) == len(receiver.spans()) == 8
    requests, jobs = receiver.spans("POST"), receiver.spans("process calls")
    assert {span.parent_id for span in requests} == {span.span_id for span in jobs}


def test_off_is_off_there_too(tree: Tree, web: Receiver) -> None:
    with Receiver() as receiver:
        start(tree, receiver, OTEL_SDK_DISABLED="true")
        tree.enqueue(Calls.calls, f"http://127.0.0.1:{web.port}/1")
        tree.wait_event("job_finished")
        assert tree.stop() == 0
    assert receiver.asked == 0
