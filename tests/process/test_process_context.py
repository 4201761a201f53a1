"""Each process of a tree publishes its resource for profilers; this process reads it out of their memory."""

from __future__ import annotations

import os
import time
from pathlib import Path

from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from framework.telemetry.sdk.process_context import HEADER
from tests.support.receiver import Receiver
from tests.support.services.acts import Task
from tests.support.services.torture import Torture
from tests.support.tree import Tree


def contexts(pid: int) -> list[dict[str, object]]:
    """Return the process contexts of a process, read as OTEP 4719 says."""
    found = []
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        name = line.split(maxsplit=5)[5] if line.count(" ") > 4 and len(line.split()) > 5 else ""
        if not name.startswith(("/memfd:OTEL_CTX", "[anon_shmem:OTEL_CTX")):
            continue
        at = int(line.split("-")[0], 16)
        with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
            head = os.pread(memory.fileno(), HEADER.size, at)
            signature, version, size, published, payload = HEADER.unpack(head)
            assert (signature, version) == (b"OTEL_CTX", 2)
            assert 0 <= time.time() - published / 1e9 < 300
            resource = Resource.FromString(os.pread(memory.fileno(), size, payload))
        values = {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in resource.attributes}
        assert len(values) == len(resource.attributes)
        found.append(values)
    return found


def test_each_process_publishes_its_resource_for_profilers_and_its_children_do_not(tree: Tree) -> None:
    with Receiver() as receiver:
        tree.start(OTEL_SDK_DISABLED="false", OTEL_RESOURCE_ATTRIBUTES="service.version=3", **receiver.env())
        tree.enqueue(Torture.sync, Task(do="fork", key="k", until=1))
        worker = int(tree.wait_ledger("start k")[0].split()[3])
        tree.wait_ledger("end k")
        receiver.wait_for(lambda: receiver.spans("process sync"))
        [span] = receiver.spans("process sync")
        for slot in tree.slots():
            [context] = contexts(slot.pid)
            assert context["worker.process.slot"] == slot.name
            assert context["process.pid"] == slot.pid
            assert context["service.version"] == "3"
        for key in ("service.name", "service.instance.id", "process.pid"):
            assert contexts(worker)[0][key] == span.resource[key]
        children = Path(f"/proc/{worker}/task/{worker}/children").read_text().split()
        assert children, "the handler has forked"
        assert contexts(int(children[0])) == []
        assert tree.stop() == 0
