"""Older versions of the framework, each in an interpreter of its own, on the spool of a test."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).parents[2]
INTOLERANT = "458fd82"  # the last commit before readers were tolerant
BEFORE_SEGMENTS = "e495d1d"
BEFORE_OPEN = "dfa9511"  # reads segments that were written at once, and no open ones
TOLERANT = "45aefbc"  # keeps fields of names that it does not know, and knows no priorities


def unpacked(commit: str, place: Path) -> bool:
    """Put the framework of a commit into a directory; False: there is no such commit here."""
    archive = subprocess.run(["git", "archive", commit, "framework"], cwd=PROJECT, capture_output=True)
    if archive.returncode == 0:
        subprocess.run(["tar", "-x", "-C", place], input=archive.stdout, check=True)
    return archive.returncode == 0


def play(older: Path, root: Path, act: str, *, killed: bool = False) -> str:
    """What the older version does on a spool; what it prints. Args: killed: it ends by SIGKILL."""
    code = f"""
import framework, os, time
from framework.brokers.spool import connect
from framework.job import Failure, Job
from framework.queues import QueueOptions
assert framework.__file__.startswith({str(older)!r}), framework.__file__
mine = connect("spool:{root}", incarnation="older-" + os.urandom(4).hex())
queues = [QueueOptions("jobs", dead_letter="letters"), QueueOptions("plain")]
mine.open([*queues, QueueOptions("letters", is_dead_letter=True)])
{act}
mine.close()
"""
    environ = {**os.environ, "PYTHONPATH": str(older), "PYTHONDONTWRITEBYTECODE": ""}  # it is compiled once
    done = subprocess.run([sys.executable, "-c", code], env=environ, cwd=older, capture_output=True, text=True)
    assert done.returncode == (-signal.SIGKILL if killed else 0), done.stderr
    return done.stdout


DRAIN = """
time.sleep(0.05)
for _ in range(3):
    mine.maintain()
    while leases := mine.claim("jobs", limit=100, wait=0):
        print(*(lease.job.id for lease in leases), sep="\\n")
        mine.ack(leases)
print("bad", mine.stats("jobs").bad, "left", mine.stats("jobs").ready + mine.stats("jobs").delayed)
"""
