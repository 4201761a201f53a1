"""A traffic source: replays sample events as deliveries, and asks for a digest of every batch.

python -m services.example_worker.traffic --jobs 1000 --rate 50 --url spool:./var/spool
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterator
from itertools import count
from typing import TypeVar

import click

from framework import EnqueueError, EnqueueUncertain, Queue, QueueFull, WorkerError
from framework.service.settings import load_settings
from services.example_worker.digest import pack
from services.example_worker.events import Event, make_event
from services.example_worker.queues import Delivery, Digest, RelayQueues
from services.example_worker.stopping import on_stop_signal
from services.example_worker.telemetry import exported

P = TypeVar("P")
BACK_OFF = 0.5  # seconds before a full queue is tried again


class Traffic:
    """Enqueues a series of events, each under an id of its own, so that doing it twice does it once.

    Args:
        run: name of this series; job ids are `<run>-<index>` and, of digests, `<run>-batch-<number>`.
        rate: deliveries a second; 0 = as fast as the disk allows.
        batch: deliveries in a digest; 0 = no digests.
        enqueued: told every job id that is durably queued.
    """

    def __init__(
        self,
        *,
        run: str,
        subscriber: str = "demo",
        seed: int = 1,
        rate: float = 0.0,
        batch: int = 50,
        enqueued: Callable[[str], None] = lambda job_id: None,
    ) -> None:
        self.run, self.subscriber, self.seed = run, subscriber, seed
        self.rate, self.batch = rate, batch
        self._enqueued = enqueued
        self.stop = threading.Event()

    def send(self, jobs: int | None) -> int:
        """Enqueues `jobs` deliveries and their digests, or goes on until `stop` is set (None). Returns the deliveries.

        Raises: EnqueueError for anything but a full queue, which it waits for.
        """
        waiting: list[Event] = []
        sent = 0
        for index in self._paced(jobs):
            event = make_event(index, seed=self.seed)
            delivery = Delivery(subscriber=self.subscriber, event=event.event, body=event.body)
            if not self._put(RelayQueues.deliveries, delivery, f"{self.run}-{index}"):
                break
            sent += 1
            waiting.append(event)
            if len(waiting) == self.batch:
                self._digest(waiting, sent // self.batch)
                waiting = []
        if waiting and self.batch:
            self._digest(waiting, sent // self.batch + 1)
        return sent

    def _paced(self, jobs: int | None) -> Iterator[int]:
        start = time.monotonic()
        for index in count() if jobs is None else range(jobs):
            due = start + index / self.rate if self.rate else 0.0
            if self.stop.wait(max(0.0, due - time.monotonic())):
                return
            yield index

    def _digest(self, events: list[Event], number: int) -> None:
        batch = f"{self.run}-batch-{number}"
        packed = pack((event.event, event.body) for event in events)
        digest = Digest(batch=batch, subscriber=self.subscriber, deliveries=packed)
        self._put(RelayQueues.digests, digest, batch)

    def _put(self, queue: Queue[P], payload: P, job_id: str) -> bool:
        while not self.stop.is_set():
            try:
                queue.enqueue(payload, job_id=job_id)
            except QueueFull:
                self.stop.wait(BACK_OFF)
            except EnqueueUncertain:
                continue  # the id is ours: a second enqueue of it is harmless
            else:
                self._enqueued(job_id)
                return True
        return False


@click.command()
@click.option("--jobs", type=int, default=None, help="Deliveries to enqueue; without it traffic goes on until SIGTERM.")
@click.option("--rate", default=10.0, show_default=True, help="Deliveries a second; 0: as fast as possible.")
@click.option("--url", default=None, help="The engine, instead of WORKER_ENGINE_URL.")
@click.option("--subscriber", default="demo", show_default=True, help="A name of RELAY_SUBSCRIBERS.")
@click.option("--seed", default=1, show_default=True, help="The same seed makes the same events.")
@click.option("--batch", default=50, show_default=True, help="Deliveries in a digest; 0: no digests.")
def main(jobs: int | None, rate: float, url: str | None, subscriber: str, seed: int, batch: int) -> None:
    """Enqueues sample events for the relay."""
    traffic = Traffic(run=secrets.token_hex(4), subscriber=subscriber, seed=seed, rate=rate, batch=batch)
    on_stop_signal(traffic.stop.set)
    try:
        settings = load_settings(**({"engine_url": url} if url else {}))
        with exported("example-traffic"), RelayQueues.connect(settings):
            sent = traffic.send(jobs)
    except (WorkerError, EnqueueError) as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"enqueued {sent} deliveries as {traffic.run}-*")


if __name__ == "__main__":
    main()
