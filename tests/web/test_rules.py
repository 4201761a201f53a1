"""Each rule that keeps the page closed, against the real server over real HTTP."""

from __future__ import annotations

import re
import time

import psutil
import pytest

from framework.web.config import Config
from framework.web.sessions import LASTS, Sessions
from tests.support.command import Cli
from tests.web.hostile import HOSTILE_ID
from tests.web.server import FORM, TOKEN, Server

BEARER = {"authorization": f"Bearer {TOKEN}"}
PAGES = ("/", "/queue?name=deliveries", "/jobs", "/runs", "/dead", "/bad", "/schedules", "/processes", "/acts")


def a_letter(server: Server) -> str:
    """The value with which a form names the dead letter."""
    found = re.search(r'name="job" value="([^"]+)"', server.get("/dead").text)
    assert found
    return found[1]


@pytest.mark.parametrize(
    ("args", "token", "said"),
    [
        (("--bind", "0.0.0.0:0"), "", "set WORKER_WEB_TOKEN"),
        (("--bind", "0.0.0.0:0"), TOKEN, "--allow-host"),
        (("--bind", "[::]:0", "--allow-host", "jobs.example"), "", "set WORKER_WEB_TOKEN"),
        ((), "short", "16 or more"),
        (("--proxy", "nowhere"), "", "is no address of a proxy"),
        (("--bind", "everywhere"), "", "is no address"),
        (("--trace-url", "javascript:{trace_id}"), "", "http:// or https://"),
    ],
)
def test_what_would_leave_it_open_is_refused(store: Cli, args: tuple[str, ...], token: str, said: str) -> None:
    result = store.run("web", "relay", *args, env={"WORKER_WEB_TOKEN": token or None})
    assert result.code == 2
    assert said in result.error


def test_it_binds_the_loopback_and_is_read_only(plain: Server) -> None:
    addresses = {one.laddr.ip for one in psutil.Process(plain.process.pid).net_connections() if one.status == "LISTEN"}
    assert addresses == {"127.0.0.1"}
    page = plain.get("/dead")
    assert page.status == 200
    assert 'action="/act"><' not in page.text
    assert "Replay" not in page.text
    answer = plain.post("/act", {"verb": "discard", "all": "1"})
    assert (answer.status, answer.text) == (403, "this page is read-only: start it with --allow-actions\n")


def test_only_names_on_the_list_are_answered(plain: Server) -> None:
    for host in ("evil.example", "127.0.0.1.evil.example", "evil.example:80", "", "127.0.0.1@evil.example"):
        assert plain.ask("/", headers={"host": host}).status in (400, 421), host
    assert plain.ask("/", headers={"host": ["127.0.0.1", "evil.example"]}).status in (400, 421)
    assert plain.ask("/", headers={"host": f"localhost:{plain.port}"}).status == 200


@pytest.mark.parametrize("path", [*PAGES, "/healthz", "/metrics", "/nothing"])
def test_without_the_token_nothing_is_shown(closed: Server, path: str) -> None:
    assert closed.ask(path).status == 401
    assert closed.ask(path, headers={"authorization": f"Bearer {TOKEN}x"}).status == 401
    assert closed.ask(path, headers={"authorization": f"Basic {TOKEN}"}).status == 401
    assert closed.ask(f"{path}{'&' if '?' in path else '?'}token={TOKEN}").status == 401
    person = closed.ask(path, headers={"accept": "text/html"})
    assert (person.status, person.headers["location"]) == (303, "/login")
    assert closed.ask(path, headers=BEARER).status == (404 if path == "/nothing" else 200)


def test_a_login_gives_a_session_that_ends(closed: Server) -> None:
    wrong = closed.post("/login", {"name": "Ada", "token": "wrong"})
    assert (wrong.status, wrong.cookies) == (403, [])
    assert closed.post("/login", {"name": "A", "token": TOKEN}, {"sec-fetch-site": "cross-site"}).status == 403
    answer = closed.post("/login", {"name": "Ada\r\n<b>", "token": TOKEN})
    assert (answer.status, answer.headers["location"]) == (303, "/")
    (cookie,) = answer.cookies
    assert {"HttpOnly", "SameSite=strict", "Path=/", f"Max-Age={LASTS}"} <= set(cookie.split("; "))
    value = cookie.partition(";")[0]
    page = closed.ask("/", headers={"cookie": value})
    assert page.status == 200
    assert "Ada &lt;b&gt;, may act" in page.text
    for other in (value[:-1] + "x", value.replace("=", "=A", 1), "worker_web=", "worker_web=.", "worker_web=e30=.x"):
        assert closed.ask("/", headers={"cookie": other}).status == 401, other
    rules = Config(token=TOKEN)
    for began, status in ((time.time() - LASTS - 1, 401), (time.time() - LASTS + 60, 200)):
        old = Sessions(rules, lambda began=began: began).login(TOKEN, "Eve")  # type: ignore[misc]
        assert closed.ask("/", headers={"cookie": f"worker_web={old}"}).status == status
    stolen = Sessions(Config(token="another-token-0123456789")).login("another-token-0123456789", "Eve")
    assert closed.ask("/", headers={"cookie": f"worker_web={stolen}"}).status == 401


def test_guessing_is_slowed_down(behind: Server, store: Cli) -> None:
    now = [1000.0]
    sessions = Sessions(Config(token=TOKEN), lambda: now[0])
    assert [sessions.login(f"guess {number}", "Eve") for number in range(10)] == [None] * 10
    with pytest.raises(Exception) as refused:
        sessions.login(TOKEN, "Eve")
    assert type(refused.value).__name__ == "TooMany"
    now[0] += 61
    assert sessions.login(TOKEN, "Ada")


def test_only_a_named_proxy_says_who_asks(plain: Server, closed: Server, behind: Server) -> None:
    named = {"x-forwarded-user": "grace"}
    page = closed.ask("/", headers=named)
    assert page.status == 200
    assert "grace, may act" in page.text
    assert closed.ask("/", headers={"x-forwarded-user": ["grace", "root"]}).status == 401
    assert closed.ask("/", headers={"x-forwarded-user": " "}).status == 401
    assert behind.ask("/", headers=named).status == 401  # this machine is not the proxy
    assert behind.ask("/").status == 401
    for header in ("x-forwarded-for", "forwarded", "via"):  # an unnamed proxy makes every stranger look local
        assert plain.ask("/", headers={header: "1.2.3.4"}).status == 403
    assert "grace" not in plain.ask("/login", headers={}).text


def test_a_post_comes_from_the_page_itself(closed: Server) -> None:
    letter = a_letter(closed)
    form = {"verb": "discard", "job": letter}
    session = closed.post("/login", {"name": "Ada", "token": TOKEN}).cookies[0].partition(";")[0]
    refused: list[dict[str, str]] = [
        {"sec-fetch-site": "cross-site"}, {"sec-fetch-site": "same-site"}, {"sec-fetch-site": "none"},
        {"origin": "http://evil.example"}, {"origin": "null"}, {"origin": f"http://127.0.0.1:{closed.port + 1}"},
        {"origin": ""}, {"origin": "", "sec-fetch-site": ""}, {"origin": "http://evil.example", "sec-fetch-site": ""},
        {"content-type": "application/json"}, {"content-type": "text/plain"}, {"content-type": "multipart/form-data"},
    ]  # fmt: skip
    for headers in refused:
        assert closed.post("/act", form, {"cookie": session} | headers).status == 403, headers
        assert closed.post("/act", form, {"x-forwarded-user": "grace"} | headers).status == 403, headers
    assert closed.post("/act", form, BEARER | {"origin": "http://evil.example"}).status == 403
    assert closed.post("/act", form).status == 401
    assert closed.ask("/act", headers=BEARER).status == 405
    for method in ("PUT", "DELETE", "OPTIONS", "TRACE", "PATCH"):
        assert closed.ask("/act", method, headers=BEARER | {"content-length": "0"}).status == 405
    assert a_letter(closed) == letter  # nothing has reached it


def test_every_answer_has_the_headers(plain: Server, closed: Server) -> None:
    answers = [plain.get(path) for path in (*PAGES, "/nothing", "/static/desk.css", "/static/../site.py", "/job?id=x")]
    answers += [
        closed.ask("/"),
        plain.ask("/", headers={"host": "evil"}),
        plain.post("/act", {}),
        plain.ask("/", "PUT"),
    ]
    for answer in answers:
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; ")
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "same-origin"
        assert answer.headers["x-frame-options"] == "DENY"
        assert "server" not in answer.headers
        assert "access-control-allow-origin" not in answer.headers
    assert plain.get("/").headers["cache-control"] == "no-store"
    for path in PAGES:
        text = plain.get(path).text
        assert not re.search(r"<style|\sstyle=|<script(?! src=\"/static/desk\.js\" defer>)|<[^>]+\son\w+=", text), path
        assert not re.search(r"(?:src|href|action)=\"(?!/)", text.replace('href="#main"', "")), path


def test_large_requests_are_refused(closed: Server) -> None:
    assert closed.get(f"/jobs?error={'x' * 9000}").status == 413
    assert closed.post("/act", {"verb": "x" * (1 << 20)}, BEARER).status == 413
    many = [("job", "x")] * 600
    assert closed.post("/act", many, BEARER).status == 400
    for length in ("-1", "9" * 30, "many"):
        headers = BEARER | {"content-type": FORM, "content-length": length}
        assert closed.ask("/act", "POST", "", headers).status in (400, 413)


def test_probes_are_open_only_where_told(plain: Server, closed: Server, behind: Server) -> None:
    assert closed.ask("/healthz").status == 401
    assert behind.ask("/healthz", headers={"host": "pod-1:9"}).text == "ok\n"
    text = behind.ask("/metrics").text
    assert 'worker_web_queue_jobs{queue="digests",state="ready"} 1\n' in text
    assert behind.ask("/").status == 401
    assert plain.ask("/metrics", headers={"host": "pod-1"}).status == 421


def test_hidden_fields_cannot_be_read_or_guessed(closed: Server) -> None:
    page = closed.get("/job?id=plain-ready&payload=1")
    assert page.status == 200
    assert "the-secret-of-all" not in page.text
    assert page.text.count("…hidden…") == 2  # in the payload, in the headers
    assert "<textarea" not in page.text  # an edited copy would store the stars
    guess = closed.get("/jobs?field=password%3Dthe-secret-of-all")
    assert guess.status == 400
    assert "cannot be searched" in guess.text


def test_every_act_says_who_did_it(store: Cli) -> None:
    server = Server(store, "--allow-actions", "--proxy", "127.0.0.1", token=TOKEN)
    server.await_address()
    try:
        letter = a_letter(server)
        session = server.post("/login", {"name": "Ada", "token": TOKEN}).cookies[0].partition(";")[0]
        assert "replayed 1 of 1" in server.post("/act", {"verb": "replay", "job": letter}, {"cookie": session}).text
        again = server.post("/act", {"verb": "replay", "job": letter}, {"x-forwarded-user": "grace"})
        assert "replayed 0 of 1" in again.text
        assert "is no longer there" in again.text
        bare = {"origin": "", "sec-fetch-site": ""}  # a program with the token is no browser
        ready = re.search(r'name="job" value="([^"]+)"', server.get("/job?id=plain-delayed").text)
        assert ready
        assert "deleted 1 of 1" in server.post("/act", {"verb": "discard", "job": ready[1]}, BEARER | bare).text
        assert ">Ada<" in server.get("/acts").text
    finally:
        acts = server.stop()
    assert [(act["verb"], act["queue"], act["count"], act["actor"], act["job_id"]) for act in acts] == [
        ("replay", "dead-letters", 1, "Ada", HOSTILE_ID),
        ("discard", "digests", 1, "token", "plain-delayed"),
    ]
