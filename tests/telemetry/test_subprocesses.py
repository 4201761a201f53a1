"""Programs that handlers start know the trace of their job."""

from __future__ import annotations

import json
import re

from tests.support.received import SeenSpan
from tests.support.receiver import Receiver
from tests.telemetry.helpers import run

STARTED = """
import asyncio, subprocess
from opentelemetry import baggage, context, trace

os.environ |= {"TRACEPARENT": "of the shell", "BAGGAGE": "of=the-shell"}
show = [sys.executable, "-c", "import os, json; print(json.dumps(dict(os.environ)))"]

def told(**options):
    return json.loads(subprocess.run(show, stdout=subprocess.PIPE, check=True, **options).stdout)

async def asked():
    started = await asyncio.create_subprocess_exec(*show, stdout=subprocess.PIPE)
    return json.loads((await started.communicate())[0])

before = subprocess.Popen
telemetry = start(identity(), load_settings())
assert subprocess.Popen is before
seen = {"outside": told()}

def work(ctx):
    seen["inherited"] = told()
    seen["given"] = told(env={"PATH": os.environ["PATH"], "MINE": "1"})
    seen["own"] = told(env={**os.environ, "TRACEPARENT": "mine"})
    seen["asyncio"] = asyncio.run(asked())
    token = context.attach(baggage.set_baggage("tenant", "a b"))
    seen["baggage"] = told()
    context.detach(token)
    with trace.get_tracer("service").start_as_current_span("inner"):
        seen["inner"] = told()

run_jobs(telemetry, 1, behaviour=work)
telemetry.shutdown(10)
names = ("TRACEPARENT", "TRACESTATE", "BAGGAGE", "MINE")
print(json.dumps({key: {name: env[name] for name in names if name in env} for key, env in seen.items()}))
"""


def test_the_environment_of_a_program_has_the_context_of_the_current_span(receiver: Receiver) -> None:
    out = run(STARTED, receiver.env() | {"WORKER_LOG_LEVEL": "error"})
    seen = json.loads(re.sub(r"(00-[0-9a-f]{32}-[0-9a-f]{16})-0[13]", r"\1", out))
    (attempt,), (inner,) = receiver.spans("process deliveries"), receiver.spans("inner")
    here = traceparent(attempt)
    assert seen["outside"] == {"TRACEPARENT": "of the shell", "BAGGAGE": "of=the-shell"}
    assert seen["inherited"] == seen["asyncio"] == {"TRACEPARENT": here}
    assert seen["given"] == {"TRACEPARENT": here, "MINE": "1"}
    assert seen["own"] == {"TRACEPARENT": "mine"}
    assert seen["baggage"] == {"TRACEPARENT": here, "BAGGAGE": "tenant=a+b"}
    assert seen["inner"] == {"TRACEPARENT": traceparent(inner)}


def traceparent(span: SeenSpan) -> str:
    """Return the value but for its flags, which OTLP does not have."""
    return f"00-{span.trace_id}-{span.span_id}"
