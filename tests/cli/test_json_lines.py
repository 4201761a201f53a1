"""`worker enqueue MODULE QUEUE -`: many jobs from standard input."""

from __future__ import annotations

import json
import subprocess

import pytest

from tests.support.command import TIMEOUT, WORKER, Cli


def lines(*names: str) -> str:
    return "".join(json.dumps({"to": name}) + "\n" for name in names)


def delivered(relay: Cli) -> list[str]:
    """What is on the queue, in its order."""
    ids = relay.kill_jobs("deliveries", count=400)
    return [relay.ok("dead", "show", "relay", job, "--json").json["payload"]["to"] for job in ids]


def test_each_line_is_a_job_in_order(relay: Cli) -> None:
    text = "\n\n" + lines("a", "b") + "  \n" + lines("c").rstrip("\n")  # blank lines, and no end of the last
    result = relay.ok("enqueue", "relay", "deliveries", "-", stdin="\ufeff" + text)
    assert result.out == "queued 3 jobs on deliveries\n"
    assert delivered(relay) == ["a", "b", "c"]


def test_more_than_a_batch(relay: Cli) -> None:
    result = relay.ok("enqueue", "relay", "deliveries", "-", stdin=lines(*map(str, range(300))))
    assert result.out == "queued 300 jobs on deliveries\n"
    assert relay.queues()["deliveries"]["ready"] == 300


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (b'{"too": 1}', "payload does not fit: to: missing"),
        (b'{"to": NaN}', "NaN is not JSON"),
        (b'{"to": "a", "to": "b"}', "duplicate key"),
        (b'{"to": "b"', "payload is not JSON: Expecting ',' delimiter at character 11"),
        (b'{"to": "\xff"}', "not UTF-8: invalid start byte at byte 9"),
        (b'{"to": "' + b"x" * 3000 + b'"}', "payload has 3,023 bytes, max_payload_bytes is 2,000"),
        (b'{"to": "' + b"x" * 90_000 + b'"}', "longer than 81,536 bytes"),
        (b'"' + b"x" * 400_000, "longer than 81,536 bytes"),
    ],
)
def test_a_bad_line_in_the_middle(relay: Cli, bad: bytes, message: str) -> None:
    """It is named by its number, blank lines counted; what stood before it is queued, and nothing after it."""
    text = lines("a", "b").encode() + b"\n" + bad + b"\n" + lines("c").encode()
    result = relay.run("enqueue", "relay", "deliveries", "-", stdin=text)
    assert (result.code, result.out) == (1, "")
    assert result.error.startswith("line 4: ")
    assert message in result.error
    assert result.error.endswith("(2 jobs were queued before it)")
    assert relay.queues()["deliveries"]["ready"] == 2


def test_a_bad_line_after_a_batch(relay: Cli) -> None:
    text = lines(*map(str, range(270))) + '{"to": 1}\n' + lines("late")
    result = relay.run("enqueue", "relay", "deliveries", "-", stdin=text)
    assert result.code == 1
    assert result.error.startswith("line 271: queue 'deliveries': payload does not fit: to: ")
    assert result.error.endswith("(270 jobs were queued before it)")
    assert relay.queues()["deliveries"]["ready"] == 270


def test_a_first_line_that_is_bad(relay: Cli) -> None:
    result = relay.run("enqueue", "relay", "digests", "-", stdin="no\n1\n")
    assert result.error.endswith("(0 jobs were queued before it)")
    assert relay.queues()["digests"]["ready"] == 0


def test_a_queue_that_becomes_full(relay: Cli) -> None:
    result = relay.run("enqueue", "relay", "digests", "-", stdin="1\n2\n3\n4\n5\n")
    assert (result.code, result.out) == (1, "")
    assert "queue 'digests'" in result.error
    assert "max_length is 3" in result.error
    counted = relay.queues()["digests"]["ready"]
    assert result.error.startswith(f"line {counted + 1}: ")
    assert f"({counted} job" in result.error


def test_no_lines(relay: Cli) -> None:
    assert relay.ok("enqueue", "relay", "digests", "-", stdin="\n").out == "queued 0 jobs on digests\n"


def test_options_with_lines(relay: Cli) -> None:
    relay.ok("enqueue", "relay", "digests", "-", "--delay", "60", stdin="1\n")
    relay.ok("enqueue", "relay", "digests", "-", "--run-at", "2100-01-01T00:00:00Z", stdin="2\n")
    assert relay.queues()["digests"]["delayed"] == 2
    refused = relay.run("enqueue", "relay", "digests", "-", "--id", "mine", stdin="3\n")
    assert refused.code == 2
    assert "--id names one job" in refused.error


def test_lines_are_queued_as_they_come(relay: Cli) -> None:
    """A program that writes a line now and then must not have to fill a batch first."""
    process = subprocess.Popen(
        [WORKER, "enqueue", "relay", "digests", "-"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=relay.home, env=relay.environ,
    )  # fmt: skip
    assert process.stdin is not None
    try:
        process.stdin.write(b"1\n2\n3")
        process.stdin.flush()
        notifier = relay.spool / "digests"
        while not notifier.is_dir() or relay.queues()["digests"]["ready"] < 2:
            assert process.poll() is None
        out, _ = process.communicate(b"3\n", timeout=TIMEOUT)
        assert out == b"queued 3 jobs on digests\n"
        assert process.returncode == 0
    finally:
        process.kill()
        process.wait()


def test_interrupted(relay: Cli) -> None:
    process = subprocess.Popen(
        [WORKER, "enqueue", "relay", "digests", "-"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=relay.home, env=relay.environ,
    )  # fmt: skip
    assert process.stdin is not None
    try:
        process.stdin.write(b"1\n")
        process.stdin.flush()
        while not (relay.spool / "digests").is_dir() or relay.queues()["digests"]["ready"] < 1:
            assert process.poll() is None
        process.send_signal(2)
        _, err = process.communicate(timeout=TIMEOUT)
        assert process.returncode == 130
        assert b"worker: interrupted, 1 jobs were queued\n" in err
        assert b"Traceback" not in err
    finally:
        process.kill()
        process.wait()


def test_standard_input_that_is_closed_is_empty(relay: Cli) -> None:
    done = subprocess.run(
        ["sh", "-c", f"{WORKER} enqueue relay digests - <&-"],
        capture_output=True, text=True, cwd=relay.home, env=relay.environ,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "queued 0 jobs on digests\n")


def test_a_progress_bar_on_a_terminal(relay: Cli) -> None:
    source = relay.write("jobs.jsonl", lines(*map(str, range(300))))
    shown = relay.terminal("enqueue", "relay", "deliveries", "-", stdin=source)
    assert shown.code == 0
    assert "300 jobs" in shown.out
    assert "━" in shown.out
    assert shown.out.rstrip().endswith("queued 300 jobs on deliveries")
