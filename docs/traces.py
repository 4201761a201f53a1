"""The traces of `observability.md` as pictures: jobs of `docs.story` run by a real `worker run`, sent to a real
collector, read back from a real Jaeger and drawn.

    python -m docs.traces --otlp http://127.0.0.1:4318 --jaeger http://127.0.0.1:16686
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from docs.story import Story, tracer
from docs.waterfall import Bar, bars_of, drawn
from framework import Settings
from services.example_worker.telemetry import exported

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "docs/pictures"
PATIENCE = 60.0  # seconds
# By what becomes of the job: how many spans its trace has in the end, and what is written above the picture.
FATES = {
    "retried": (8, "Two attempts failed, the third succeeded"),
    "killed": (6, "The worker was killed in the first attempt (SIGKILL), another ran the second"),
    "dead": (10, "All attempts failed; the dead letter was handled"),
}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--otlp", required=True, help="http address of a collector")
    options.add_argument("--jaeger", required=True, help="address of Jaeger's API")
    given = options.parse_args()
    os.environ |= {"OTEL_EXPORTER_OTLP_ENDPOINT": given.otlp, "OTEL_BSP_SCHEDULE_DELAY": "200"}
    with tempfile.TemporaryDirectory() as place:
        url = f"spool:{place}/spool"
        service = subprocess.Popen(
            [Path(sys.executable).with_name("worker"), "run", "docs.story"],
            env=os.environ | {"WORKER_ENGINE_URL": url, "WORKER_LOG_LEVEL": "error"},
            cwd=ROOT,
        )
        try:
            ready(url)
            for fate, trace_id in enqueued(url).items():
                spans, title = FATES[fate]
                bars = bars_of(whole(given.jaeger, trace_id, spans))
                picture = PICTURES / f"trace-{fate}.svg"
                picture.write_text(drawn(bars, title=title), encoding="utf-8")
                print(f"{picture.relative_to(ROOT)}: {len(bars)} spans of trace {trace_id}")
                tell(bars)
        finally:
            service.send_signal(signal.SIGTERM)
            service.wait(30)


def ready(url: str) -> None:
    """Waits until a worker is."""
    end = time.monotonic() + PATIENCE
    command = [Path(sys.executable).with_name("worker"), "health"]
    environment = os.environ | {"WORKER_ENGINE_URL": url}
    while subprocess.run(command, env=environment, capture_output=True, check=False).returncode:
        if time.monotonic() > end:
            raise SystemExit(f"no worker is ready after {PATIENCE:g} s")


def enqueued(url: str) -> dict[str, str]:
    """Enqueues a job of each fate inside a span, as a web service does; gives their trace ids."""
    traces = {}
    with exported("shop"), Story.connect(Settings(engine_url=url)):
        for fate in FATES:
            with tracer.start_as_current_span("POST /orders") as span:
                Story.deliveries.enqueue(fate)
                traces[fate] = f"{span.get_span_context().trace_id:032x}"
    return traces


def whole(jaeger: str, trace_id: str, spans: int) -> dict[str, Any]:
    """A trace as Jaeger gives it, once it has so many spans."""
    end, found = time.monotonic() + PATIENCE, -1
    while time.monotonic() < end:
        try:
            with urllib.request.urlopen(f"{jaeger}/api/v3/traces/{trace_id}", timeout=5) as answer:
                data: dict[str, Any] = json.load(answer)
        except (urllib.error.HTTPError, TimeoutError):  # not there yet
            data = {}
        found = len(bars_of(data))
        if found >= spans:
            return data
        time.sleep(0.5)
    raise SystemExit(f"trace {trace_id}: {found} spans of {spans} after {PATIENCE:g} s")


def tell(bars: list[Bar]) -> None:
    for bar in bars:
        print(f"  {'  ' * bar.depth}{bar.name} {bar.attributes.get('worker.job.outcome', '')} {bar.links}")


if __name__ == "__main__":
    main()
