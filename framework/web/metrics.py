"""The page's numbers in Prometheus' text format. What is not known is left out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from framework.engine.port import QueueStats

MEDIA_TYPE = "text/plain; version=0.0.4"
STATES = ("ready", "in_flight", "delayed", "dead", "bad")


def text(stats: Mapping[str, QueueStats], answers: Mapping[int, int]) -> str:
    """Return the numbers.

    Args:
        stats: by queue. answers: how many pages were answered with each status.
    """
    return "\n".join(_lines(stats, answers)) + "\n"


def _lines(stats: Mapping[str, QueueStats], answers: Mapping[int, int]) -> Iterator[str]:
    yield "# HELP worker_web_queue_jobs Jobs in the store, as the page counts them."
    yield "# TYPE worker_web_queue_jobs gauge"
    for queue, found in stats.items():
        for state in STATES:
            if (count := getattr(found, state)) is not None:
                yield f'worker_web_queue_jobs{{queue="{_label(queue)}",state="{state}"}} {count}'
    yield "# HELP worker_web_queue_oldest_seconds Age of the oldest job that may run."
    yield "# TYPE worker_web_queue_oldest_seconds gauge"
    for queue, found in stats.items():
        if found.oldest_age is not None:
            yield f'worker_web_queue_oldest_seconds{{queue="{_label(queue)}"}} {found.oldest_age:.3f}'
    yield "# HELP worker_web_pages_total Pages that were answered, by status."
    yield "# TYPE worker_web_pages_total counter"
    for status, count in sorted(answers.items()):
        yield f'worker_web_pages_total{{status="{status}"}} {count}'


def _label(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
