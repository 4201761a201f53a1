"""One tree makes every metric, span and attribute of ours; what arrives is as the registry of names says."""

from __future__ import annotations

from tests.support.live_check import do_everything
from tests.support.receiver import Receiver
from tests.support.registry import registry, violations
from tests.support.tree import Tree

# A cgroup of version 2 with a memory controller, and another way out: see test_black_box.py and test_rescued.py.
ELSEWHERE = {"worker.process.memory_events", "worker.job.rescued"}


def test_every_name_in_the_registry_arrives_and_no_other(tree: Tree) -> None:
    ours = set(registry().metrics)
    with Receiver() as receiver:
        do_everything(tree, receiver, **receiver.env())
        receiver.wait_for(lambda: ours <= {point.name for point in receiver.metrics()})
        assert tree.stop() == 0
        spans, points = receiver.spans(), receiver.metrics()
    assert violations(spans, points) == set()
    assert {point.name for point in points if point.name.startswith("worker.")} == ours
    seen = {name for span in spans for name in span.attributes}
    seen |= {name for span in spans for _, attributes in span.events for name in attributes}
    seen |= {name for point in points for name in point.attributes}
    assert set(registry().attributes) - seen == ELSEWHERE
    assert {span.name.split()[0] for span in spans} >= {"process", "batch"}
