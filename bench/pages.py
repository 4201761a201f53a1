"""How long the web page takes on a store with many jobs: `python -m bench.pages URL [JOBS] [DEAD]`.

It fills the store with JOBS jobs and DEAD dead letters (1,000,000 and 100,000; 0 0: it is filled already), serves it by
`worker web` in a process of its own, and asks for each page as a person with a script would, while another process
enqueues and runs jobs, so that directories change all the time. It prints the server's own time of each page.
"""

from __future__ import annotations

import http.client
import math
import multiprocessing
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from html import unescape
from pathlib import Path

from bench import look
from framework.engine.port import open_engine
from framework.model.outcome import Kind, Outcome, Settlement

WORKER = Path(sys.executable).with_name("worker")
ROUNDS, PAUSE = 100, 0.05  # looks at each page, and seconds between two
PATHS = ("/", "/queue?name=jobs", "/queue?name=letters", "/jobs", "/jobs?queue=letters", "/dead", "/runs", "/bad",
         "/schedules", "/processes", "/metrics")  # fmt: skip


def traffic(url: str) -> None:
    """Enqueue and run jobs until the process is ended: about 200 a second, each in a file of its own."""
    engine = open_engine(url, incarnation=f"traffic-{time.time_ns()}", durability="process")
    engine.open(look.QUEUES)
    while True:
        engine.enqueue([look.new_job("jobs")])
        engine.settle([Settlement(lease, Outcome(Kind.SUCCEEDED)) for lease in engine.claim(["jobs"], limit=1, wait=0)])
        time.sleep(0.005)


class Server:
    """A `worker web` on a store."""

    def __init__(self, url: str) -> None:
        command = [WORKER, "web", "--url", url, "--bind", "127.0.0.1:0"]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        found = next(filter(None, (re.search(r"127\.0\.0\.1:(\d+)/", line) for line in self.process.stderr)))
        self._connection = http.client.HTTPConnection("127.0.0.1", int(found[1]), timeout=600)

    def get(self, path: str) -> tuple[float, str]:
        """Return the milliseconds of the server, and the page. `/metrics` says none: then those of the client."""
        began = time.perf_counter()
        self._connection.request("GET", path)
        answer = self._connection.getresponse()
        text = answer.read().decode()
        assert answer.status == 200, (path, answer.status, text)
        said = re.search(r"dur=([\d.]+)", answer.headers.get("server-timing", ""))
        return float(said[1]) if said else (time.perf_counter() - began) * 1000, text


def measure(server: Server, name: str, paths: Iterable[str]) -> None:
    """Print the first look at a page, then median and 99th percentile of the others."""
    first, *others = (server.get(path)[0] for path in paced(paths))
    others.sort()
    half, most = others[len(others) // 2], others[math.ceil(0.99 * len(others)) - 1]
    print(f"{name:24} median {half:7.1f} ms, p99 {most:7.1f} ms, the first {first:7.1f} ms", flush=True)


def paced(paths: Iterable[str]) -> Iterator[str]:
    """Yield each path after a pause."""
    for path in paths:
        time.sleep(PAUSE)
        yield path


def _turned(server: Server, path: str, count: int) -> list[str]:
    """Return the addresses of the first pages of a list."""
    found = [path]
    while len(found) < count and (after := re.search(r'rel="next" href="([^"]+)"', server.get(found[-1])[1])):
        found.append(unescape(after[1]))
        time.sleep(1)
    return found


def main(url: str, jobs: int = 1_000_000, dead: int = 100_000) -> None:
    """Fill the store, and print a line for each page."""
    look.fill(url, jobs, dead)
    busy = multiprocessing.get_context("spawn").Process(target=traffic, args=(url,), daemon=True)
    busy.start()
    server = Server(url)
    try:
        for _ in range(3):
            for path in PATHS:
                server.get(path)
        for path in PATHS:
            measure(server, path, [path] * ROUNDS)
        job = re.search(r'class="id" href="([^"]+)"', server.get("/dead")[1])
        assert job
        measure(server, "/job of a dead letter", [unescape(job[1])] * ROUNDS)
        measure(server, "/dead, page by page", _turned(server, "/dead", 20))
    finally:
        server.process.terminate()
        busy.kill()


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:4]))
