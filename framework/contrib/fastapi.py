"""FastAPI: queues and the jobs of a request as dependencies. For lifespan and middleware see `framework.contrib.asgi`.

api = FastAPI(lifespan=lifespan(ShopQueues))
api.add_middleware(JobsMiddleware)

@api.post("/orders/{order}", status_code=202)
async def order(order: int, jobs: RequestJobs) -> None:
    jobs.add(ShopQueues.invoices, Invoice(order=order))
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, TypeVar

from fastapi import Depends
from fastapi.requests import HTTPConnection

from framework import Queue
from framework.contrib.asgi import Jobs, JobsMiddleware, jobs_of, lifespan

__all__ = ["Jobs", "JobsMiddleware", "RequestJobs", "from_queue", "lifespan", "request_jobs"]

P = TypeVar("P")
_known: dict[int, tuple[Queue[Any], Callable[[], Queue[Any]]]] = {}


def from_queue(queue: Queue[P]) -> Callable[[], Queue[P]]:
    """Return the dependency that gives this queue: `invoices: Annotated[Queue[Invoice], Depends(from_queue(...))]`.

    It is the same one for each call, so a test can name it in `app.dependency_overrides`.
    """
    return _known.setdefault(id(queue), (queue, lambda: queue))[1]


def request_jobs(connection: HTTPConnection) -> Jobs:
    """Return the jobs of this request, which JobsMiddleware stores before the response begins."""
    return jobs_of(connection)


RequestJobs = Annotated[Jobs, Depends(request_jobs)]
