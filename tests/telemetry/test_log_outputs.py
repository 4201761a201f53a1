"""Lines of log on a pipe, a terminal, or an output that is slow, full or gone."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import time
from typing import Any

import pytest

from framework.telemetry.logs.render import ConsoleRenderer, JsonRenderer
from framework.telemetry.logs.writer import PIPE_BUF, LineWriter
from tests.support.processes import readable
from tests.telemetry.helpers import json_lines, spawn


@pytest.mark.parametrize("character", ["x", "é", "\x00", "東", '"', "\n"])
@pytest.mark.parametrize("length", [100, 3000, 4000, 100_000])
def test_on_a_pipe_a_line_is_cut_to_what_is_written_undivided(character, length):
    keys = {
        "event": "job_finished",
        "level": "error",
        "timestamp": "t",
        "message": "m" * 50,
        "traceback": character * length,
    }
    line = JsonRenderer(PIPE_BUF)(None, "error", keys)
    assert len(line) <= PIPE_BUF
    parsed = json.loads(line)
    assert (parsed["event"], parsed["level"], parsed["message"]) == ("job_finished", "error", "m" * 50)
    if len(JsonRenderer(None)(None, "error", keys)) > PIPE_BUF:
        assert parsed["truncated"]
        assert len(line) > PIPE_BUF // 2  # no more is lost than must be
    assert len(ConsoleRenderer(colors=False, limit=PIPE_BUF)(None, "error", keys)) <= PIPE_BUF


def test_many_long_values_and_many_keys_still_make_a_line():
    keys = {"event": "e" * 9000, "level": "info", "timestamp": "t"} | {f"key{i}": "v" * 500 for i in range(200)}
    line = JsonRenderer(PIPE_BUF)(None, "info", keys)
    assert len(line) <= PIPE_BUF
    assert json.loads(line)["event"].startswith("eee")


def test_lines_of_many_processes_on_one_pipe_never_mix(receiver):
    process = spawn(
        """
        def worker():
            telemetry = start(identity(), load_settings())
            import structlog
            log = structlog.get_logger()
            for number in range(300):
                log.info("line", number=number, pid=os.getpid(), text="x" * (number * 37 % 6000))
            os._exit(0)
        reap(*[forked(worker) for _ in range(8)])
        """,
        {"OTEL_SDK_DISABLED": "true"},
    )
    out, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, "")
    lines = json_lines(out)
    assert len(lines) == 8 * 300
    seen: dict[int, list[int]] = {}
    for line in lines:
        seen.setdefault(line["pid"], []).append(line["number"])
    assert all(numbers == list(range(300)) for numbers in seen.values())


WRITES_A_LOT = """
telemetry = start(identity(), load_settings())
run_jobs(telemetry, 400)
os.write(2, b"done\\n")
"""


def test_a_reader_that_went_away_stops_no_job():
    read, write = os.pipe()
    os.close(read)
    process = spawn(WRITES_A_LOT, {"OTEL_SDK_DISABLED": "true"}, stdout=write)
    os.close(write)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, "done\n")


@pytest.mark.parametrize("blocking", [True, False])
def test_a_reader_that_stopped_reading_stops_no_job(blocking):
    read, write = os.pipe()
    os.set_blocking(write, blocking)
    process = spawn(WRITES_A_LOT, {"OTEL_SDK_DISABLED": "true"}, stdout=write)
    os.close(write)
    _, err = process.communicate(timeout=30)  # 400 lines do not fit into a pipe of 64 kB
    assert (process.returncode, err) == (0, "done\n")
    os.set_blocking(read, False)
    lines = os.read(read, 1 << 20).splitlines()
    os.close(read)
    assert 100 < len(lines) < 400
    assert {json.loads(line)["event"] for line in lines} <= {"job_finished", "log_lines_lost"}


def test_lost_lines_are_counted_and_closed_or_full_outputs_raise_nothing(tmp_path):
    dropped: list[int] = []
    fd = os.open(tmp_path / "x", os.O_RDONLY | os.O_CREAT)
    LineWriter(fd, dropped=lambda: dropped.append(1)).write(b"x\n")
    os.close(fd)
    LineWriter(fd, dropped=lambda: dropped.append(1)).write(b"x\n")
    full = os.open("/dev/full", os.O_WRONLY)
    LineWriter(full, dropped=lambda: dropped.append(1)).write(b"x\n")
    os.close(full)
    assert dropped == [1, 1, 1]


def read_all(fd: int, process: Any) -> str:
    data, deadline = b"", time.monotonic() + 20
    while time.monotonic() < deadline:
        if readable(fd, 0.1):
            with contextlib.suppress(OSError):
                data += os.read(fd, 65536)
                continue
        if process.poll() is not None:
            break
    return data.decode()


@pytest.mark.parametrize(("log_format", "is_json"), [("auto", False), ("json", True), ("console", False)])
def test_a_terminal_gets_columns_and_colours_unless_json_is_asked_for(log_format, is_json):
    ours, theirs = pty.openpty()
    env = {"OTEL_SDK_DISABLED": "true", "WORKER_LOG_FORMAT": log_format}
    process = spawn("run_jobs(start(identity(), load_settings()), 1)", env, stdout=theirs, stderr=theirs)
    os.close(theirs)
    text = read_all(ours, process)
    os.close(ours)
    assert process.wait(10) == 0, text
    assert "job_finished" in text
    assert text.startswith("{") == is_json
    assert ("\x1b[" in text) == (not is_json)
