"""Two versions of a service side by side, and two services that declare one queue."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from framework.runner.connecting import connect
from framework.service.settings import Settings
from tests.support import postgres
from tests.support.cluster import Cluster
from tests.support.processes import wait_until
from tests.support.tree import PATIENCE, Tree, open_store

MODULE = "rolled"
_SERVICE = """\
from pydantic import BaseModel
from framework import Queue, WorkerApp
from tests.support.ledger import note

class Item(BaseModel):
    {field}

class {app}(WorkerApp):
    items = Queue[Item]("items", grace={grace})

    @items.handler
    def handle(self, item: Item) -> None:
        note(f"{app} {{item.{name}}}")
"""
_UPGRADE = """
@Rolled.items.upgrade(from_version="1")
def with_a_serial(old: dict) -> dict:
    return {"serial": f"no. {old['number']}"}
"""
FIRST = _SERVICE.format(field="number: int", app="Rolled", name="number", grace=600)
SECOND = _SERVICE.format(field="serial: str", app="Rolled", name="serial", grace=600) + _UPGRADE


def write(place: Path, version: str, source: str, module: str = MODULE) -> str:
    """A source tree of its own; its PYTHONPATH."""
    (place / version).mkdir(exist_ok=True)
    (place / version / f"{module}.py").write_text(source)
    return os.pathsep.join([str(place / version), os.environ.get("PYTHONPATH", "")])


def load(source: str) -> dict[str, Any]:
    scope: dict[str, Any] = {"__name__": "here"}
    exec(compile(source, "here.py", "exec", dont_inherit=True), scope)
    return scope


def settings_of(root: Path, version: str) -> Settings:
    return Settings(engine_url=f"spool:{root}", durability="process", version=version)


class Producing(threading.Thread):
    """A producer of one version, which enqueues until it is told to stop."""

    def __init__(self, root: Path, source: str, version: str) -> None:
        super().__init__(name=f"version {version}")
        self._root, self._scope, self._version = root, load(source), version
        self.stop = threading.Event()
        self.count = 0

    def run(self) -> None:
        queue, item = self._scope["Rolled"].items, self._scope["Item"]
        with connect(self._scope["Rolled"], settings_of(self._root, self._version)):
            while not self.stop.wait(0.01):
                number = self.count
                queue.enqueue(item(number=number) if self._version == "1" else item(serial=f"new {number}"))
                self.count += 1


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    found = Cluster(tmp_path, MODULE, WORKER_LOG_LEVEL="info", OTEL_SDK_DISABLED="true")
    yield found
    found.close()


def test_a_rolling_deploy_loses_no_job(cluster: Cluster, tmp_path: Path) -> None:
    """Both versions work and enqueue at the same time; one old tree is killed."""
    old, new = write(tmp_path, "1", FIRST), write(tmp_path, "2", SECOND)
    producers = [Producing(cluster.root, FIRST, "1"), Producing(cluster.root, SECOND, "2")]
    running = [cluster.start_tree(PYTHONPATH=old, WORKER_VERSION="1") for _ in range(2)]
    wait(lambda: all(map(cluster.ready, running)), "both old trees")
    for producer in producers:
        producer.start()
    unread = "cannot be read by this version"
    try:
        wait(lambda: any(unread in event["event"] for tree in running for event in tree.events()), unread)
        for tree, end in zip(running, (signal.SIGKILL, signal.SIGTERM), strict=True):
            replacement = cluster.start_tree(PYTHONPATH=new, WORKER_VERSION="2")
            wait(lambda now=replacement: cluster.ready(now), "a new tree")  # type: ignore[misc]
            tree.signal(end)
            assert tree.exit_code() == (0 if end == signal.SIGTERM else -9)
    finally:
        for producer in producers:
            producer.stop.set()
            producer.join(PATIENCE)
    wanted = {f"new {n}" for n in range(producers[1].count)} | {str(n) for n in range(producers[0].count)}
    wait(lambda: done(tmp_path) >= wanted, "every job")
    assert done(tmp_path) == wanted
    with closing(open_store(load(SECOND)["Rolled"], f"spool:{cluster.root}")) as store:
        wait(lambda: store.stats("items").jobs == 0, "nothing to be left")
        assert store.stats("items").dead == 0
    assert cluster.facts.tracebacks == []


def done(place: Path) -> set[str]:
    """What ran: numbers of version 1, also where version 2 has upgraded them, and texts of version 2."""
    lines = (place / "ledger").read_text().splitlines()
    return {line.removeprefix("Rolled ").removeprefix("no. ") for line in lines}


def wait(happened: Any, what: str) -> None:
    assert wait_until(happened, PATIENCE), f"waited {PATIENCE} s for {what}"


def test_after_the_grace_it_is_a_dead_letter(tree: Tree, tmp_path: Path) -> None:
    """Only the old version runs, and the new one was never deployed."""
    path = write(tmp_path, "1", _SERVICE.format(field="number: int", app="Rolled", name="number", grace=3))
    tree.start(module=MODULE, PYTHONPATH=path, WORKER_VERSION="1", fresh=True)
    scope = load(SECOND)
    with connect(scope["Rolled"], settings_of(tree.root, "2")):
        scope["Rolled"].items.enqueue(scope["Item"](serial="secret"))
    first = tree.wait_event("job_finished")
    assert (first["outcome"], first["message"]) == ("released", "put back for a newer version: number: missing")
    last = tree.wait_event("job_finished", outcome="dead_lettered")
    assert (last["reason"], last["attempt"]) == ("invalid_payload", 1)
    assert tree.stop() == 0
    assert "secret" not in tree.tail(1000)


# --- two services ----------------------------------------------------------------------------------------------------


@pytest.fixture
def other(tree: Tree) -> Iterator[Tree]:
    """Another service on the same store."""
    found = Tree(tree.place / "other", tree.url)
    yield found
    found.close()


@pytest.fixture(autouse=True)
def _place(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()


@pytest.mark.parametrize("engine", ["spool", "postgresql"])
def test_another_service_with_another_model_is_refused_by_name(
    tree: Tree, other: Tree, tmp_path: Path, engine: str
) -> None:
    if engine == "postgresql":
        postgres.empty(postgres.shared())
        for one in (tree, other):
            one.environ["WORKER_ENGINE_URL"] = f"{postgres.shared().url}?local_dir={tree.root}"
    ours = write(tmp_path, "1", FIRST)
    theirs = write(tmp_path, "2", _SERVICE.format(field="text: str", app="Billing", name="text", grace=1), "billing")
    tree.start(module=MODULE, PYTHONPATH=ours, fresh=True)
    other.start(module="billing", ready=False, PYTHONPATH=theirs, fresh=True)
    assert other.exit_code() == 2
    said = other.tail()
    for part in ("queue 'items'", "rolled:Rolled", "billing:Billing", "different models", "rename one of the two"):
        assert part in said, part
    assert "Traceback" not in said
    assert tree.stop() == 0
    other.start(module="billing", ready=False, PYTHONPATH=theirs, fresh=True)  # now nothing is in its way
    other.wait_event("process_ready")
    assert other.stop() == 0


def test_a_service_that_was_killed_is_in_the_way_for_a_while_only(tree: Tree, other: Tree, tmp_path: Path) -> None:
    ours = write(tmp_path, "1", FIRST)
    theirs = write(tmp_path, "2", _SERVICE.format(field="text: str", app="Billing", name="text", grace=1), "billing")
    tree.start(module=MODULE, PYTHONPATH=ours, fresh=True)
    board = tree.board()
    tree.signal(signal.SIGKILL)
    tree.exit_code()
    tree.wait(lambda: not any(Path(f"/proc/{slot.pid}").exists() for slot in board.all_slots() if slot.pid), "the end")
    (file,) = tree.root.glob("declared.*")
    stamp, _, text = file.read_text().partition("\n")
    if stamp != "stopped":  # maintenance outlives its supervisor, and may have said so
        file.write_text(f"{time.time() - 200:.3f}\n{text}")
    other.start(module="billing", ready=False, PYTHONPATH=theirs, fresh=True)
    other.wait_event("process_ready")
    assert other.stop() == 0


def test_another_version_of_a_model_that_two_services_share_is_said(tree: Tree, other: Tree, tmp_path: Path) -> None:
    for version, body, app in (("1", "number: int", "Shop"), ("2", "number: int\n    text: str = ''", "Billing")):
        source = _SERVICE.format(field=body, app=app, name="number", grace=1)
        begin, end = source.index("class Item"), source.index(f"class {app}")
        write(tmp_path, version, source[:end], "contract")
        write(tmp_path, version, source[:begin] + "from contract import Item\n" + source[end:], app.lower())
    tree.start(module="shop", PYTHONPATH=write(tmp_path, "1", FIRST), fresh=True)
    other.start(module="billing", ready=False, PYTHONPATH=write(tmp_path, "2", SECOND), fresh=True)
    other.wait_event("process_ready")
    (warning,) = [event for event in other.events(level="warning") if "two versions of contract.Item" in event["event"]]
    assert "shop:Shop" in warning["event"]
    assert other.stop() == tree.stop() == 0


def test_solo_and_spawned_services_declare_themselves_and_withdraw(tree: Tree, tmp_path: Path) -> None:
    path = write(tmp_path, "1", FIRST)
    for arguments, environ in (((), {"WORKER_START_METHOD": "spawn"}), (("--solo",), {})):
        tree.start(*arguments, module=MODULE, ready=False, PYTHONPATH=path, fresh=True, **environ)
        tree.wait(lambda: [stamp(file) for file in tree.root.glob("declared.*")] not in ([], ["stopped"]), "declared")
        if arguments:
            tree.wait(lambda: "solo: one process" in tree.tail(), "solo")
        else:
            tree.wait_ready()
        assert tree.stop() == 0
        assert [stamp(file) for file in tree.root.glob("declared.*")] == ["stopped"]


def stamp(file: Path) -> str:
    return file.read_text().partition("\n")[0]
