"""When telemetry goes through rings, and what is said where it cannot."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from framework.telemetry import prepare_rings
from framework.telemetry.ring.rings import Rings
from tests.telemetry.helpers import IDENTITY, Relay, lease_of, run
from tests.telemetry.rings import post, ring_station, rings_in

SLOTS = ("deliveries/0", "maintenance")


def prepared(place: Path) -> tuple[Rings | None, str]:
    return prepare_rings(place, 0, app="relay", system="spool", slots=SLOTS)


def test_rings_are_made_once_and_their_name_stands_for_the_resource(tmp_path, monkeypatch):
    rings, note = prepared(tmp_path)
    assert (note, len(list(tmp_path.glob("*.ring")))) == ("", 2)
    assert prepared(tmp_path)[0] == rings
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "service.version=2")
    assert prepared(tmp_path)[0] != rings
    assert len(list(tmp_path.glob("*.ring"))) == 4


@pytest.mark.parametrize("disabled", ["false", "true"])
def test_what_the_tree_before_measured_is_removed_and_only_that(tmp_path, monkeypatch, disabled):
    monkeypatch.setenv("OTEL_SDK_DISABLED", disabled)
    old = ("0.maintenance.m.metrics", ".0.maintenance.m.metrics", ".0.maintenance.m.metrics.4711")
    other = ("10.maintenance.m.metrics", ".1.maintenance.m.metrics", "0.reader")
    for name in (*old, *other):
        (tmp_path / name).touch()
    prepared(tmp_path)
    assert {path.name for path in tmp_path.iterdir() if path.suffix != ".ring"} == set(other)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OTEL_TRACES_EXPORTER", "console"),
        ("OTEL_METRICS_EXPORTER", "otlp,console"),
        ("OTEL_TRACES_SAMPLER", "my_company_sampler"),
        ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "delta"),
        ("OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION", "base2_exponential_bucket_histogram"),
        ("OTEL_METRICS_EXEMPLAR_FILTER", "always_on"),
        ("OTEL_PYTHON_EXPORTER_OTLP_HTTP_CREDENTIAL_PROVIDER", "mine"),
    ],
)
def test_what_only_the_sdk_can_do_is_left_to_it_and_the_variable_named(tmp_path, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    rings, note = prepared(tmp_path)
    assert rings is None
    assert name in note


@pytest.mark.parametrize("sampler", ["always_off", "parentbased_traceidratio", "ALWAYS_ON"])
def test_the_sdks_samplers_are_no_obstacle(tmp_path, monkeypatch, sampler):
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", sampler)
    assert prepared(tmp_path)[0] is not None


@pytest.mark.parametrize(
    "environ", [{"OTEL_SDK_DISABLED": "true"}, {"OTEL_TRACES_EXPORTER": "none", "OTEL_METRICS_EXPORTER": "none"}]
)
def test_nothing_is_made_and_nothing_said_where_nothing_is_sent(tmp_path, monkeypatch, environ):
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert prepared(tmp_path) == (None, "")
    assert not list(tmp_path.iterdir())


def test_a_provider_that_was_set_before_keeps_its_spans(tmp_path):
    source = f"""
        from pathlib import Path
        from opentelemetry import trace
        from opentelemetry.sdk.trace import TracerProvider
        from framework.telemetry import prepare_rings
        trace.set_tracer_provider(TracerProvider(shutdown_on_exit=False))
        print(prepare_rings(Path({str(tmp_path)!r}), 0, app="relay", system="spool", slots=["a"])[1])
    """
    assert "a provider of OpenTelemetry was set before" in run(source, {})


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="mounts")
def test_a_full_disk_is_left_as_it_was_and_the_reason_said(small_disk):
    rings, note = prepared(small_disk)
    assert rings is None
    assert "cannot hold 2 rings of 9 MiB: No space left on device" in note
    assert not list(small_disk.iterdir())


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="mounts")
def test_rings_of_the_last_tree_stay_where_there_is_no_room_for_more(small_disk):
    """They hold what it had not sent. Verified: where all are removed, that is lost."""
    first, note = prepare_rings(small_disk, 0, app="relay", system="spool", slots=SLOTS[:1])
    assert first is not None
    path = first.path(SLOTS[0])
    rings, note = prepared(small_disk)
    assert rings is None
    assert "cannot hold" in note
    assert list(small_disk.iterdir()) == [path]


def test_a_directory_that_is_none_is_a_reason(tmp_path):
    rings, note = prepared(tmp_path / "missing")
    assert rings is None
    assert "No such file or directory" in note


def test_a_worker_whose_ring_was_taken_away_sends_by_the_sdk_and_says_so(tmp_path, receiver):
    rings = rings_in(tmp_path)
    rings.path(IDENTITY.slot).unlink()
    station = ring_station(tmp_path, rings)
    app = Relay()
    app.behaviours = {"ok": lambda ctx: None}
    station.run(app, lease_of())
    station.close()
    assert len(receiver.spans("process deliveries")) == 1
    assert [line["event"] for line in station.lines() if line["level"] == "warning"] == ["telemetry_without_ring"]


@pytest.mark.parametrize(("off", "spans", "counts"), [("traces", 0, 3), ("metrics", 3, 0)])
def test_a_signal_that_is_off_is_not_sent_and_does_not_fill_the_ring(
    tmp_path: Path, receiver: Any, monkeypatch: Any, off: str, spans: int, counts: int
) -> None:
    monkeypatch.setenv(f"OTEL_{off.upper()}_EXPORTER", "none")
    rings = rings_in(tmp_path)
    station = ring_station(tmp_path, rings)
    app = Relay()
    app.behaviours = {"ok": lambda ctx: None}
    for _ in range(3):
        station.run(app, lease_of())
    station.close()
    sender = post(tmp_path, rings)
    sender.flush()
    assert (len(receiver.spans()), receiver.value("worker.job.attempts")) == (spans, counts)
    (source,) = sender.exporter._sources.values()
    assert source.ring.sent == source.ring.head


@pytest.mark.parametrize("sampler", ["always_off", "traceidratio", "parentbased_always_on", "parentbased_always_off"])
def test_samplers_decide_as_through_the_sdk(tmp_path, receiver, stations, monkeypatch, sampler):
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", sampler)
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0.5")
    through_ring, through_sdk = ring_station(tmp_path, rings_in(tmp_path)), stations()
    for number in range(100):
        trace_id = f"{number:02d}{os.urandom(15).hex()}"
        headers = {"traceparent": f"00-{trace_id}-b7ad6b7169203331-0{number % 2}"} if number % 3 else {}
        lease = lease_of(headers=headers)
        mine, theirs = (s.telemetry.tracing.identify(lease, lease.eligible_at + 1) for s in (through_ring, through_sdk))
        assert (mine.trace_id, mine.span_id, mine.sampled) == (theirs.trace_id, theirs.span_id, theirs.sampled)
    through_ring.close()
