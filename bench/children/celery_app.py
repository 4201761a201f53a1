"""Celery on Redis. BENCH_URL: redis://127.0.0.1:PORT/0"""

from __future__ import annotations

import os

from celery import Celery

from bench.children.marks import hit
from bench.children.producing import Payload, Producer, serve

app = Celery("bench", broker=os.environ["BENCH_URL"])
app.conf.update(
    task_ignore_result=True,
    task_acks_late=False,
    worker_prefetch_multiplier=100,
    worker_send_task_events=False,
    worker_hijack_root_logger=False,
    broker_connection_retry_on_startup=True,
    broker_pool_limit=32,
)


@app.task(name="work", ignore_result=True)
def work(item: Payload) -> None:
    hit(item["seq"], item["sent"])


class Pushes(Producer):
    def put(self, item: Payload) -> None:
        work.delay(item)


if __name__ == "__main__":
    from bench.children import celery_app

    serve(celery_app.Pushes())
