"""Closed standard descriptors count as /dev/null; streams that cannot be written do not change how a process ends."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPORT = """
import os, sys
from framework.process import stdio
stdio.fill_closed()
later = os.open(sys.argv[1], os.O_WRONLY)
null = os.stat(os.devnull).st_ino
kinds = ["null" if os.fstat(fd).st_ino == null else "other" for fd in range(3)]
inherited = [os.get_inheritable(fd) for fd in range(3)]
print("to standard output"), print("to standard error", file=sys.stderr)
sys.stdin.read()
os.write(later, repr((later > 2, kinds, inherited, sys.stdin.fileno(), sys.stdout.fileno())).encode())
"""


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1), (1, 2), (0, 1, 2)])
def test_closed_descriptors_are_filled_before_another_file_gets_their_number(
    tmp_path: Path, closed: tuple[int, ...]
) -> None:
    report = tmp_path / "report"
    report.touch()
    redirections = " ".join(f"{fd}{'<' if fd == 0 else '>'}&-" for fd in closed)
    command = f'exec "$0" -c "$1" "$2" {redirections}'
    done = subprocess.run(
        ["sh", "-c", command, sys.executable, REPORT, str(report)],
        stdin=subprocess.PIPE,
        capture_output=True,
    )
    kinds = ["null" if fd in closed else "other" for fd in range(3)]
    assert report.read_text() == repr((True, kinds, [True] * 3, 0, 1))
    assert done.returncode == 0


SETTLES = """
import os, sys
from framework.process import stdio
for fd in (1, 2):
    kept = os.dup(fd)
    {broken}
    (sys.stdout if fd == 1 else sys.stderr).write("pending")
    stdio.settle({patience})
    os.dup2(kept, fd)
if os.fork() == 0:
    sys.exit(3)
assert os.waitstatus_to_exitcode(os.wait()[1]) == 3
sys.exit(4)
"""
NO_READER = "reader, writer = os.pipe(); os.close(reader); os.dup2(writer, fd)"
FULL_PIPE = "reader, writer = os.pipe(); os.write(writer, bytes(65536)); os.dup2(writer, fd)"
FULL_DEVICE = "os.dup2(os.open('/dev/full', os.O_WRONLY), fd)"
CLOSED = "os.close(fd)"
FINE = "pass"


@pytest.mark.parametrize(
    ("broken", "patience"),
    [(NO_READER, 0.01), (FULL_PIPE, 0.01), (FULL_DEVICE, None), (CLOSED, 0.01), (NO_READER, None), (FINE, None)],
)
def test_what_cannot_be_written_is_let_go_of_once(broken: str, patience: float | None) -> None:
    """Else each forked child writes it again, and the interpreter ends with 120."""
    code = SETTLES.format(broken=broken, patience=patience)
    environ = {**os.environ, "PYTHONUNBUFFERED": ""}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, env=environ)
    assert (done.returncode, done.stderr) == (4, "pending" if broken == FINE else ""), done.stderr
    assert done.stdout == ("pending" if broken == FINE else "")
