"""The cancellation of a job by its id."""

from __future__ import annotations

from framework.engine.port import Inspector
from framework.model.options import QueueOptions
from framework.service.sender import CancelAnswer


def cancel(engine: Inspector, options: QueueOptions, job_id: str) -> CancelAnswer:
    """Cancel the job of a queue that has this id; see `Queue.cancel`. Raises EngineError."""
    answer: CancelAnswer = "unknown"
    places = [options.name] if options.dead_letter is None else [options.name, options.dead_letter]
    for view in engine.get(places, job_id):
        if options.name not in (view.queue, view.job.queue):  # of another home, on the same dead-letter queue
            continue
        if view.is_dead_letter:
            answer = "dead" if answer == "unknown" else answer
        elif (found := engine.cancel(view)) != "gone" and answer != "stopping":
            answer = found
    return answer
