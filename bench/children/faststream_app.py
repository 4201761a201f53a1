"""FastStream on NATS JetStream. BENCH_URL: nats://127.0.0.1:PORT; with the argument `worker` it consumes."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Sequence

from faststream import FastStream
from faststream.nats import ConsumerConfig, JStream, NatsBroker, PullSub, RetentionPolicy, StorageType

from bench.children.marks import hit
from bench.children.producing import AsyncProducer, Payload, loop_factory, serve

SUBJECT = "jobs"
WINDOW = 500  # publishes in flight in bulk
stream = JStream("bench", retention=RetentionPolicy.WORK_QUEUE, storage=StorageType.FILE)
broker = NatsBroker(os.environ["BENCH_URL"], apply_types=False, logger=None)


@broker.subscriber(
    SUBJECT,
    stream=stream,
    durable="bench",
    pull_sub=PullSub(batch_size=100, timeout=1.0),
    config=ConsumerConfig(max_ack_pending=10_000),
)
async def work(item: Payload) -> None:
    hit(item["seq"], item["sent"])


class Publishes(AsyncProducer):
    """Each publish waits for the server's acknowledgement."""

    async def open(self) -> None:
        await broker.connect()
        # The stream is the subscriber's to declare, but here the producer comes first.
        jetstream = broker.config.connection_state.stream
        await jetstream.add_stream(stream.config, subjects=[SUBJECT])

    async def aput(self, item: Payload) -> None:
        await broker.publish(item, SUBJECT, stream="bench")

    def bulk(self, items: Sequence[Payload]) -> None:
        self.run(self._many(items))

    async def _many(self, items: Sequence[Payload]) -> None:
        for at in range(0, len(items), WINDOW):
            await asyncio.gather(*(self.aput(item) for item in items[at : at + WINDOW]))


def consume() -> None:
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(FastStream(broker, logger=None).run(log_level=logging.ERROR))


if __name__ == "__main__":
    from bench.children import faststream_app

    if sys.argv[1:] == ["worker"]:
        faststream_app.consume()
    else:
        serve(faststream_app.Publishes())
