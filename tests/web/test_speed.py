"""What the pages say of a service that runs, or has run: its speed, its limits, a pause, and what a job uses."""

from __future__ import annotations

import re
import time
from html import unescape

import pytest

from tests.support.command import RELAY, TRACE_ID, Cli
from tests.web.conftest import running
from tests.web.server import Server
from tests.web.test_pages import links

LIMITED = RELAY.replace('"digests", max_length=3,', '"digests", max_running=2, rate="50/s", breaker=Breaker(of=30),')
LIMITED = LIMITED.replace("import Context", "import Breaker, Context")


def plain(text: str) -> str:
    """The text of a page without its markup, on one line."""
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", text)).split())


def test_the_speed_is_that_of_the_last_run_also_when_all_is_dead(tmp_path_factory: pytest.TempPathFactory) -> None:
    cli = Cli(tmp_path_factory.mktemp("speed"))
    cli.write("relay.py", LIMITED)
    server = Server(cli)
    with running(server):
        page = plain(server.get("/queue?name=digests").text)
        assert "five minutes not known not known not known" in page
        assert "an hour not known" in page
        cli.store("deliveries", {"to": "Ada"}, *(f"good-{number}" for number in range(9)))
        cli.store("digests", 7, *(f"failed-{number}" for number in range(4)))
        cli.ok("run", "relay", "--burst")
        until = time.monotonic() + 40
        while "five minutes not known" in (page := plain(server.get("/queue?name=deliveries").text)):
            assert time.monotonic() < until, page  # figures are kept for five seconds
        assert re.search(r"five minutes 9 [\d.]+/(s|min) 100 %( ≤ [\d.]+ (s|min)){6} an hour 9 ", page), page
        assert re.search(r"five minutes 4 [\d.]+/(s|min) 0 % ≤", plain(server.get("/queue?name=digests").text))
        row = re.search(r"digests</a>.*?</tr>", server.get("/").text, re.DOTALL)
        assert row
        assert '<span class="alarm">0 %</span>' in row[0]


def test_a_queue_is_paused_and_resumed_on_its_page(tmp_path_factory: pytest.TempPathFactory) -> None:
    cli = Cli(tmp_path_factory.mktemp("pause"))
    cli.write("relay.py", LIMITED)
    cli.store("digests", 1, "waits")
    server = Server(cli, "--allow-actions")
    with running(server):
        page = server.get("/queue?name=digests").text
        assert "Run at once 0 of at most 2 Start at most 50/s Breaker does not hold the queue." in plain(page)
        assert "Pause digests" in plain(page)
        assert "paused digests" in server.post("/act", {"verb": "pause", "queue": "digests"}).text
        page = plain(server.get("/queue?name=digests").text)
        assert "paused: no worker takes its jobs" in page
        assert re.search(r"Paused by tester \S+ s ago", page)
        assert cli.queues()["digests"]["paused"] is True
        assert "digests is paused already" in server.post("/act", {"verb": "pause", "queue": "digests"}).text
        assert "resumed digests" in server.post("/act", {"verb": "resume", "queue": "digests"}).text
        assert "digests is not paused" in server.post("/act", {"verb": "resume", "queue": "digests"}).text
        assert server.post("/act", {"verb": "pause", "queue": "<b>"}).status == 400
        with cli.broker() as engine:
            engine.hold("digests", 60)
        assert "Breaker holds the queue now" in plain(server.get("/queue?name=digests").text)
        acts = server.stop()
    assert [(act["verb"], act["queue"], act["actor"]) for act in acts] == [
        ("pause", "digests", "tester"),
        ("resume", "digests", "tester"),
    ]


def test_the_page_of_a_running_job_says_what_it_uses(tmp_path_factory: pytest.TempPathFactory) -> None:
    cli = Cli(tmp_path_factory.mktemp("uses"))
    slow = "ctx.progress(3, 10, '<b>'); __import__('time').sleep(600); raise OSError"
    cli.write("relay.py", RELAY.replace("number: int)", "number: int, ctx: Context)").replace("raise OSError", slow))
    cli.store("digests", 1, "a/b ü", headers={"traceparent": f"00-{TRACE_ID}-00f067aa0ba902b7-01"})
    addresses = ("--trace-url", "http://jaeger/trace/{trace_id}", "--log-url", "http://logs/{trace_id}?job={job_id}")
    server = Server(cli, *addresses)
    with cli.running("run", "relay"), running(server):
        until = time.monotonic() + 40
        while "Its memory" not in (text := server.get("/job?id=a/b+%C3%BC").text):
            assert time.monotonic() < until, text
        page = plain(text)
        assert re.search(r"Handler digest, since .* Process digests/0, pid \d+ Its memory \d+ MB, at most", page), page
        assert re.search(r"Its processor time \S+ s since it was started \S+ s ago", page)
        assert links(text, "http://") == [
            f"http://jaeger/trace/{TRACE_ID}",
            f"http://logs/{TRACE_ID}?job=a%2Fb%20%C3%BC",
        ]
        while "3 of 10 (30 %): <b>" not in (page := plain(server.get("/job?id=a/b+%C3%BC").text)):
            assert time.monotonic() < until, page
