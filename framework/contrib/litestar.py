"""Litestar: the jobs of a request as a dependency, and the answers to jobs that cannot be stored.

Pass `lifespan=[lifespan(Shop)]`, `middleware=[JobsMiddleware]`, `dependencies={"jobs": provide_jobs}` and
`exception_handlers=exception_handlers` to the application.
"""

from __future__ import annotations

from typing import Any

from litestar import Request, Response
from litestar.di import Provide
from litestar.types import ExceptionHandlersMap

from framework import EnqueueError
from framework.contrib.asgi import REFUSED, Jobs, JobsMiddleware, jobs_of, lifespan, refusal

__all__ = ["Jobs", "JobsMiddleware", "exception_handlers", "lifespan", "provide_jobs"]


def _jobs(request: Request[Any, Any, Any]) -> Jobs:
    return jobs_of(request)


def _refuse(request: Request[Any, Any, Any], error: EnqueueError) -> Response[bytes]:
    status, headers, body = refusal(error)
    del headers["Content-Length"]
    return Response(body, status_code=status, headers=headers, media_type=headers.pop("Content-Type"))


provide_jobs = Provide(_jobs, sync_to_thread=False)
exception_handlers: ExceptionHandlersMap = dict.fromkeys(REFUSED, _refuse)
