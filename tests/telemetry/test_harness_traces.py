"""`harness(App, traces=True)`: a job's spans as a tree. In processes of their own: a provider is set once."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

SERVICE = """
import logging, os, subprocess, sys
from collections.abc import Sequence
from framework import Context, Item, Queue, RetryPolicy, WorkerApp
from framework.testing import harness
from opentelemetry import trace

logging.disable()

class Shop(WorkerApp):
    orders = Queue[int]("orders", retry=RetryPolicy(max_retries=2))
    mails = Queue[str]("mails")
    slow = Queue[int]("slow", retry=RetryPolicy(max_retries=1, first_delay=400, jitter=False))
    many = Queue[int]("many")
    failures = 1

    @orders.handler
    def order(self, number: int, ctx: Context) -> None:
        with trace.get_tracer("shop").start_as_current_span("pay") as span:
            span.add_event("asked", {"amount": number})
            if self.failures:
                self.failures -= 1
                raise ValueError("no money")
        Shop.mails.enqueue("thanks")

    @mails.handler
    async def mail(self, text: str, ctx: Context) -> None:
        with trace.get_tracer("shop").start_as_current_span("smtp"):
            pass

    @slow.handler
    def wait(self, number: int, ctx: Context) -> None:
        if ctx.attempt == 1:
            raise OSError("later")
        program = "import os; print(os.environ['TRACEPARENT'])"
        self.seen = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout

    @many.batch_handler(size=10)
    def batch(self, items: Sequence[Item[int]]) -> None: ...
"""


def script(source: str, **environ: str) -> None:
    """Run it to its end, with assertions that fail it."""
    done = subprocess.run(
        [sys.executable, "-c", SERVICE + textwrap.dedent(source)],
        env=os.environ | environ, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


def test_a_trace_is_the_tree_of_all_that_a_job_made() -> None:
    script('''
        with harness(Shop, traces=True) as t:
            job, other = Shop.orders.enqueue(7), Shop.orders.enqueue(8)
            assert t.drain(raise_errors=False) == 5
            found = t.trace(job)
            assert str(found) == """\\
        send orders
          process orders: retried, ValueError
            pay: error
          process orders: succeeded
            pay
            send mails
              process mails: succeeded
                smtp""", str(found)
            first, second = found.named("process orders")
            assert second.links[-1] == first.span_id
            assert (first.status, second.status) == ("error", "unset")
            assert [one.attributes["worker.job.attempt"] for one in (first, second)] == [1, 2]
            assert [name for name, _ in first.events] == ["exception"]
            (pay,) = second.children[:1]
            assert (pay.kind, pay.events) == ("internal", (("asked", {"amount": 7}),))
            assert [span.kind for span in found.roots] == ["producer"]
            assert len(found) == len(list(found)) == 8
            assert "retried" not in str(t.trace(other))
            assert len({span.span_id for span in found} & {span.span_id for span in t.trace(other)}) == 0
    ''')


def test_an_attempt_that_waited_long_is_a_root_and_programs_get_the_context() -> None:
    script('''
        with harness(Shop, traces=True) as t:
            job = Shop.slow.enqueue(1)
            t.drain(raise_errors=False)
            found = t.trace(job)
            assert str(found) == """\\
        send slow
          process slow: retried, OSError
        process slow: succeeded""", str(found)
            first, second = found.named("process slow")
            assert first.trace_id != second.trace_id
            assert set(second.links) == {found.roots[0].span_id, first.span_id}
            assert t.app.seen.split("-")[1:3] == [second.trace_id, second.span_id]
    ''')


def test_jobs_of_a_batch_each_have_their_own() -> None:
    script("""
        with harness(Shop, traces=True) as t:
            jobs = Shop.many.enqueue_many([1, 2])
            t.drain()
            for job in jobs:
                assert str(t.trace(job)) == "create many\\n  process many: succeeded", str(t.trace(job))
    """)


def test_the_spans_below_the_test_s_own_are_found_and_those_of_another_harness_are_not() -> None:
    script("""
        with harness(Shop, traces=True) as t:
            with trace.get_tracer("test").start_as_current_span("POST /orders"):
                job = Shop.mails.enqueue("hi")
            t.drain()
            assert str(t.trace(job)) == "send mails\\n  process mails: succeeded\\n    smtp"
        with harness(Shop, traces=True) as t:
            again = Shop.mails.enqueue("ho", job_id="chosen")
            t.drain()
            assert len(t.trace("chosen")) == 3
            try:
                t.trace(job)
            except ValueError as error:
                assert str(error) == f"no span of a job {str(job)!r}: was it enqueued in this harness?", error
            else:
                raise AssertionError("a span of the harness before")
    """)


def test_a_provider_that_the_host_has_set_is_recorded() -> None:
    script("""
        from opentelemetry.sdk.trace import TracerProvider
        provider = TracerProvider()
        trace.set_tracer_provider(provider)
        with harness(Shop, traces=True) as t:
            job = Shop.mails.enqueue("hi")
            t.drain()
            assert len(t.trace(job)) == 3
        assert trace.get_tracer_provider() is provider
    """)


PLAIN, TRACED = "with harness(Shop) as t: t.trace(Shop.mails.enqueue('hi'))", "with harness(Shop, traces=True): pass"


@pytest.mark.parametrize(
    ("source", "environ", "message"),
    [
        (PLAIN, {}, "no spans are recorded: use harness(..., traces=True)"),
        (TRACED, {"OTEL_SDK_DISABLED": "true"}, "OTEL_SDK_DISABLED=true: no span is made, so none can be recorded"),
        (
            f"trace.set_tracer_provider(trace.NoOpTracerProvider())\n{TRACED}",
            {},
            "the provider of spans is a NoOpTracerProvider: only the SDK's can be recorded",
        ),
    ],
    ids=["not asked for", "no SDK", "a foreign provider"],
)
def test_where_nothing_is_recorded_an_error_says_why(source: str, environ: dict[str, str], message: str) -> None:
    tried = f"try:\n{textwrap.indent(source, '    ')}\n"
    script(f"{tried}except RuntimeError as error:\n    assert str(error) == {message!r}\nelse:\n    1 / 0", **environ)


def test_without_traces_no_provider_is_set() -> None:
    script("""
        with harness(Shop) as t:
            Shop.mails.enqueue("hi")
            t.drain()
        assert isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)
        assert "opentelemetry.sdk.trace" not in sys.modules
    """)
