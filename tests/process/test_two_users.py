"""Producers and workers of different users: what is refused, and the way through the endpoint of docs/deploying.md."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.site.pages import ROOT, python_of

OWNER, PRODUCER, STRANGER, PRODUCERS = 20001, 20002, 20003, 20004
SYSTEM = f"/usr/bin/python3.{sys.version_info[1]}"
pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be several users"),
]
POST = """
import httpx, sys
client = httpx.Client(transport=httpx.HTTPTransport(uds=sys.argv[1]))
answer = client.post("http://relay/calls", content=sys.argv[2], headers={"Idempotency-Key": "one"})
print(answer.status_code, answer.text)
"""


class Users:
    """A machine's users, each with the service and with the packages of this interpreter."""

    def __init__(self, place: Path, python: str) -> None:
        self.place, self.python = place, python
        self.spool, self.socket = place / "owner" / "spool", place / "run" / "gate.sock"
        place.chmod(0o755)
        for name, uid, gid, mode in (("owner", OWNER, OWNER, 0o711), ("run", OWNER, PRODUCERS, 0o750)):
            (place / name).mkdir()
            os.chown(place / name, uid, gid)
            (place / name).chmod(mode)
        (source,) = (block for block in python_of("docs/deploying.md") if "gate.py" in block)
        (place / "gate.py").write_text(source, encoding="utf-8")
        (place / "gate.py").chmod(0o644)

    def command(self, uid: int, *arguments: str, groups: str = "") -> list[str]:
        packages = next(path for path in sys.path if path.endswith("site-packages"))
        variables = {
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": f"{self.place}:{ROOT}:{packages}",
            "PYTHONDONTWRITEBYTECODE": "1",
            "OTEL_SDK_DISABLED": "true",
            "WORKER_ENGINE_URL": f"spool:{self.spool}",
        }
        rights = [f"--reuid={uid}", f"--regid={uid}", f"--groups={groups}" if groups else "--clear-groups"]
        environ = [f"{name}={value}" for name, value in variables.items()]
        return ["setpriv", *rights, "env", "-i", *environ, self.python, *arguments]

    def run(self, uid: int, *arguments: str, groups: str = "") -> subprocess.CompletedProcess[str]:
        command = self.command(uid, *arguments, groups=groups)
        return subprocess.run(command, cwd=self.place, capture_output=True, text=True, timeout=120)

    def enqueue(self, uid: int) -> subprocess.CompletedProcess[str]:
        return self.run(uid, "-m", "framework", "enqueue", "gate", "calls", '{"url": "https://example.com"}')

    def ready(self) -> int:
        done = self.run(OWNER, "-m", "framework", "queues", "gate")
        return int(done.stdout.splitlines()[1].split("\t")[1])


@pytest.fixture
def users() -> Iterator[Users]:
    """Users that can run an interpreter: this one, or the system's of the same version.

    Their place is no `tmp_path`: each run of pytest closes the directory of all of them to other users.
    """
    for python in (sys.executable, SYSTEM):
        command = ["setpriv", f"--reuid={OWNER}", f"--regid={OWNER}", "--clear-groups", "env", python, "-c", ""]
        if subprocess.run(command, capture_output=True, cwd="/").returncode == 0:
            with TemporaryDirectory() as place:
                yield Users(Path(place), python)
            return
    pytest.skip("no interpreter here that other users may run")


@pytest.fixture
def gate(users: Users) -> Iterator[Users]:
    """The endpoint, run by the owner of the spool; it serves."""
    command = users.command(OWNER, "-m", "uvicorn", "gate:gate", "--uds", str(users.socket))
    with subprocess.Popen(command, cwd=users.place, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            lines = []
            for line in process.stderr:
                lines.append(line)
                if "running on unix socket" in line:
                    break
            assert process.poll() is None, lines
            yield users
        finally:
            process.terminate()


def test_a_spool_is_refused_to_all_but_its_owner(users: Users) -> None:
    assert users.enqueue(OWNER).returncode == 0
    assert users.spool.stat().st_mode & 0o777 == 0o700
    for uid in (PRODUCER, 0):
        done = users.enqueue(uid)
        assert done.returncode == 3
        assert re.search(rf"permission denied for uid {uid}|this process is uid {uid}", done.stderr)
    users.spool.chmod(0o770)
    assert "chmod 700" in users.enqueue(OWNER).stderr
    users.spool.chmod(0o700)
    assert users.ready() == 1


def test_a_member_of_the_group_enqueues_through_the_endpoint(gate: Users) -> None:
    call = '{"url": "https://example.com"}'
    posts = [
        gate.run(PRODUCER, "-c", POST, str(gate.socket), body, groups=str(PRODUCERS)) for body in (call, call, "{}")
    ]
    assert [done.stdout.split(" ")[0] for done in posts] == ["202", "202", "422"], [done.stderr for done in posts]
    assert '"duplicate":true' in posts[1].stdout
    assert gate.ready() == 1
    assert gate.spool.stat().st_uid == OWNER
    stranger = gate.run(STRANGER, "-c", POST, str(gate.socket), call)
    assert stranger.returncode != 0
    assert "Permission denied" in stranger.stderr
    assert gate.ready() == 1
