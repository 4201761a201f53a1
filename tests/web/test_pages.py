"""What the pages show and do, with hostile values in every field, and without any process that works."""

from __future__ import annotations

import os
import re
import signal
import time
from html import unescape
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.routing import Mount

from framework.model.errors import UsageError
from framework.model.job import Job
from framework.process.scoreboard import Scoreboard
from framework.web import app
from framework.web.render import HERE
from tests.support import postgres
from tests.support.command import RELAY, Cli
from tests.web import hostile
from tests.web.conftest import running
from tests.web.hostile import FORBIDDEN, HOSTILE_ID, MARKUP
from tests.web.server import TOKEN, Server

ROOT = Path(__file__).parents[2]
BEARER = {"authorization": f"Bearer {TOKEN}"}


def links(text: str, path: str) -> list[str]:
    """The addresses of the links of a page that begin so."""
    return [unescape(found) for found in re.findall(r'href="([^"]+)"', text) if unescape(found).startswith(path)]


def test_hostile_values_are_text_wherever_they_are_shown(closed: Server) -> None:
    dead = closed.get("/dead")
    (job,) = set(links(dead.text, "/job?"))
    (file,) = set(links(closed.get("/bad").text, "/bad/file?"))
    named = {"x-forwarded-user": "\x1b<script>alert(666)</script>"}
    asked = [
        dead, closed.get(job), closed.get(f"{job}&payload=1"), closed.get("/jobs"), closed.get("/bad"),
        closed.get(file),
        closed.get(f"{file}&payload=1"), closed.get("/"), closed.ask("/acts", headers=named), closed.get("/metrics"),
        closed.get("/job?id=plain-ready&payload=1"), closed.get("/job?id=%3Cscript%3Ealert(666)%3C/script%3E%1b"),
        closed.get("/queue?name=%3Cimg%20src=x%20onerror=alert(666)%3E"), closed.get("/%3Cscript%3Ealert(666)"),
        closed.get("/jobs?error=%22%3E%3Cscript%3Ealert(666)%3C/script%3E%1b"),
        closed.get("/jobs?older=%3Cscript%3Ealert"),
        closed.get("/jobs?field=%3Cscript%3Ealert(1)=%3Cimg%20src=x"), closed.get("/jobs?after=%3Cscript%3Ealert(666)"),
        closed.get("/jobs?state=%3Cscript%3Ealert"), closed.get("/dead?queue=deliveries&error=alert%28666"),
        closed.get("/bad?after=%3Cscript%3Ealert(666)"), closed.get("/jobs?queue=%ff%00%3Cscript%3Ealert(666)"),
        closed.post("/act", {"verb": hostile.VALUE, "job": "x y z"}, BEARER),
        closed.post("/act", {"verb": "discard", "job": hostile.VALUE}, BEARER),
        closed.post("/act", {"verb": "discard", "all": "1", "error": hostile.VALUE, "rate": hostile.VALUE}, BEARER),
    ]  # fmt: skip
    for number, answer in enumerate(asked):
        assert answer.status in (200, 400, 404), (number, answer.text)
        for text in FORBIDDEN:
            assert text not in answer.text, (number, text)
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u202e\u2028]", answer.text), number
    shown = asked[2].text
    assert shown.count("&lt;script&gt;alert(666)&lt;/script&gt;") >= 10
    assert r"\x1b]0;owned\x07\x00\x08\x9b31m\u202egnp\u200b\u2028" in shown
    assert unescape(shown).count(MARKUP) >= 6


def test_a_store_is_shown_while_no_process_works(plain: Server) -> None:
    page = plain.get("/").text
    assert "It is not known whether a service runs: none has reported here yet." in page
    row = re.search(r"deliveries</a>.*?</tr>", page, re.DOTALL)
    assert row
    assert '<span class="unknown">not known</span>' in row[0]  # when a service reported
    assert "No process tree has its scoreboard here." in page
    assert 'class="n alarm">1<' in page
    assert "No scoreboards: it is not known" in plain.get("/processes").text
    page = plain.get("/queue?name=deliveries").text
    assert "1, 5 jobs at once each" in page
    assert "300 jobs, 2 kB each" in page


def test_jobs_are_found_by_filters(plain: Server) -> None:
    def ids(query: str) -> set[str]:
        return {unescape(found) for found in re.findall(r'class="id" href="/job[^"]*">([^<]*)<', plain.get(query).text)}

    everything = {HOSTILE_ID, "plain-ready", "plain-delayed"}
    assert ids("/jobs") == everything
    assert ids("/jobs?state=delayed") == {"plain-delayed"}
    assert ids("/jobs?queue=digests&state=ready") == {"plain-ready"}
    assert ids("/jobs?reason=error&error=ALERT(666)") == {HOSTILE_ID}
    assert ids("/jobs?reason=timeout") == set()
    assert ids("/jobs?older=1h") == set()
    assert ids("/jobs?younger=1h&queue=digests&field=to%3Dnobody-has-this") == set()
    assert plain.get("/job?id=plain-ready").status == 200
    assert plain.get("/job?id=missing").status == 404
    for wrong in ("state=odd", "reason=odd", "older=long", "field=nothing", "queue=odd", "after=odd"):
        assert plain.get(f"/jobs?{wrong}").status == 400, wrong


def test_a_list_goes_on_behind_its_page(tmp_path_factory: pytest.TempPathFactory) -> None:
    cli = Cli(tmp_path_factory.mktemp("paged"))
    cli.write("relay.py", RELAY.replace("max_length=3,", ""))
    now = time.time()
    with cli.broker() as engine:
        engine.enqueue(
            [
                Job(f"job-{number:03}", os.urandom(16), "digests", str(number).encode(), {}, now, chosen_id=True)
                for number in range(120)
            ]
        )
    server = Server(cli, "--allow-actions")
    with running(server):
        found, path = [], "/jobs"
        for _ in range(3):
            page = server.get(path).text
            found += re.findall(r'class="id" href="[^"]*">([^<]*)<', page)
            following = re.search(r'rel="next" href="([^"]+)"', page)
            path = unescape(following[1]) if following else ""
        assert found == [f"job-{number:03}" for number in range(120)]
        assert path == ""
        _replay_all(cli, server)
        _edit(server)


def _replay_all(cli: Cli, server: Server) -> None:
    """All dead letters that pass a filter go back, at a rate, and the page says how far it is."""
    cli.kill_jobs("digests", count=30)
    assert "30" in server.get("/dead").text
    wrong = server.post("/act", {"verb": "replay", "all": "1", "rate": "fast"})
    assert (wrong.status, "is no rate" in wrong.text) == (400, True)
    answer = server.post("/act", {"verb": "replay", "all": "1", "error": "refused", "rate": "1/h"})
    assert "act 1 was started" in answer.text
    until = time.monotonic() + 30
    while '1</td><td class="n">0</td><td class="n">30<' not in (text := server.get("/acts").text):
        assert time.monotonic() < until, text
    assert "stops" in server.post("/act", {"verb": "stop", "task": "1"}).text
    server.post("/act", {"verb": "replay", "all": "1"})
    while text.count(">stopped<") != 1 or text.count(">done<") != 1:
        assert time.monotonic() < until, text
        text = server.get("/acts").text
    assert "No dead letters pass." in server.get("/dead").text
    assert cli.queues()["digests"]["ready"] == 120


def _edit(server: Server) -> None:
    """An edited copy has the new payload, and fits the queue's type."""
    page = server.get("/job?id=job-007&payload=1").text
    assert re.search(r"<textarea[^>]*>\n7</textarea>", page)
    job = re.search(r'name="job" value="([^"]+)"', page)
    assert job
    wrong = server.post("/act", {"verb": "edit", "job": job[1], "payload": '"text"'})
    assert (wrong.status, "does not fit" in wrong.text) == (409, True)
    done = server.post("/act", {"verb": "edit", "job": job[1], "payload": "70"})
    (copy,) = links(done.text, "/job?")
    assert server.get("/job?id=job-007").status == 404
    assert '<pre tabindex="0">70</pre>' in server.get(f"{copy}&payload=1").text


def test_what_runs_and_what_has_died_is_told_apart(tmp_path_factory: pytest.TempPathFactory) -> None:
    cli = Cli(tmp_path_factory.mktemp("tree"))
    slow = "ctx.progress(3, 10, '<b>'); __import__('time').sleep(600); raise OSError"
    cli.write("relay.py", RELAY.replace("number: int)", "number: int, ctx: Context)").replace("raise OSError", slow))
    cli.store("digests", 1, "runs-long")
    server = Server(cli)
    with cli.running("run", "relay") as tree, running(server):
        until = time.monotonic() + 40
        while "3 of 10" not in (text := server.get("/runs").text):
            assert time.monotonic() < until, text
        assert re.search(r"runs-long</a></td><td>digests</td><td>digest</td><td>3 of 10 \(30 %\): &lt;b&gt;</td>", text)
        page = server.get("/").text
        assert ">running</span>" in page
        assert "No running service reports" not in page
        page = server.get("/processes").text
        assert "digests/0" in page
        assert re.search(
            r"<td>relay:Relay</td>.*>running</span>.*dead-letters, deliveries, digests</td>", page, re.DOTALL
        )
        (board,) = (cli.spool / "run").glob("*.board")
        pids = [slot.pid for slot in Scoreboard.open(board).all_slots() if slot.pid]
        for pid in (tree.pid, *pids):
            os.kill(pid, signal.SIGKILL)
        tree.wait()
        page = server.get("/").text
        assert "No running service reports: the last one did so <time" in page
        assert ">dead</span>" in page
        assert "What follows is what was last said." in server.get("/processes").text


def test_a_missing_store_is_said_and_then_found(tmp_path_factory: pytest.TempPathFactory) -> None:
    cli = Cli(tmp_path_factory.mktemp("missing"))
    cli.write("relay.py", RELAY)
    server = Server(cli)
    with running(server):
        assert "does not exist yet" in server.get("/").text
        cli.store("digests", 1, "first")
        assert "first" in server.get("/jobs").text
        assert "does not exist yet" not in server.get("/").text


def test_it_is_the_same_on_postgresql(tmp_path_factory: pytest.TempPathFactory) -> None:
    database = postgres.shared()
    postgres.empty(database)
    cli = Cli(tmp_path_factory.mktemp("postgres"))
    cli.write("relay.py", RELAY)
    cli.environ["WORKER_ENGINE_URL"] = f"{database.url}?local_dir={cli.home}/local"
    cli.ok("enqueue", "relay", "deliveries", '{"to": "Ada"}')
    server = Server(cli, "--allow-actions")
    with running(server):
        for path in ("/", "/queue?name=deliveries", "/runs", "/dead", "/bad", "/schedules", "/processes", "/metrics"):
            assert server.get(path).status == 200, path
        (job,) = links(server.get("/jobs").text, "/job?")
        page = server.get(f"{job}&payload=1").text
        assert '"to": "Ada"' in unescape(page)
        assert '"to":"Ada"' in unescape(page)  # as it is stored, in the form of an edited copy
        chosen = re.search(r'name="job" value="([^"]+)"', page)
        assert chosen
        assert "cancelled 1 of 1" in server.post("/act", {"verb": "cancel", "job": chosen[1]}).text
        page = server.get("/jobs?state=cancelled").text
        assert '<option value="cancelled" selected>' in page
        (job,) = links(page, "/job?")
        page = server.get(job).text
        assert 'value="cancel"' not in page
        chosen = re.search(r'name="job" value="([^"]+)"', page)
        assert chosen
        assert "deleted 1 of 1" in server.post("/act", {"verb": "discard", "job": chosen[1]}).text
        assert "No jobs pass." in server.get("/jobs").text


async def test_it_fits_into_an_application(store: Cli) -> None:
    with pytest.raises(UsageError, match="who may see this page"):
        app()

    def who(scope: Any) -> str:
        return str(Headers(scope=scope).get("x-me", ""))

    page = app(url=f"spool:{store.spool}", hosts=("testserver",), actor=who)
    transport = httpx.ASGITransport(Starlette(routes=[Mount("/desk", page)]))
    async with httpx.AsyncClient(transport=transport, base_url="http://testserver", headers={"x-me": "Ada"}) as client:
        assert (await client.get("/desk/", headers={"x-me": ""})).status_code == 401
        answer = await client.get("/desk/")
        assert answer.status_code == 200
        assert "Ada, read-only" in answer.text
        for address in re.findall(r'(?:href|src|action)="([^"]+)"', answer.text):
            assert address.startswith(("/desk/", "#")), address
        assert (await client.get("/desk/static/desk.css")).status_code == 200
        assert (await client.post("/desk/act")).status_code == 403


async def test_the_example_of_the_docs_runs() -> None:
    (source,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/web.md").read_text(), re.DOTALL)
    found: dict[str, Any] = {}
    exec(source, found)
    transport = httpx.ASGITransport(found["site"])
    async with httpx.AsyncClient(transport=transport, base_url="http://jobs.example.com") as client:
        assert (await client.get("/desk/")).status_code == 401
        assert (await client.get("/desk/", headers={"host": "evil.example"})).status_code == 421
        assert "Log in" in (await client.get("/desk/login")).text


def test_files_for_the_browser_are_small() -> None:
    sizes = {path.name: path.stat().st_size for path in (HERE / "static").iterdir()}
    assert sizes["desk.css"] < 12_000
    assert sizes["desk.js"] < 10_000


def test_a_paused_queue_is_marked(store: Cli, plain: Server) -> None:
    store.ok("pause", "relay", "digests")
    try:
        assert "paused: no worker takes its jobs" in plain.get("/queue?name=digests").text
        assert "paused" in plain.get("/").text
    finally:
        store.ok("resume", "relay", "digests")
    assert "paused" not in plain.get("/").text
