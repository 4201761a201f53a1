"""`worker top` where there is no terminal to draw on: tables, JSON, one line for what is missing."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.support.screen import Screen
from tests.support.tree import HERE, Tree
from tests.support.warm import WORKER
from tests.top.conftest import MODULE, environ
from tests.top.shop import HOSTILE, Shop


def _run(tree: Tree, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [WORKER, "top", *args], capture_output=True, text=True, cwd=HERE, env=environ(tree) | env, timeout=60
    )


def test_a_pipe_gets_three_tables_and_the_json_of_the_other_commands(tree: Tree) -> None:
    tree.start(module=MODULE)
    tree.enqueue(Shop.orders, "one")
    job_id = str(tree.enqueue(Shop.reports, "long"))
    tree.wait_ledger("start long")
    tree.wait(lambda: "1\torders\terror\tValueError" in _run(tree, MODULE).stdout, "the failure")
    tree.wait(lambda: f"{job_id}\treports\treports/0" in _run(tree, MODULE).stdout, "the run")
    done = _run(tree, MODULE)
    assert (done.returncode, done.stderr) == (0, "")
    at, *tables = done.stdout.rstrip("\n").split("\n\n")
    assert at.startswith("20")
    assert len(tables) == 2
    assert "\x1b" not in done.stdout
    found = json.loads(_run(tree, MODULE, "--json").stdout)
    assert (found["silent"], found["problems"]) == (False, [])
    assert {"rate", "ready", "paused"} <= found["queues"][0].keys()
    (run,) = found["running"]
    assert (run["id"], run["worker"], run["progress"]["done"]) == (job_id, "reports/0", 3)
    (group,) = found["failures"]
    assert (group["queue"], group["count"], group["message"]) == ("orders", 1, HOSTILE)


def test_with_an_interval_it_prints_one_line_of_json_after_the_other_until_ctrl_c(spool: Tree) -> None:
    with subprocess.Popen(
        [WORKER, "top", MODULE, "--interval", "0.1", "--json"], cwd=HERE, env=environ(spool), stdout=subprocess.PIPE,
        text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        first, second = (json.loads(process.stdout.readline()) for _ in range(2))
        assert (first["silent"], first["seen"]) == (True, None)
        assert first["at"] < second["at"]
        process.send_signal(2)
        assert process.wait(60) == 130


def test_without_the_extra_one_line_says_what_to_install_and_a_pipe_needs_nothing(spool: Tree, tmp_path: Path) -> None:
    (tmp_path / "without").mkdir()
    (tmp_path / "without/textual.py").write_text("raise ModuleNotFoundError(name=__name__)")
    env = environ(spool) | {"PYTHONPATH": f"{tmp_path / 'without'}:{spool.environ['PYTHONPATH']}"}
    with Screen("top", MODULE, cwd=HERE, env=env, columns=200) as screen:
        screen.see("worker: error: the terminal view needs textual: pip install 'continuum-worker[top]'")
        assert screen.ended() == 2
    assert _run(spool, MODULE, PYTHONPATH=env["PYTHONPATH"]).returncode == 0


@pytest.mark.parametrize(
    ("args", "code", "error"),
    [
        (("--url", "memory:"), 2, "lives in one process"),
        (("--url", "nowhere:x"), 2, "nowhere"),
        (("no.such.module",), 2, "no module no"),
        (("a", "b"), 2, "expected MODULE, got 2 arguments"),
        (("--interval", "0"), 2, "--interval"),
    ],
)
def test_what_is_wrong_is_one_line(spool: Tree, args: tuple[str, ...], code: int, error: str) -> None:
    done = _run(spool, *args)
    assert (done.returncode, done.stdout) == (code, "")
    assert error in done.stderr
    assert len(done.stderr.splitlines()) == 1
