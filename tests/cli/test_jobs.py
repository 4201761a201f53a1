"""`worker jobs`, lists that go on, filters, and a store without its service."""

from __future__ import annotations

import json
import os
import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from framework.model.fan_in import Ended, as_member
from framework.model.job import Job
from tests.support.command import Cli


@pytest.fixture
def shop(relay: Cli) -> Cli:
    """A ready job, a delayed one, and dead letters of two queues."""
    for name in ("one", "two", "three"):
        relay.store("deliveries", {"to": name, "address": {"city": name[:1], "lines": [name]}}, name)
    relay.store("digests", 7, "seven")
    relay.kill_jobs("deliveries")
    relay.kill_jobs("digests")
    relay.store("digests", 8, "eight")
    relay.ok("enqueue", "relay", "digests", "9", "--delay", "3600", "--id", "later")
    return relay


def ids(cli: Cli, *args: str, env: dict[str, str | None] | None = None) -> list[str]:
    found: list[dict[str, Any]] = cli.ok(*args, "--json", env=env).json
    return [job["id"] for job in found]


def test_jobs_of_every_state_by_pages_and_filters(shop: Cli) -> None:
    every = ["one", "two", "three", "eight", "later", "seven"]
    assert ids(shop, "jobs", "list", "relay") == every
    found = shop.ok("jobs", "list", "relay", "--json", "--limit", "4").json
    assert [job["id"] for job in found] == every[:4]
    assert ids(shop, "jobs", "list", "relay", "--after", found[-1]["after"]) == every[4:]
    for options, expected in (
        (("--state", "ready", "--state", "delayed"), ["eight", "later"]),
        (("--queue", "digests", "--state", "dead"), ["seven"]),
        (("--reason", "error", "--error", "REFUSED", "--queue", "deliveries"), every[:3]),
        (("--field", "address.city=t", "--field", "address.lines.0=two"), ["two"]),
        (("--older", "1h"), []),
        (("--younger", "1h", "--state", "delayed"), ["later"]),
    ):
        assert ids(shop, "jobs", "list", "relay", *options) == expected, options
    assert ids(shop, "dead", "list", "relay", "--field", "to=two") == ["two"]
    for options, complaint in (
        (("--field", "x"), "--field 'x': write it as PATH=TEXT"),
        (("--older", "soon"), "--older 'soon' is no age"),
        (("--after", "nonsense"), "'nonsense' is no position in this list"),
        (("--after", "digests:ready:x"), "'x' is no position in a list"),
        (("--queue", "digest"), "Relay has no queue 'digest'; did you mean 'digests'?"),
    ):
        result = shop.run("jobs", "list", "relay", *options)
        assert result.code == 2, options
        assert complaint in result.error


def test_one_job_is_shown_in_any_state(shop: Cli) -> None:
    for job_id, state, payload in (("eight", "ready", 8), ("later", "delayed", 9), ("seven", "dead", 7)):
        found = shop.ok("jobs", "show", "relay", job_id, "--json").json
        assert (found["id"], found["state"], found["payload"]) == (job_id, state, payload)
    assert shop.ok("jobs", "show", "relay", "eight").out.splitlines()[0] == "eight  job of digests"
    assert shop.run("jobs", "show", "relay", "nine").error == (
        "there is no job 'nine': it has ended, or was never in this store"
    )


def test_all_that_was_given_with_a_job_is_shown(relay: Cli) -> None:
    relay.ok(
        "enqueue", "relay", "digests", "1", "--id", "one", "--run-at", "2999-01-31T12:00:00Z", "--ttl", "60",
        "--header", "tenant=acme", "--max-retries", "2",
    )  # fmt: skip
    found = relay.ok("jobs", "show", "relay", "one", "--json").json
    assert (found["due"], found["ttl"], found["headers"]["tenant"]) == ("2999-01-31T12:00:00.000+00:00", 60.0, "acme")
    page = relay.ok("jobs", "show", "relay", "one").out
    for line in ("due         2999-01-31T12:00:00.000+00:00", "ttl         1m", "headers", "    tenant: acme"):
        assert f"\n{line}\n" in page
    (retry,) = re.findall(r"retry       (.*)", page)
    assert retry.startswith("max_retries 2, ")
    assert "{" not in retry


def test_retry_discard_and_edit(shop: Cli) -> None:
    for verb in (("retry",), ("discard", "--yes")):
        refused = shop.run("jobs", *verb, "relay", "seven", "nope")
        assert (refused.code, refused.out) == (1, "")
        assert refused.error.startswith("there is no job 'nope'")
        assert refused.error.endswith("; nothing was done")
    result = shop.run("jobs", "retry", "relay", "one", "eight")
    assert (result.code, result.out) == (1, "returned 1 job\n")
    assert "eight on digests is ready, no dead letter: it runs by itself" in result.err
    assert shop.run("jobs", "retry", "relay", "one", "nine").code == 1
    assert shop.run("jobs", "discard", "relay", "eight").error == (
        "nothing was deleted: not a terminal: pass --yes to confirm"
    )
    assert shop.ok("jobs", "discard", "relay", "eight", "later", "--yes").out == "deleted 2 jobs\n"
    assert "payload does not fit" in shop.run("jobs", "edit", "relay", "seven", '"no number"').error
    assert "is not strict JSON" in shop.run("jobs", "edit", "relay", "seven", "{").error
    copy = shop.ok("jobs", "edit", "relay", "seven", "-", stdin="70\n").out.strip()
    found = shop.ok("jobs", "show", "relay", copy, "--json").json
    assert (found["queue"], found["state"], found["payload"], found["attempts"]) == ("digests", "ready", 70, 0)
    assert shop.run("jobs", "show", "relay", "seven").code == 1
    kept = shop.ok("jobs", "edit", "relay", copy, "71", "--keep").out.strip()
    assert ids(shop, "jobs", "list", "relay", "--state", "ready", "--queue", "digests") == [copy, kept]


def test_the_copy_of_an_edited_member_belongs_to_no_fan_in(relay: Cli) -> None:
    """The job itself ends as discarded, so the copy must not end for it a second time, nor before a kept one does."""
    name = "ab" * 16
    member = Job("m", os.urandom(16), "digests", b"2", {}, time.time(), chosen_id=True)
    with relay.broker() as broker:
        broker.fan_ins.begin("digests", replace(member, id=name, chosen_id=False))  # type: ignore[attr-defined]
        broker.fan_ins.grow("digests", name, 1)  # type: ignore[attr-defined]
        broker.enqueue([as_member(member, name, 0)])
    assert relay.ok("jobs", "show", "relay", "m", "--json").json["extras"]["fan_in"] == f"{name}/0"
    kept = relay.ok("jobs", "edit", "relay", "m", "3", "--keep").out.strip()
    copy = relay.ok("jobs", "edit", "relay", "m", "4").out.strip()
    for one in (kept, copy):
        assert name not in relay.ok("jobs", "show", "relay", one, "--json").out
    with relay.broker() as broker:
        assert broker.fan_ins.look("digests", name).ended == Ended(discarded=1)  # type: ignore[attr-defined]


def test_cancel(shop: Cli) -> None:
    shop.ok("dead", "replay", "relay", "one", "two")
    asked = shop.run("jobs", "cancel", "relay", "eight")
    assert (asked.code, asked.error) == (2, "nothing was cancelled: not a terminal: pass --yes to confirm")
    refused = shop.run("jobs", "cancel", "relay", "eight", "nope", "--yes")
    assert (refused.code, refused.out) == (1, "")
    assert refused.error.startswith("there is no job 'nope'")
    assert refused.error.endswith("; nothing was done")
    assert shop.ok("jobs", "cancel", "relay", "eight", "later", "--yes").out == "cancelled 2 jobs\n"
    assert ids(shop, "jobs", "list", "relay", "--state", "cancelled") == ["eight", "later"]
    again = shop.ok("jobs", "cancel", "relay", "eight", "--yes")
    assert again.out == "cancelled 1 job\n", "twice is once"
    retried = shop.run("jobs", "retry", "relay", "eight").err
    assert "eight on digests is cancelled, no dead letter: it never runs again" in retried
    dead = shop.run("jobs", "cancel", "relay", "three", "--yes")
    assert (dead.code, dead.out) == (1, "cancelled 0 jobs\n")
    assert "three on dead-letters is a dead letter, which does not run: delete it with discard" in dead.err
    assert shop.run("jobs", "cancel", "relay", "--yes").error == "give the ids of jobs, or --all"
    assert shop.ok("jobs", "cancel", "relay", "--field", "to=two", "--yes").out == "cancelled 1 job\n"
    assert shop.ok("jobs", "cancel", "relay", "--all", "--yes").out == "cancelled 1 job\n"
    assert ids(shop, "jobs", "list", "relay", "--state", "ready", "--state", "delayed") == []
    shown = shop.ok("jobs", "show", "relay", "eight", "--json").json
    assert (shown["state"], shown["payload"]) == ("cancelled", 8)
    assert shop.ok("jobs", "discard", "relay", "eight", "--yes").out == "deleted 1 job\n"
    shop.store("digests", 9, "later")
    assert shop.ok("jobs", "show", "relay", "later", "--json").json["state"] == "ready", (
        "the id is another job's by now"
    )


def test_a_store_is_looked_at_without_its_service(shop: Cli) -> None:
    """Nothing is imported, and nothing that lies there is hidden."""
    (shop.home / "relay.py").unlink()
    url = f"spool:{shop.spool}"
    bare: dict[str, str | None] = {"WORKER_ENGINE_URL": None}
    found = {queue["queue"]: queue for queue in shop.ok("queues", "--url", url, "--json", env=bare).json}
    assert {name: (queue["ready"], queue["dead"]) for name, queue in found.items()} == {
        "dead-letters": (0, 3), "digests": (1, 1),
    }  # fmt: skip
    assert [found["digests"][key] for key in ("declared", "handler", "seen")] == [None, None, None]
    assert found["dead-letters"]["dead_letters"] is True
    assert set(ids(shop, "dead", "list", "--url", url, env=bare)) == {"one", "two", "three", "seven"}
    assert ids(shop, "jobs", "list", "--state", "delayed") == ["later"]  # the store is that of WORKER_ENGINE_URL
    assert shop.ok("jobs", "show", "two", "--json").json["payload"]["to"] == "two"
    assert shop.ok("dead", "replay", "two", "seven").out == "replayed 2 dead letters\n"
    assert ids(shop, "jobs", "list", "--queue", "digests", "--state", "ready") == ["eight", "seven"]
    assert "expected MODULE, got no argument" in shop.run("queues", env=bare).error
    assert "MODULE is missing: name it first" in shop.run("dead", "replay", env=bare).error
    assert shop.run("jobs", "list", "--url", "nonsense:").code == 2


def test_groups_and_a_replay_at_a_rate(shop: Cli) -> None:
    found = shop.ok("dead", "groups", "relay", "--json").json
    assert [(one["queue"], one["reason"], one["error_type"], one["count"]) for one in found] == [
        ("deliveries", "error", "OSError", 3),
        ("digests", "error", "OSError", 1),
    ]
    assert [row[:4] for row in shop.ok("dead", "groups", "relay").rows][1] == ["digests", "error", "OSError", "1"]
    assert "'often' is no rate" in shop.run("dead", "replay", "relay", "--all", "--rate", "often").error
    result = shop.ok("dead", "replay", "relay", "--error", "refused", "--queue", "deliveries", "--rate", "1000/s")
    assert result.out == "replayed 3 dead letters\n"
    assert ids(shop, "dead", "list", "relay") == ["seven"]


def test_what_people_do_is_logged_once_with_who_did_it(shop: Cli) -> None:
    """By the maintenance of the next tree, because a command ends before it could send anything."""
    ada = {"WORKER_ACTOR": "ada\x1b[31m"}
    shop.ok("dead", "replay", "relay", "one", "two", env=ada)
    shop.ok("jobs", "discard", "relay", "eight", "--yes", env=ada)
    with shop.running("run", "relay", env={"WORKER_LOG_FORMAT": "json"}) as tree:
        assert tree.stdout is not None
        acts = []
        for line in tree.stdout:
            assert "\x1b" not in line
            if "operator_acted" in line:
                acts.append(json.loads(line))
                if len(acts) == 2:
                    break
        tree.terminate()
        assert "operator_acted" not in tree.stdout.read()
        tree.wait()
    assert f"supervisor {tree.pid} of Relay has ended" in shop.run("ps").err
    assert [(act["verb"], act["queue"], act["count"], act["job_id"]) for act in acts] == [
        ("replay", "dead-letters", 2, ""),
        ("discard", "digests", 1, "eight"),
    ]
    assert {act["actor"] for act in acts} == {"ada[31m"}


def test_what_a_job_holds_does_not_act_on_the_terminal(relay: Cli) -> None:
    evil = "\x1b]0;owned\x07"
    relay.store("deliveries", {"to": evil}, f"id{evil}")
    for verb in (("jobs", "list", "relay"), ("jobs", "show", "relay", f"id{evil}")):
        shown = relay.ok(*verb).out
        assert r"id\x1b]0;owned\x07" in shown
        assert "\x1b" not in shown
        assert "\x1b" not in relay.ok(*verb, "--json").out
    assert json.loads(relay.ok("jobs", "list", "relay", "--json").out)[0]["id"] == f"id{evil}"


def test_names_of_queues_are_completed(shop: Cli) -> None:
    words = {"_WORKER_COMPLETE": "bash_complete", "COMP_WORDS": "worker jobs list --queue d", "COMP_CWORD": "4"}
    shown = shop.run(env=words).out
    assert shown.splitlines() == ["plain,dead-letters", "plain,deliveries", "plain,digests"]


def test_the_commands_of_the_page_print_what_it_says(shop: Cli) -> None:
    """The page shows no times and no escapes of its own."""
    page = (Path(__file__).parents[2] / "docs" / "operating.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```\n\$ worker (.*)\n((?:.*\n)*?)```", page)
    assert len(blocks) == 3
    for command, shown in blocks:
        said = shop.ok(*command.split()).out.replace(r" \x1b[31mred again", "")
        assert moments(said) == moments(shown), command


def moments(text: str) -> str:
    return re.sub(r"\d{4}-\d\d-\d\dT[\d:.+]+|\b\d+(\.\d+)?s\b", "TIME", text)


def test_ps_shows_what_runs_and_says_when_nothing_does(relay: Cli) -> None:
    relay.write("slow.py", SLOW)
    result = relay.run("ps")
    assert (result.code, "no supervisor has left a board at" in result.err) == (1, True)
    relay.ok("enqueue", "slow", "naps", "60", "--id", "nap-1")
    with relay.running("run", "slow", env={"WORKER_DRAIN": "1"}) as tree:
        assert tree.stdout is not None
        assert any("napping" in line for line in tree.stdout)
        deadline = time.monotonic() + 30
        while not (runs := running(relay)) and time.monotonic() < deadline:  # the board's copy is renewed each turn
            time.sleep(0.1)
        ((slot, job),) = runs
        assert (job["id"], job["queue"], job["handler"], job["delivery"]) == ("nap-1", "naps", "nap", 1)
        assert slot["state"] == "ready"
        assert slot["memory"] > 1 << 20
        assert job["since"] < job["soft"] < job["hard"]
        row = next(row for row in relay.ok("ps", "slow").rows if row[5] == "nap-1")
        assert row[:3] == [slot["slot"], str(slot["pid"]), "ready"]
        (shown,) = relay.ok("ps", "--json").json
        assert (shown["app"], shown["supervisor"], shown["alive"], shown["deadline"]) == ("Slow", tree.pid, True, None)
    result = relay.run("ps")
    assert (result.code, result.rows) == (1, [])
    assert f"supervisor {tree.pid} of Slow is dead" in result.err


def running(cli: Cli) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    return [
        (one, job) for tree in cli.run("ps", "slow", "--json").json for one in tree["processes"] for job in one["jobs"]
    ]


SLOW = """
import time
from framework import Queue, WorkerApp

class Slow(WorkerApp):
    naps = Queue[int]("naps", timeout=100)

    @naps.handler
    def nap(self, seconds: int) -> None:
        print("napping", flush=True)
        time.sleep(seconds)
"""


def test_a_module_that_is_not_there_is_named_where_it_was_taken_for_an_id(shop: Cli) -> None:
    for command in (("jobs", "cancel"), ("jobs", "retry"), ("jobs", "discard"), ("dead", "replay")):
        for given in ({"WORKER_MODULE": "relay"}, {"WORKER_ENGINE_URL": f"spool:{shop.spool}"}):
            refused = shop.run(*command, "nomodule", "one", env=given)
            assert (refused.code, refused.out) == (1, "")
            assert refused.error.startswith("there is no ")
            assert "; nothing was done; nor is there a module nomodule (searched from /" in refused.error
    both = shop.run("jobs", "cancel", "nomodule", "--all", "--yes", env={"WORKER_MODULE": "relay"})
    assert both.code == 2
    assert both.error == "give the ids of jobs, or --all: 'nomodule' is taken for an id, beside --all or a filter"
