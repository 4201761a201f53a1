"""`worker check MODULE --against URL`: what of the stored payloads could a new version not read?"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from framework import WorkerApp
from framework.engine.declarations import Declaration, Declarations, DeclaredQueue
from framework.engine.port import Engine, open_engine
from framework.model.extras import Extras
from framework.model.options import QueueOptions
from framework.runner.connecting import connect
from framework.service.settings import load_settings
from tests.support.command import Cli, wait_for
from tests.support.model_changes import COMPATIBLE, INCOMPATIBLE, Change, module

PAGE = Path(__file__).parents[2] / "docs" / "deploying.md"


def load(source: str) -> dict[str, Any]:
    scope: dict[str, Any] = {"__name__": "service"}
    exec(compile(source, "service.py", "exec", dont_inherit=True), scope)
    return scope


@contextmanager
def producing(cli: Cli, app: type[WorkerApp], version: str = "1.0") -> Iterator[None]:
    """A process of this version enqueues."""
    with connect(app, load_settings(engine_url=f"spool:{cli.spool}", version=version)):
        yield


@contextmanager
def open_store(cli: Cli) -> Iterator[Engine]:
    with closing(open_engine(f"spool:{cli.spool}", incarnation="test")) as engine:
        engine.open([QueueOptions("items")])
        yield engine


def put(cli: Cli, body: str, stored: str, version: str = "1.0", count: int = 1, **options: Any) -> None:
    scope = load(module(body))
    app, item = scope["Service"], eval(f"dict({stored})", scope)
    with producing(cli, app, version):
        for _ in range(count):
            app.items.enqueue(scope["Item"](**item), **options)


def check(cli: Cli, *more: str) -> Any:
    return cli.run("check", "service", "--against", f"spool:{cli.spool}", *more)


@pytest.mark.parametrize("change", [*COMPATIBLE, *INCOMPATIBLE], ids=lambda change: change.name)
def test_a_change_of_the_model_is_judged_by_what_is_stored(cli: Cli, change: Change) -> None:
    put(cli, change.old, change.stored)
    cli.write("service.py", module(change.new))
    result = check(cli, "--json")
    (found,) = result.json
    assert (found["queue"], found["version"], found["jobs"], found["tried"]) == ("items", "1.0", 1, 1)
    assert found["causes"] == ([{"cause": change.cause, "count": 1}] if change.cause else [])
    assert result.code == int(change.cause != "")
    assert change.cause in result.err
    assert (result.err != "") == (change.cause != "")
    assert "secret" not in result.out + result.err


def test_there_are_fifteen_of_each() -> None:
    assert len(COMPATIBLE) >= 15
    assert len(INCOMPATIBLE) >= 15


def test_each_version_in_the_store_is_judged_by_itself(cli: Cli) -> None:
    put(cli, "to: str", "to='a'", "1.0", count=3)
    put(cli, "to: str\nn: int", "to='b', n=1", "1.1", count=2, delay=100)
    put(cli, "to: str\nn: int", "to='c', n=1", "1.2")
    cli.write("service.py", module("to: str\nn: int"))
    result = check(cli)
    assert result.code == 1
    rows = [re.sub("[0-9a-f]{12}", "FP", " ".join(row)) for row in result.rows]
    assert rows == [
        "items FP 1.0 3 3 3 n: missing",
        "items FP (this model's) 1.1 2 2 0 -",
        "items FP (this model's) 1.2 1 1 0 -",
    ]
    (warning,) = result.err.splitlines()
    assert re.sub("[0-9a-f]{12}", "FP", warning) == (
        "worker: warning: queue 'items': 3 of 3 payloads (version 1.0, fingerprint FP) cannot be read: n: missing"
    )


def test_only_so_many_are_tried_and_all_are_counted(cli: Cli) -> None:
    put(cli, "to: str", "to='a'", count=5)
    cli.write("service.py", module("url: str"))
    (row,) = check(cli, "--samples", "2").rows
    assert row[3:] == ["5", "2", "2", "url: missing"]
    assert "2 of 2 payloads tried, of 5 jobs" in check(cli, "--samples", "2").err


def test_an_upgrade_function_makes_it_readable(cli: Cli) -> None:
    put(cli, "to: str", "to='a'")
    new = module("url: str")
    cli.write("service.py", new)
    mark = check(cli, "--json").json[0]["fingerprint"]
    upgrade = f"""
@Service.items.upgrade(from_fingerprint={mark!r})
def renamed(old: dict) -> dict:
    return {{"url": old["to"]}}
"""
    cli.write("service.py", new + upgrade)
    result = check(cli)
    assert (result.code, result.err) == (0, "")
    assert result.rows == [["items", f"{mark} (upgraded)", "1.0", "1", "1", "0", "-"]]
    cli.write("service.py", new + upgrade.replace('old["to"]', 'old["secret"]'))
    result = check(cli)
    assert result.code == 1
    assert result.rows[0][-1] == "upgrade function at service.py:24: KeyError"


def test_a_payload_that_a_person_has_edited_counts_as_one_of_the_new_model(cli: Cli) -> None:
    """Else an upgrade function would get what is upgraded already."""
    put(cli, "to: str", "to='a'", job_id="first")
    cli.write("service.py", module("url: str") + '\nService.items.upgrade(from_version="1.0")(lambda old: {})\n')
    cli.ok("jobs", "edit", "service", "first", '{"url":"b"}', env={"WORKER_VERSION": "2.0"})
    (row,) = check(cli).rows
    assert (row[1].partition(" ")[2], row[2], row[5]) == ("(this model's)", "2.0", "0")


def test_a_queue_that_the_service_drops_while_it_has_jobs_is_trouble(cli: Cli) -> None:
    """Those of other services, and of none, are only listed."""
    put(cli, "to: str", "to='a'", count=2)
    for name in ("mine", "others", "lost"):
        (cli.spool / "items").rename(cli.spool / name)
        put(cli, "to: str", "to='a'", count=2)
    with open_store(cli) as engine:
        assert isinstance(engine, Declarations)
        engine.declare(Declaration("service:Service", "1.0", {"mine": DeclaredQueue(), "items": DeclaredQueue()}))
        engine.declare(Declaration("other:Other", "1.0", {"others": DeclaredQueue()}))
    cli.write("service.py", module("to: str"))
    result = check(cli)
    assert result.code == 1
    assert [(row[0], row[3], row[-1]) for row in result.rows] == [
        ("items", "2", "-"),
        ("lost (not declared)", "2", "no service has declared it"),
        ("mine (not declared)", "2", "declared by service:Service"),
        ("others (not declared)", "2", "declared by other:Other"),
    ]
    (warning,) = result.err.splitlines()
    assert "queue 'mine' has 2 jobs, and this version of the service does not declare it any more" in warning
    assert [(one["queue"], one["declared"], one.get("declared_by")) for one in check(cli, "--json").json] == [
        ("items", True, None),
        ("lost", False, []),
        ("mine", False, ["service:Service"]),
        ("others", False, ["other:Other"]),
    ]


def test_it_looks_while_workers_run(cli: Cli) -> None:
    put(cli, "to: str", "to='a'", count=3, delay=1000)
    cli.write("service.py", module("to: str"))
    with cli.running("run", "service", env={"WORKER_LOG_FORMAT": "json"}) as tree:
        wait_for(tree, "process_ready")
        cli.write("service.py", module("url: str"))
        result = check(cli)
    assert (result.code, result.rows[0][3:]) == (1, ["3", "3", "3", "url: missing"])


def test_what_another_version_has_written_cannot_harm_a_terminal(cli: Cli) -> None:
    put(cli, "to: str", "to='a'")
    cli.write("service.py", module("url: str"))
    with open_store(cli) as engine:
        (lease,) = engine.claim(["items"], limit=1, wait=0)
        extras = Extras(fingerprint="\x1b[31m", version="1\x1b]0;x\x07\u202e")
        engine.enqueue([replace(lease.job, id="other", extras=extras)])
        engine.release([lease])
    for more in ((), ("--json",)):
        result = check(cli, *more)
        assert result.code == 1
        assert not set("\x1b\x07\u202e") & set(result.out + result.err)
    assert "\x1b" not in cli.terminal("check", "service", "--against", f"spool:{cli.spool}").out.replace("\x1b[", "")


def test_it_changes_nothing(cli: Cli) -> None:
    """The new version declares another queue, and handles dead letters where the old one does not, and back."""
    old = module("to: str").replace('("items")', '("items", dead_letter=dead)')
    old = old.replace("    items =", '    dead = Queue[DeadLetter]("dead")\n    items =').replace(
        "import Q", "import DeadLetter, Q"
    )
    handler = "\n    @dead.handler\n    def look(self, letter: DeadLetter) -> None: ...\n"
    new = old + handler + '\n    more = Queue[int]("more")\n'
    for before, after in ((old, new), (new, old)):
        cli.write("service.py", before)
        cli.ok("queues", "service")
        cli.ok("enqueue", "service", "items", '{"to":"a"}')
        seen = files(cli.spool)
        cli.write("service.py", after)
        assert check(cli).code == 0
        assert files(cli.spool) == seen


def files(root: Path) -> dict[str, float]:
    return {str(path.relative_to(root)): path.stat().st_mtime for path in root.rglob("*")}


def test_damaged_files_are_left_to_worker_bad(cli: Cli) -> None:
    put(cli, "to: str", "to='a'", count=2)
    (one, _) = sorted((cli.spool / "items" / "ready").glob("*/*"))
    one.write_bytes(b"?" * 100)
    cli.write("service.py", module("to: str"))
    result = check(cli)
    assert (result.code, result.rows[0][3:]) == (0, ["1", "1", "0", "-"])


def test_an_empty_url_is_the_store_of_the_settings(cli: Cli) -> None:
    put(cli, "to: str", "to='a'")
    cli.write("service.py", module("url: str"))
    assert cli.run("check", "service", "--against=").rows == check(cli).rows


def test_a_store_that_does_not_exist_is_refused_and_an_empty_one_is_not(cli: Cli) -> None:
    """Regression: a mistyped path passed the pipeline with a warning."""
    cli.write("service.py", module("to: str"))
    for more in ((), ("--json",)):
        result = cli.run("check", "service", "--against", "spool:./nowhere", *more)
        assert (result.code, result.out) == (2, "")
        assert result.error == (
            "--against='spool:./nowhere': there is no such directory: give the URL of the running service"
        )
    assert not (cli.home / "nowhere").exists()
    (cli.home / "empty").mkdir(mode=0o700)
    assert cli.ok("check", "service", "--against", "spool:./empty", "--json").json == []


@pytest.mark.parametrize(
    ("args", "code", "error"),
    [
        (("--against",), 2, "requires an argument"),
        (
            ("--against", "nonsense"),
            2,
            "--against='nonsense': this is no URL of an engine; it begins with one of spool:",
        ),
        (("--against", "spool:"), 2, "write spool:DIR"),
        (("--against", "memory:"), 2, "lives in one process"),
        (("--against", "spool:/dev/null"), 3, "/dev/null"),
        (("--samples", "5"), 2, "--samples is for --against URL"),
        (("--json",), 2, "--json is for --against URL"),
        (("--against", "spool:x", "--samples", "0"), 2, "0 is not in the range x>=1"),
        (("--against", "spool:x", "--samples", "many"), 2, "'many' is not a valid integer"),
    ],
)
def test_a_wrong_option_is_one_clear_line(cli: Cli, args: tuple[str, ...], code: int, error: str) -> None:
    cli.write("service.py", module("to: str"))
    result = cli.run("check", "service", *args)
    assert (result.code, result.out) == (code, "")
    assert error in result.error


def test_the_example_of_the_page_prints_what_it_says(cli: Cli) -> None:
    page = PAGE.read_text(encoding="utf-8")
    section = page.partition("## Payloads of two versions")[2].partition("\n## ")[0]
    old, new = re.findall(r"^```python\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)[:2]
    scope = load(old)
    with producing(cli, scope["Shop"], "1.4"):
        scope["Shop"].orders.enqueue_many([scope["Order"](address=f"no. {n}", milliseconds=n) for n in range(12)])
    ((command, shown),) = re.findall(r"^```\n\$ worker (.*)\n((?:.*\n)*?)```$", section, re.MULTILINE)
    before, after = shown.split("$ echo $?\n1\n")
    cli.write("shop.py", re.sub("    @orders.upgrade.*(?=    @orders.handler)", "", new, flags=re.DOTALL))
    assert command == "check shop --against spool:spool"
    for text, code in ((before, 1), (after.partition("\n")[2], 0)):
        result = cli.run(*command.split())
        assert result.code == code
        assert words(result.out + result.err) == words(text)
        cli.write("shop.py", new)


def words(text: str) -> list[list[str]]:
    return [re.sub("[0-9a-f]{12}", "FP", line).split() for line in text.splitlines()]
