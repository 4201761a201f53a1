"""Runs a page as its reader would: files are written, commands are typed into one shell, outputs are compared."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PATIENCE = 120.0  # seconds until a command that only looks must show what the page shows
LOOKS = re.compile(r"(grep|ls|tail|worker (ps|queues|jobs show|dead list)) ")
ENDED = "__ended__"


def blocks(path: str) -> Iterator[tuple[str, str]]:
    """Yield language and text of each fenced block of a page."""
    text = (ROOT / path).read_text(encoding="utf-8")
    yield from re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def python_of(path: str) -> list[str]:
    return [text for language, text in blocks(path) if language == "python"]


def commands(text: str) -> Iterator[tuple[str, list[str]]]:
    """Yield each command behind a `$ `, and the lines that the page shows below it."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, *shown = part.splitlines()
        yield command, shown


class Shell:
    """One bash in a directory, with `worker` on its path and nothing of the surrounding settings."""

    def __init__(self, home: Path) -> None:
        self.home = home
        environ = {k: v for k, v in os.environ.items() if not k.startswith(("WORKER_", "OTEL_", "PYTHONDONT"))}
        environ["PATH"] = f"{Path(sys.executable).parent}:{environ['PATH']}"
        environ["PYTHONPATH"] = f"{ROOT}:{home}"
        self._process = subprocess.Popen(
            ["bash"],
            cwd=home, env=environ, text=True, bufsize=1, process_group=0,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def run(self, command: str) -> tuple[int, list[str]]:
        """Type a command, and return its exit code and the lines that it has printed."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{command}\ncode=$?; echo; echo {ENDED} $code\n")
        lines = []
        for line in self._process.stdout:
            if line.startswith(ENDED):
                return int(line.split()[1]), lines
            lines.append(line.rstrip("\n"))
        raise AssertionError(f"the shell has ended: {lines}")

    def close(self) -> None:
        """End the shell and what it has left running."""
        assert self._process.stdin is not None
        self._process.stdin.write("kill -9 $(jobs -p) 2>/dev/null; exit\n")
        self._process.stdin.close()
        self._process.wait(60)


def shows(code: int, lines: list[str], shown: list[str]) -> bool:
    """Whether these lines are printed in this order, and no error but one that is shown; `…` stands for anything."""
    rest = iter(lines)
    patterns = [".*".join(map(re.escape, line.split("…"))) for line in shown]
    refused = any("error: " in line for line in shown)
    return refused == (code != 0) and all(any(re.fullmatch(pattern, line) for line in rest) for pattern in patterns)


def follow(path: str, home: Path) -> int:
    """Do what the page says, in this directory, and return how many commands that were. AssertionError: it differs."""
    shell, count = Shell(home), 0
    try:
        for language, text in blocks(path):
            file = re.match(r"# ([\w/]+\.py)\n", text)
            if language == "python" and file:
                (home / file[1]).parent.mkdir(parents=True, exist_ok=True)
                (home / file[1]).write_text(text, encoding="utf-8")
            for command, shown in commands(text) if not language else ():
                count += 1
                until = time.monotonic() + PATIENCE
                while not shows(*(found := shell.run(command)), shown):
                    assert LOOKS.match(command), (command, found)
                    assert time.monotonic() < until, (command, found)
                    time.sleep(0.1)
    finally:
        shell.close()
    return count
