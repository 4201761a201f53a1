"""Whatever stands in a variable of OpenTelemetry, and whatever an entry point does that one names: jobs run, and one
line says which variable is not followed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import environment_variables as of_api
from opentelemetry.sdk import environment_variables as of_sdk

from framework.telemetry import environment
from framework.telemetry.environment import CHECKS, settle
from framework.telemetry.sdk import plugins
from tests.telemetry.helpers import TREE, json_lines, spawn
from tests.telemetry.helpers import environment as environment_of

OTLP = "OTEL_EXPORTER_OTLP_"
NAMES = sorted(
    {
        value
        for module in (of_api, of_sdk)
        for value in vars(module).values()
        if isinstance(value, str) and value.startswith("OTEL_")
    }
    | set(CHECKS)
)
# One of these decides what becomes of the others.
SWITCHES = [name for name in NAMES if name.endswith(("_EXPORTER", "_SDK_DISABLED"))]
KINDS = {
    "empty": "", "blank": "  ", "negative": "-1", "text": "nope", "huge": "9" * 400, "unicode": "ünï☃\u202e",
    "no UTF-8": "\udcff", "fraction": "1.5", "not a number": "nan", "infinite": "inf", "list": ",=,,a=,=b,;",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _forgets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "_said", {})
    monkeypatch.setattr(environment, "_given", {})


WITH_EVERYTHING = (
    TREE
    + """
from framework.telemetry import environment
from framework.telemetry.export.otlp import destination
names, switches, kinds = json.loads(sys.stdin.read())

def attempt(given):
    os.environ.update(given)
    telemetry = start(identity(), load_settings())
    run_jobs(telemetry, 1, "talk", lambda ctx: ctx.log.info("ran"))
    for signal in ("traces", "metrics"):
        destination(signal)
    with for_host("spool").one("deliveries", "id", 1) as headers:
        assert isinstance(headers, dict)
    said = environment.lines()
    taken = {name for name, value in given.items() if value.strip()} - set(os.environ)
    for name in taken & set(environment.CHECKS):
        assert sum(line.startswith((name + " ", name + "=")) for line in said) == 1, (name, said)
    assert len(said) == len({line.partition("=")[0].partition(" ")[0] for line in said})

for kind, value in kinds.items():
    for protocol in ("http/protobuf", "grpc"):
        given = {name: value for name in names if name not in switches}
        reap(forked(lambda: attempt({**given, "OTEL_EXPORTER_OTLP_PROTOCOL": protocol})))
    for name in switches:
        reap(forked(lambda: attempt({name: value})))
"""
)


def test_no_value_of_any_variable_keeps_a_job_from_running():
    """All of them at once, each kind over both protocols; and each of those that turn others off by itself."""
    process = spawn(WITH_EVERYTHING, {f"{OTLP}TIMEOUT": "0.1"}, stdin=subprocess.PIPE)
    out, err = process.communicate(json.dumps([NAMES, SWITCHES, KINDS]), timeout=120)
    assert (process.returncode, err) == (0, ""), out + err
    assert len(NAMES) > 80
    expected = len(KINDS) * (2 + len(SWITCHES))
    lines = [line["event"] for line in json_lines(out)]
    assert lines.count("ran") == expected
    assert "telemetry_off" not in lines


@pytest.mark.parametrize(
    ("name", "value", "kept", "why"),
    [
        ("OTEL_SPAN_EVENT_COUNT_LIMIT", "-1", None, "0 to"),
        ("OTEL_SPAN_EVENT_COUNT_LIMIT", " 7 ", "7", ""),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "0", None, "1 to"),
        ("OTEL_BSP_SCHEDULE_DELAY", "9" * 30, None, "1 to"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "nan", None, "above 0"),
        ("OTEL_TRACES_SAMPLER_ARG", "1.5", None, "0 to 1"),
        ("OTEL_TRACES_SAMPLER", "Always_Off", "always_off", ""),
        ("OTEL_TRACES_SAMPLER", "sometimes", None, "use always_on"),
        ("OTEL_METRICS_EXEMPLAR_FILTER", "ALWAYS_ON", "always_on", ""),
        (f"{OTLP}TRACES_COMPRESSION", "zstd", None, "gzip"),
        (f"{OTLP}ENDPOINT", "http://me:pa/ss@host:4318", None, "no address"),
        (f"{OTLP}ENDPOINT", "http://host:99999", None, "no address"),
        (f"{OTLP}ENDPOINT", "http://[", None, "no address"),
        (f"{OTLP}ENDPOINT", "host:4317", "host:4317", ""),
        (f"{OTLP}TIMEOUT", "10000", None, "milliseconds"),
        (f"{OTLP}METRICS_TIMEOUT", "600", "600", ""),
        (f"{OTLP}HEADERS", "a=1,hush,b=2%0d%0ahush,c=%C3%BC", "a=1", "3 of 4"),
        (f"{OTLP}CERTIFICATE", "/no/such/file", "/no/such/file", "No such file"),
        ("OTEL_RESOURCE_ATTRIBUTES", "a=b,hush,=c", "a=b", "2 of 3"),
        ("OTEL_SERVICE_NAME", "x" * 2000, None, "longer"),
        ("OTEL_EXPERIMENTAL_RESOURCE_DETECTORS", "process,nope", "process", "nope"),
        ("OTEL_PYTHON_TRACER_PROVIDER", "nope", None, "opentelemetry_tracer_provider"),
        ("OTEL_PYTHON_CONTEXT", "nope", None, "opentelemetry_context"),
        ("OTEL_PYTHON_EXPORTER_OTLP_GRPC_RETRYABLE_ERROR_CODES", "ABORTED,NOPE", None, "NOPE"),
        ("OTEL_PYTHON_EXPORTER_OTLP_HTTP_CREDENTIAL_PROVIDER", "nope", None, "credential_provider"),
    ],
)
def test_what_stays_of_a_value_and_what_is_said_of_the_rest(monkeypatch, name, value, kept, why):
    monkeypatch.setenv(name, value)
    said = settle()
    assert os.environ.get(name) == kept
    assert why in said.get(name, "")
    assert bool(said) == bool(why)
    assert environment.given()[name] == value
    if name.startswith(OTLP):
        assert "hush" not in str(environment.lines())
        assert "pa" not in said.get(name, "") or "pa/ss" not in str(environment.lines())
    assert settle() == said


def test_a_batch_is_never_larger_than_its_queue(monkeypatch):
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "100")
    monkeypatch.setenv("OTEL_BLRP_MAX_EXPORT_BATCH_SIZE", "5000")
    assert list(settle()) == ["OTEL_BLRP_MAX_EXPORT_BATCH_SIZE"]
    assert os.environ["OTEL_BSP_MAX_EXPORT_BATCH_SIZE"] == "100"
    assert os.environ["OTEL_BLRP_MAX_EXPORT_BATCH_SIZE"] == "2048"
    monkeypatch.undo()


GROUPS = {
    "OTEL_PROPAGATORS": "opentelemetry_propagator",
    "OTEL_EXPERIMENTAL_RESOURCE_DETECTORS": "opentelemetry_resource_detector",
    "OTEL_PYTHON_CONTEXT": "opentelemetry_context",
    "OTEL_PYTHON_TRACER_PROVIDER": "opentelemetry_tracer_provider",
    "OTEL_PYTHON_METER_PROVIDER": "opentelemetry_meter_provider",
    "OTEL_PYTHON_EXPORTER_OTLP_HTTP_CREDENTIAL_PROVIDER": "opentelemetry_otlp_credential_provider",
}
PLUGINS = """
import os, sys, time
def raising(): raise RuntimeError("no")
def exiting(): os._exit(0)
def leaving(): sys.exit(1)
def hanging(): time.sleep(1000)
class Good:
    fields = set()
    def inject(self, carrier, context=None, setter=None): print("made"); carrier["x-good"] = "1"
    def extract(self, carrier, context=None, getter=None): return context
class Late(Good):
    def inject(self, carrier, context=None, setter=None): raise RuntimeError("late")
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Plugins of a host, on the path of this process and of those that it starts."""
    (tmp_path / "of_host.py").write_text(PLUGINS)
    info = tmp_path / "of_host-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: of-host\nVersion: 1\n")
    names = {"raising": "raising", "exiting": "exiting", "leaving": "leaving", "hanging": "hanging", "good": "Good",
             "late": "Late", "missing": "nowhere"}  # fmt: skip
    parts = [f"[{group}]\n" + "".join(f"{n} = of_host:{o}\n" for n, o in names.items()) for group in GROUPS.values()]
    (info / "entry_points.txt").write_text("\n".join(parts))
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.mark.parametrize("kind", ["raising", "exiting", "leaving", "missing"])
def test_a_plugin_that_cannot_be_loaded_is_left_out_whatever_it_does(installed, monkeypatch, kind):
    for name in GROUPS:
        monkeypatch.setenv(name, kind)
    plugins.try_all()
    assert not set(GROUPS) & set(os.environ)
    assert len(environment.lines()) == len(GROUPS)


def test_a_plugin_that_hangs_is_left_out_and_the_others_stay(installed, monkeypatch):
    monkeypatch.setenv("OTEL_PYTHON_TRACER_PROVIDER", "hanging")
    monkeypatch.setenv("OTEL_EXPERIMENTAL_RESOURCE_DETECTORS", "process")
    monkeypatch.setenv("OTEL_PROPAGATORS", "tracecontext,good")
    plugins.try_all(5.0)  # also of the time in which the others load, on a machine that has much else to do
    assert [line.partition("=")[0] for line in environment.lines()] == ["OTEL_PYTHON_TRACER_PROVIDER"]
    assert os.environ["OTEL_PROPAGATORS"] == "tracecontext,good"


SERVICE = """
if __name__ != "__main__":
    import opentelemetry.propagate  # as instrumentation does
from framework import Queue, WorkerApp
class Service(WorkerApp):
    q = Queue[str]("q")
    second = Queue[str]("second")
    @q.handler
    def work(self, payload: str) -> None:
        Service.second.enqueue(payload)
    @second.handler
    def end(self, payload: str) -> None:
        print("ran", payload, flush=True)
        import os, signal
        os.kill(int(os.environ["SUPERVISOR"]), signal.SIGTERM)
if __name__ == "__main__":
    Service.q.enqueue("it")
"""


def test_a_service_and_a_producer_run_with_every_variable_wrong_at_once(installed, tmp_path, monkeypatch):
    """Supervisor, workers, maintenance, exporter, the CLI and a process of its own that only enqueues."""
    (tmp_path / "service.py").write_text(SERVICE)
    wrong = {name: "nope" for name in NAMES if name not in SWITCHES and not name.endswith("_ENDPOINT")}
    wrong |= {"OTEL_PROPAGATORS": "leaving", f"{OTLP}ENDPOINT": "http://127.0.0.1:9", "OTEL_PYTHON_CONTEXT": "nope"}
    wrong |= {"OTEL_SPAN_EVENT_COUNT_LIMIT": "-1", "OTEL_BSP_MAX_QUEUE_SIZE": "-5"}
    out: dict[str, Any] = {"env": {}, "cwd": tmp_path, "capture_output": True, "text": True, "timeout": 60}
    out["env"] = {
        "PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join((str(tmp_path), *sys.path)),
        "WORKER_ENGINE_URL": f"spool:{tmp_path}/spool", "WORKER_DRAIN": "20", "WORKER_TELEMETRY_FLUSH": "0.1",
    } | wrong  # fmt: skip
    worker = str(Path(sys.executable).with_name("worker"))
    run_it = f'SUPERVISOR=$$ exec "{worker}" run service'
    made = subprocess.run([sys.executable, tmp_path / "service.py"], **out)
    assert made.returncode == 0, made.stderr
    assert "Traceback" not in made.stderr
    done = subprocess.run(["sh", "-c", run_it], **out)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ran it" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    named = [line for line in lines if '"event": "OTEL_' in line]
    assert sum("OTEL_SPAN_EVENT_COUNT_LIMIT=" in line for line in named) == 1
    assert sum("OTEL_PROPAGATORS=" in line for line in named) == 1
    checked = subprocess.run([worker, "check", "service"], **out)
    assert checked.returncode == 0, checked.stderr


HOST = """
from framework.telemetry import for_host
from framework.telemetry.sdk import plugins
plugins.LIMIT = 1.0
with for_host("spool").one("deliveries", "id", 1) as headers:
    print(headers)
"""


@pytest.mark.parametrize(
    ("variable", "kind", "said"),
    [
        ("OTEL_PROPAGATORS", "raising", "cannot be followed"), ("OTEL_PROPAGATORS", "leaving", "cannot be followed"),
        ("OTEL_PYTHON_TRACER_PROVIDER", "raising", "enqueue makes no spans"),
        ("OTEL_PYTHON_METER_PROVIDER", "leaving", "enqueue makes no spans"),
        ("OTEL_PYTHON_TRACER_PROVIDER", "nope", "is ignored"),
        ("OTEL_PROPAGATORS", "hanging", "enqueue makes no spans"),
        ("OTEL_PROPAGATORS", "late", "could not be written"), ("OTEL_PROPAGATORS", "good", ""),
    ],
)  # fmt: skip
def test_a_producer_outlives_the_plugins_of_its_host(installed, variable, kind, said):
    env = environment_of({variable: kind})
    env["PYTHONPATH"] += os.pathsep + str(installed)
    done = subprocess.run([sys.executable, "-c", HOST], env=env, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    assert "{" in done.stdout
    assert said in done.stderr
    assert bool(said) == bool(done.stderr)
