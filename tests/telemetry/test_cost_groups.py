"""What attempts cost: in the facts of a success, and by the groups of one key of the baggage, a limited number."""

from __future__ import annotations

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import ScopeSpans

from framework.model.job import Lease
from framework.telemetry.costs import MOST_GROUPS, OTHER, CostGroups
from framework.telemetry.ring import records
from framework.telemetry.ring.facts import CHILD, COSTED, LINKED, packer
from framework.telemetry.ring.shapes import Shapes
from tests.telemetry.helpers import lease_of


def with_baggage(header: str) -> Lease:
    return lease_of(headers={"baggage": header} if header else {})


def test_the_value_comes_out_of_the_jobs_baggage() -> None:
    groups = CostGroups("tenant")
    assert groups.of(with_baggage("a=1,tenant=x%20y;p=1")) == ("tenant", "x y")
    assert groups.of(with_baggage("a=1")) == ("tenant", "")
    assert groups.of(with_baggage("")) == ("tenant", "")
    assert groups.of(with_baggage("====,,;;")) == ("tenant", "")
    assert len(groups.of(with_baggage(f"tenant={'ü' * 500}"))[1].encode()) <= 100
    assert CostGroups("").of(with_baggage("tenant=x")) == ("", "")


def test_above_the_cap_values_are_counted_together_and_known_ones_stay() -> None:
    groups = CostGroups("tenant")
    found = {groups.of(with_baggage(f"tenant=t{number}"))[1] for number in range(3 * MOST_GROUPS)}
    assert len(found) == MOST_GROUPS + 1
    assert OTHER in found
    assert groups.of(with_baggage("tenant=t5")) == ("tenant", "t5")


@pytest.mark.parametrize("relation", [0, LINKED, LINKED | CHILD])
def test_a_success_with_costs_makes_the_span_of_one_without_and_the_costs(relation: int) -> None:
    def span(flags: int, *costs: float) -> dict[str, object]:
        size, pack = packer(1, 2, bool(costs))
        ids = b"t" * 16, b"s" * 8, 1000, b"m" * 16, b"b" * 8
        record = pack(size, records.FACTS, flags, 1, 7, 2, 1.5, 0.5, 2000, *ids, 1, 3, b"q", b"id", *costs, size)
        assert len(record) == size
        parsed = records.parse(record)
        assert parsed is not None
        assert (parsed.key, parsed.span) == (b"q", b"id")
        pid, encoded = Shapes("spool").span(record, 0)
        [found] = ScopeSpans.FromString(encoded).spans
        values = {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in found.attributes}
        assert (pid, found.name, len(values)) == (7, "process q", len(found.attributes))
        del found.attributes[:]
        return {"rest": found.SerializeToString(), **values}

    flags = records.SAMPLED | relation
    costs = {"worker.job.cpu_time": 0.25, "worker.job.memory_growth": 4096.0}
    assert span(flags | COSTED, 0.25, 4096.0) == span(flags) | costs
