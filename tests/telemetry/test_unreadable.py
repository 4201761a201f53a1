"""A payload of a newer version, which is put back: a counter, a log line, and a span that is no error."""

from __future__ import annotations

from framework.model.extras import Extras
from framework.model.job import Lease
from tests.telemetry.helpers import Relay, Station, lease_of
from tests.telemetry.rings import Post, post, ring_station, rings_in


def unreadable() -> Lease:
    lease = lease_of()
    lease.job.payload = b'{"secret":1}'  # type: ignore[misc]
    lease.job.extras = Extras(fingerprint="b" * 12, version="3")  # type: ignore[misc]
    return lease


def run_both(station: Station) -> None:
    station.run(Relay(), unreadable())
    station.close()
    said = [line for line in station.lines() if line["event"] == "job_finished"]
    assert [line["outcome"] for line in said] == ["released"]
    assert said[0]["message"].startswith("put back for a newer version: ")
    assert "secret" not in station.out.read_text()


def check(receiver) -> None:
    assert receiver.value("worker.job.unreadable", messaging__destination__name="deliveries") == 1
    assert receiver.value("worker.job.attempts", worker__job__outcome="released") == 1
    (span,) = [one for one in receiver.spans() if one.attributes["worker.job.outcome"] == "released"]
    assert span.status == "unset"
    assert span.attributes["worker.job.reason"].startswith("put back for a newer version: ")
    assert "secret" not in repr(receiver.spans())


def test_the_exporter_counts_it(tmp_path, receiver) -> None:
    rings = rings_in(tmp_path)
    run_both(ring_station(tmp_path, rings))
    Post(post(tmp_path, rings).exporter, tmp_path).flush()
    check(receiver)


def test_the_sdk_counts_it(receiver, stations) -> None:
    run_both(stations())
    check(receiver)
