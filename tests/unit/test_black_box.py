"""What is kept of a process that dies: notes in shared memory, the store of black boxes, what is read from stacks."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from framework.model.black_box import BlackBox
from framework.process.blackbox.dump import Stacks
from framework.process.blackbox.frames import Frame, innermost, of_handler, of_notes, threads_of
from framework.process.blackbox.notes import LINES, MOST_LINES, Pages
from framework.process.blackbox.recorder import box_of
from framework.process.blackbox.store import ENTRIES, SIZE, Store
from framework.process.scoreboard import Scoreboard
from framework.process.signals import BLACK_BOX
from framework.worker.interrupts.awaited import awaited, noted

DUMP = """Thread 0x00007f0000000001 (most recent call first):
  File "/srv/relay.py", line 7 in pull
  File "{framework}/worker/interrupts/interrupt.py", line 30 in invoke
  File "{framework}/worker/threaded.py", line 99 in _run_job

Current thread 0x00007f0000000002 (most recent call first):
  File "/usr/lib/x.py", line 3 in wait
""".replace("{framework}", str(Path(__file__).parents[2] / "framework"))


def an_entry(**job: Any) -> dict[str, Any]:
    return {"final": True, "jobs": {"1 j": {"log": [], **job}}, "peak_memory": 5}


def test_notes_are_of_one_slot_and_one_job_and_the_oldest_lines_give_way() -> None:
    board = Scoreboard.in_memory([("maintenance", 0), ("a/0", 2), ("b/0", 1)], app="App")
    pages = Pages(board)
    first, second = pages.of(1), pages.of(2)
    first.thread(1, 77)
    for number in range(LINES + 5):
        first.line("j", 1, f"line {number}\n".encode())
    first.line("j", 2, b"of another delivery")
    second.line("j", 1, "ü".encode() * 5000)
    first.frames(1, "j", 1, "a.py\0007\0f")
    read = Pages(board, pages.descriptor).of(1)  # as in another process
    assert [read.ident(row) for row in range(3)] == [0, 77, 0]
    assert read.lines_of("j", 1) == [f"line {LINES + 5 - MOST_LINES + number}" for number in range(MOST_LINES)]
    assert read.lines_of("j", 2) == ["of another delivery"]
    assert read.lines_of("k", 1) == []
    assert second.lines_of("j", 1)[0].startswith("üüü")
    assert of_notes(read.frames_of(1, "j", 1)) == [Frame("a.py", 7, "f")]
    assert read.frames_of(0, "j", 1) == ""
    read.clear()
    assert first.ident(1) == 0


def test_a_dump_is_read_by_thread_up_to_the_call_of_the_handler() -> None:
    threads = threads_of(DUMP)
    assert list(threads) == [0x7F0000000001, 0x7F0000000002]
    assert of_handler(threads[0x7F0000000001]) == [Frame("/srv/relay.py", 7, "pull")]
    assert of_handler(threads[0x7F0000000002]) == [Frame("/usr/lib/x.py", 3, "wait")]
    assert threads_of("Fatal Python error\n  File cut of") == {}


def test_the_function_is_of_the_service_and_not_of_python_or_a_library() -> None:
    site = next(path for path in sys.path if path.endswith("site-packages"))
    own = Frame("/srv/relay.py", 7, "pull")
    assert innermost([Frame(asyncio.__file__, 1, "sleep"), own]) == own
    assert innermost([Frame(f"{site}/httpx/a.py", 1, "get"), own]) == own
    assert innermost([Frame(asyncio.__file__, 1, "sleep")]).function == "sleep"
    installed = Frame(f"{site}/relay/a.py", 1, "pull")
    assert innermost([Frame(f"{site}/httpx/a.py", 1, "get"), installed]) == installed


async def test_a_suspended_job_stands_where_its_innermost_coroutine_waits_also_in_a_task_that_it_gathers() -> None:
    async def inner() -> None:
        await asyncio.sleep(60)

    async def outer() -> None:
        await asyncio.gather(inner())

    task = asyncio.create_task(outer())
    await asyncio.sleep(0.01)
    functions = [frame.function for frame in awaited(task)]
    assert functions == ["sleep", "inner", "outer"]
    assert [frame.function for frame in of_notes(noted(awaited(task)))] == functions
    task.cancel()


def test_another_tree_finds_an_entry_in_the_copy_and_old_ones_give_way(tmp_path: Path) -> None:
    store = Store(tmp_path / "0.boxes")
    for number in range(ENTRIES + 1):
        store.write(f"life-{number}", an_entry(function=f"f{number}"))
    store.write(f"life-{ENTRIES}", {**an_entry(function="last"), "final": False})
    other = Store(tmp_path / "1.boxes")
    assert other.find(f"life-{ENTRIES}") is None
    for found in (store.find(f"life-{ENTRIES}"), other.find_elsewhere(f"life-{ENTRIES}")):
        assert found is not None
        assert found["final"] is False
        box = box_of(found, "j", 1)
        assert box is not None
        assert (box.function, box.peak_memory) == ("last", 5)
        assert box_of(found, "j", 2) is None
    assert store.find("life-0") is None
    assert store.find("life-1") is not None
    (tmp_path / "2.boxes").write_bytes(b"\x09" + bytes(7) + b"{garbage}")
    assert other.find_elsewhere("life-unknown") is None


def test_an_entry_that_is_too_long_loses_lines_before_it_loses_jobs(tmp_path: Path) -> None:
    store = Store(None)
    jobs = {f"1 {number}": {"function": "f", "log": ["x" * 400] * 10} for number in range(32)}
    store.write("life", {"final": True, "jobs": jobs})
    found = store.find("life")
    assert found is not None
    assert len(json.dumps(found)) <= SIZE
    assert len(found["jobs"]) == 32
    assert found["jobs"]["1 3"]["log"] == ["x" * 400] * 2


def test_a_planted_link_is_not_written_through(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"untouched")
    (tmp_path / "0.boxes").symlink_to(victim)
    store = Store(tmp_path / "0.boxes")
    store.write("life", an_entry())
    assert victim.read_bytes() == b"untouched"
    assert store.find("life") is not None
    (tmp_path / "0.boxes").unlink()
    (tmp_path / "0.boxes").hardlink_to(victim)
    store.write("life", an_entry())
    assert victim.read_bytes() == b"untouched"


def test_the_text_of_a_black_box_fits_into_a_failure_and_keeps_the_innermost_frames() -> None:
    stack = "".join(f'  File "/srv/relay.py", line {number}, in f{number}\n' for number in range(100))
    text = BlackBox("f", "/srv/relay.py", 1, stack, ["x" * 500] * 10, 2**20, 1.5, {"oom_kill": 1}).text()
    assert len(text) <= 2000
    assert "in f99\n" in text
    assert "in f0\n" not in text
    assert text.endswith("The process: 1 MiB of memory at most, 1.50 s of processor time, oom_kill 1\n")
    assert BlackBox().text() == ""


def test_a_line_of_json_is_shown_without_what_the_failure_says_and_may_be_cut() -> None:
    line = (
        '{"timestamp":"2026-12-01T03:08:02.123456+00:00","level":"info","event":"says \\"queue\\":1,}","process":"q/0",'
        '"queue":"reports","job_id":"a \\"b","attempt":2,"page":7,"trace_id":"' + "4" * 32 + '","span_id":"5"}'
    )
    text = BlackBox(log=[line, line[:-4], "plain text, queue 1"]).text()
    told = '{"timestamp":"03:08:02.123456+00:00","level":"info","event":"says \\"queue\\":1,}","page":7'
    assert text == f'Last log lines:\n  {told}}}\n  {told},"span_id":\n  plain text, queue 1\n'
    first = '{"job_id":"x","event":"' + "e" * 200
    assert BlackBox(log=[first]).text().startswith('Last log lines:\n  {"event":"eee')


def test_a_process_that_has_not_our_file_or_no_handler_is_not_asked() -> None:
    """Verified: the signal ends a program that was executed in the place of a worker."""
    stacks = Stacks(["a/0"])
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        stacks.ask(0, process.pid)
        stacks.wait([(0, process.pid)])
        assert stacks.take(0) == ""
        assert process.poll() is None
    assert signal.getsignal(BLACK_BOX) is signal.SIG_DFL
    os.set_inheritable(stacks.descriptors[0], True)
    stacks.close()
