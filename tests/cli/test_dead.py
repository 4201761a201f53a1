"""`worker dead`: list, show, replay, discard."""

from __future__ import annotations

import re

import pytest

from framework.engine.spool.format import job_file
from tests.spool import poison
from tests.support.command import TRACE_ID, TRACEBACK, Cli
from tests.support.settling import rest


@pytest.fixture
def dead(relay: Cli) -> Cli:
    """Two deliveries wait on the dead-letter queue, one rests there, one digest died without one."""
    relay.store("deliveries", {"to": "rests"}, "rests")
    relay.kill_jobs("deliveries", rest=True)
    for name in ("one", "two"):
        relay.store("deliveries", {"to": name, "weight": None}, name)
    relay.store("digests", 7, "seven")
    relay.kill_jobs("deliveries")
    relay.kill_jobs("digests")
    return relay


def listed(cli: Cli, *args: str) -> list[tuple[str, str, str, str]]:
    return [(row["id"], row["queue"], row["on"], row["state"]) for row in ids(cli, *args)]


def ids(cli: Cli, *args: str) -> list[dict[str, str]]:
    found: list[dict[str, str]] = cli.ok("dead", "list", "relay", "--json", *args).json
    return found


DELIVERIES = [
    ("rests", "deliveries", "dead-letters", "dead"),
    ("one", "deliveries", "dead-letters", "dead"),
    ("two", "deliveries", "dead-letters", "dead"),
]
DIGESTS = [("seven", "digests", "digests", "dead")]


def test_list_by_home_queue(dead: Cli) -> None:
    assert listed(dead) == DELIVERIES + DIGESTS
    assert listed(dead, "--queue", "deliveries") == DELIVERIES
    assert listed(dead, "--queue", "daily_digests") == DIGESTS
    assert listed(dead, "--queue", "dead-letters") == DELIVERIES
    assert listed(dead, "--limit", "1") == DELIVERIES[:1]


def test_list_in_a_pipe(dead: Cli) -> None:
    result = dead.ok("dead", "list", "relay")
    assert result.out.splitlines()[0] == "id\tqueue\ton\tstate\tsince\treason\tattempts\terror"
    *_, row = result.rows
    assert row[:4] == ["seven", "digests", "digests", "dead"]
    assert row[4].endswith("+00:00")
    assert row[5:] == ["error", "1", r"OSError: refused \x1b[31mred again"]
    assert result.err == ""
    assert "\x1b" not in result.out


def test_list_as_json_is_as_promised(dead: Cli) -> None:
    keys = ["id", "queue", "on", "state", "since", "reason", "attempts", "error_type", "message", "after"]
    assert [list(letter) for letter in ids(dead)] == [keys] * 4
    assert "\x1b" not in dead.ok("dead", "list", "relay", "--json").out
    assert dead.ok("dead", "list", "relay", "--json", "--queue", "digests").json[0]["attempts"] == 1


def test_nothing_dead(relay: Cli) -> None:
    relay.ok("enqueue", "relay", "digests", "1")
    assert relay.ok("dead", "list", "relay").rows == []
    assert relay.ok("dead", "list", "relay", "--json").json == []
    assert "no dead letters" in relay.terminal("dead", "list", "relay").out


def test_show(dead: Cli) -> None:
    result = dead.ok("dead", "show", "relay", "two")
    shown = result.out.splitlines()
    assert shown[0] == "two  dead letter of deliveries"
    assert "lies on     dead-letters (dead)" in shown
    assert '      "to": "two",' in shown
    assert any(line.startswith("attempt 1 on deliveries  20") and line.endswith(", took 1.5s") for line in shown)
    assert r"  error       OSError: refused \x1b[31mred again" in shown
    assert f"  trace       {TRACE_ID}" in shown
    assert '      File "relay.py", line 9, in deliver' in shown
    assert r"    OSError: refused \x1b]0;owned\x07" in shown
    assert "\x1b" not in result.out


def test_show_as_json_is_as_promised(dead: Cli) -> None:
    found = dead.ok("dead", "show", "relay", "two", "--json").json
    assert list(found)[9:] == [
        "enqueued_at",
        "payload",
        "payload_bytes",
        "headers",
        "failures",
        "extras",
        "ignored",
        "due",
        "ttl",
        "chosen_id",
    ]
    assert found["payload"] == {"to": "two", "weight": None}
    (failure,) = found["failures"]
    assert (failure["trace_id"], failure["traceback"]) == (TRACE_ID, TRACEBACK)
    assert list(failure) == [
        "attempt", "queue", "delivery", "started_at", "ended_at", "reason", "error_type", "message", "trace_id",
        "span_id", "traceback",
    ]  # fmt: skip


def test_what_a_payload_holds_does_not_act_on_the_terminal(relay: Cli) -> None:
    relay.ok(
        "enqueue", "relay", "deliveries", r'{"to": "\u001b]0;owned\u0007 \u009b31m \u202egnp.exe é"}', "--id", "evil"
    )
    relay.kill_jobs("deliveries")
    shown = relay.terminal("dead", "show", "relay", "evil")
    assert shown.code == 0
    assert not {"\x1b]", "\x07", "\x9b", "\u202e"} & set(shown.out)
    assert "\x1b]" not in shown.out
    assert r"\u001b]0;owned\u0007" in shown.out
    assert r"\x9b31m \u202egnp.exe é" in shown.out
    assert "\x1b[1m" in shown.out  # our own colours do


def test_replay_some(dead: Cli) -> None:
    result = dead.ok("dead", "replay", "relay", "one", "seven", "one")
    assert result.out == "replayed 2 dead letters\n"
    assert listed(dead) == [DELIVERIES[0], DELIVERIES[2]]
    counts = dead.queues()
    assert (counts["deliveries"]["ready"], counts["digests"]["ready"]) == (1, 1)


@pytest.mark.parametrize(("queue", "left", "count"), [("deliveries", DIGESTS, 3), ("digests", DELIVERIES, 1)])
def test_replay_all_of_a_queue(dead: Cli, queue: str, left: list[tuple[str, ...]], count: int) -> None:
    result = dead.ok("dead", "replay", "relay", "--all", "--queue", queue)
    assert result.out == f"replayed {count} dead letter{'s' * (count > 1)}\n"
    assert listed(dead) == left
    assert dead.queues()[queue]["ready"] == count


@pytest.mark.parametrize("verb", ["replay", "discard"])
def test_an_unknown_id_stops_everything(dead: Cli, verb: str) -> None:
    yes = ["--yes"] if verb == "discard" else []
    result = dead.run("dead", verb, "relay", "one", "nobody", "\x1b[31m", *yes)
    assert (result.code, result.out) == (1, "")
    assert result.error == (
        "there is no dead letter 'nobody' (nor 1 more of those given): see `worker dead list`; nothing was done"
    )
    assert listed(dead) == DELIVERIES + DIGESTS
    shown = dead.run("dead", "show", "relay", "one", "--queue", "digests")
    assert shown.error == "there is no dead letter 'one' of digests: see `worker dead list`"


@pytest.mark.parametrize("args", [(), ("--all", "one")])
def test_either_ids_or_all(dead: Cli, args: tuple[str, ...]) -> None:
    for verb in ("replay", "discard"):
        result = dead.run("dead", verb, "relay", *args)
        assert result.code == 2
        assert result.error == "give the ids of dead letters, or --all"


def test_one_id_on_two_queues(relay: Cli) -> None:
    relay.store("deliveries", {"to": "a"}, "same")
    relay.store("digests", 1, "same")
    relay.kill_jobs("deliveries")
    relay.kill_jobs("digests")
    result = relay.run("dead", "replay", "relay", "same")
    assert result.code == 2
    assert result.error == "same is a dead letter of deliveries and of digests: choose with --queue"
    assert relay.ok("dead", "replay", "relay", "same", "--queue", "digests").out == "replayed 1 dead letter\n"
    assert listed(relay) == [("same", "deliveries", "dead-letters", "dead")]


def test_discard_needs_a_yes(dead: Cli) -> None:
    result = dead.run("dead", "discard", "relay", "--all", stdin="y\n")
    assert (result.code, result.out) == (2, "")
    assert result.error == "nothing was deleted: not a terminal: pass --yes to confirm"
    assert listed(dead) == DELIVERIES + DIGESTS


def test_discard_for_ever(dead: Cli) -> None:
    assert dead.ok("dead", "discard", "relay", "--yes", "two").out == "deleted 1 dead letter\n"
    assert (
        dead.ok("dead", "discard", "relay", "--yes", "--all", "--queue", "deliveries").out == "deleted 2 dead letters\n"
    )
    assert listed(dead) == DIGESTS
    assert dead.queues()["deliveries"]["ready"] == 0
    dead.ok("enqueue", "relay", "deliveries", '{"to": "again"}', "--id", "two")  # its id is free again
    assert dead.queues()["deliveries"]["ready"] == 1


@pytest.mark.parametrize(
    ("typed", "code", "left"), [("y\n", 0, 0), ("n\n", 1, 4), ("\n", 1, 4), ("\x03", 130, 4), ("\x04", 1, 4)]
)
def test_a_terminal_is_asked(dead: Cli, typed: str, code: int, left: int) -> None:
    shown = dead.terminal("dead", "discard", "relay", "--all", typed=typed, when="[y/N]: ")
    assert "Delete 4 dead letters for ever? [y/N]" in shown.out
    assert shown.code == code
    assert "Traceback" not in shown.out
    assert ("nothing was deleted" in shown.out) == (typed in ("n\n", "\n"))
    assert len(listed(dead)) == left


def test_a_list_on_a_narrow_terminal(dead: Cli) -> None:
    shown = dead.terminal("dead", "list", "relay", columns=60)
    assert shown.code == 0
    assert "two" in shown.out
    assert "…" in shown.out  # the error is cut to fit
    assert max(len(re.sub("\x1b\\[[0-9;]*m", "", line)) for line in shown.out.splitlines()) <= 60
    assert "reason" not in shown.out
    assert "reason" in dead.terminal("dead", "list", "relay", columns=200).out


def test_a_long_list_on_a_terminal_says_that_there_is_more(relay: Cli) -> None:
    text = "".join(f'{{"to": "{number}"}}\n' for number in range(103))
    relay.ok("enqueue", "relay", "deliveries", "-", stdin=text)
    relay.kill_jobs("deliveries", count=200)
    shown = relay.terminal("dead", "list", "relay")
    assert "these are the first 100: see the others with --limit N, or in a pipe" in shown.out
    assert len(relay.ok("dead", "list", "relay").rows) == 103


def test_what_dies_while_somebody_is_asked_is_not_meant(dead: Cli) -> None:
    def one_more() -> None:
        dead.store("digests", 8, "late")
        assert dead.kill_jobs("digests") == ["late"]

    shown = dead.terminal("dead", "discard", "relay", "--all", typed="y\n", when="[y/N]: ", before=one_more)
    assert shown.code == 0
    assert shown.out.rstrip().endswith("deleted 4 dead letters")
    assert [letter[0] for letter in listed(dead)] == ["late"]


@pytest.mark.parametrize(("verb", "done"), [("replay", "replayed"), ("discard", "deleted")])
def test_a_letter_that_is_being_handled_is_left_alone(dead: Cli, verb: str, done: str) -> None:
    yes = ["--yes"] if verb == "discard" else []
    with dead.broker() as broker:
        (lease,) = broker.claim(["dead-letters"], limit=1, wait=0)
        assert (lease.job.id, "deliveries", "dead-letters", "in_flight") in listed(dead)
        result = dead.run("dead", verb, "relay", "--all", *yes)
        assert (result.code, result.out) == (1, f"{done} 3 dead letters\n")
        assert result.err == (
            f"worker: warning: {lease.job.id} on dead-letters is being handled right now: try again\n"
        )
        rest(broker, lease)
    assert [letter[0] for letter in listed(dead)] == [lease.job.id]


def test_show_says_what_a_dead_letter_holds(cli: Cli) -> None:
    """Its id, if that was chosen, and no unique key; `jobs show` has the key. The command says who holds it."""
    cli.write(
        "once.py",
        "from framework import Queue, Unique, WorkerApp\n\nclass Once(WorkerApp):\n"
        "    digests = Queue[int]('digests')\n"
        "    deliveries = Queue[int]('deliveries', unique=Unique(key=lambda number: f'n{number % 2}'))\n",
    )
    cli.ok("enqueue", "once", "digests", "1", "--id", "mine")
    job_id = cli.ok("enqueue", "once", "deliveries", "1").out.strip()
    again = cli.ok("enqueue", "once", "deliveries", "3")
    assert (again.out.strip(), f"job '{job_id}' has the unique key on deliveries already" in again.err) == (
        job_id,
        True,
    )
    page = cli.ok("jobs", "show", "once", job_id).out.splitlines()
    assert {"unique_key  n1", "unique_scope done"} <= set(page)
    assert not any(line.startswith("holds") for line in page)
    cli.kill_jobs("digests")
    cli.kill_jobs("deliveries")
    page = cli.ok("dead", "show", "once", "mine").out.splitlines()
    assert "holds       its id, which enqueues nothing while it is here" in page
    assert cli.ok("dead", "show", "once", "mine", "--json").json["chosen_id"] is True
    page = cli.ok("dead", "show", "once", job_id).out.splitlines()
    assert "holds       no unique key: another job may have it" in page


def test_show_says_what_else_is_stored(relay: Cli) -> None:
    """The producer's fingerprint, what it does not know, and what it had to ignore."""
    relay.ok("enqueue", "relay", "digests", "1")
    (path,) = (relay.spool / "digests" / "ready").glob("*/*")
    data = path.read_bytes()
    where = job_file.layout(data)
    headers = data[job_file.FIXED_SIZE : job_file.FIXED_SIZE + where.headers].decode()
    (mark,) = re.findall(r'}{"fingerprint":"([0-9a-f]{12})"}$', headers)
    text = headers.replace("}{", '}{"priority":"\\u001b[31mhigh","group":"\\u001b[31mg","later":[1],')
    path.write_bytes(poison.raw(text.encode(), b"1"))
    (job_id,) = relay.kill_jobs("digests")
    found = relay.ok("dead", "show", "relay", job_id, "--json").json
    assert found["extras"] == {"later": [1], "group": "\x1b[31mg", "fingerprint": mark}
    assert found["ignored"] == ["priority"]
    page = relay.ok("dead", "show", "relay", job_id).out.splitlines()
    for line in (r"group       \x1b[31mg", f"fingerprint {mark}", "later       [1]", "ignored     priority"):
        assert line in page
    (path,) = (relay.spool / "digests" / "dead").iterdir()
    path.rename(relay.spool / "digests" / "bad" / path.name)
    assert f"fingerprint {mark}" in relay.ok("bad", "show", "relay", path.name).out
    assert relay.ok("bad", "show", "relay", path.name, "--json").json["extras"]["fingerprint"] == mark
