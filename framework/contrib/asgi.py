"""Jobs in an ASGI application: FastAPI, Starlette, Litestar, Quart and others. It imports none of them.

`lifespan` opens the producer when the application starts. `JobsMiddleware` stores the jobs that a request has added to
its `Jobs` before the response begins, and answers 503 with `Retry-After` where they cannot be stored.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, MutableMapping
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager
from typing import Any, Protocol, TypeVar

from framework import EnqueueError, EnqueueFailed, EnqueueUncertain, PayloadTooLarge, Queue, QueueFull, WorkerApp
from framework.service.request import JobOptions

log = logging.getLogger("framework")

KEY = "framework.jobs"  # of the Jobs in a request's scope
RETRY_AFTER = 5  # seconds
REFUSED = (QueueFull, EnqueueFailed, EnqueueUncertain, PayloadTooLarge)  # what a client may be told to try again
OPTIONS = JobOptions.__annotations__.keys() | {
    name for name, found in inspect.signature(Queue.aenqueue).parameters.items() if found.kind is found.KEYWORD_ONLY
}

P = TypeVar("P")
Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


def lifespan(*apps: type[WorkerApp], running: bool = False) -> Callable[[object], AbstractAsyncContextManager[None]]:
    """Return a lifespan that opens the producer of these apps, so that a wrong engine fails the start, not a request.

    Pass it as `FastAPI(lifespan=lifespan(Shop))`, and the same to Starlette; to Litestar in a list.

    Args:
        running: also run the workers of these apps beside this process (`WorkerApp.running`): one container, one
            command. Each web process has its own then.
    """

    @asynccontextmanager
    async def opened(application: object) -> AsyncGenerator[None, None]:
        with ExitStack() as stack:
            for app in apps:
                stack.enter_context(app.connect())
            workers = ExitStack()
            try:
                for app in apps if running else ():
                    await asyncio.to_thread(workers.enter_context, app.running())
                yield
            finally:
                await asyncio.to_thread(workers.close)  # a drain may take long, and the loop may have work

    return opened


class Jobs:
    """The jobs of one request. They are stored together before its response begins, and not at all if that fails.

    So a client that got its answer can rely on them: unlike background tasks of the web process, they survive its end.
    """

    def __init__(self) -> None:
        self._added: list[tuple[Queue[Any], Any, dict[str, Any]]] = []
        self._closed = False

    def add(self, queue: Queue[P], payload: P, **options: Any) -> None:
        """Add a job. The options are those of `Queue.enqueue`, for example `delay` or `job_id`.

        Without a `job_id` of your own, a client that repeats a refused request may store some jobs twice.

        Raises:
            RuntimeError: the response has begun, so nothing would store the job. TypeError: there is no such option.
        """
        if self._closed:
            raise RuntimeError(f"the response has begun: use await queue.aenqueue(...) for this job of {queue.name}")
        for name in options.keys() - OPTIONS:
            raise TypeError(f"a job of {queue.name} has no option {name!r}; there are {', '.join(sorted(OPTIONS))}")
        self._added.append((queue, payload, options))

    def close(self) -> None:
        """Accept no more jobs: the response begins."""
        self._closed = True

    async def store(self) -> None:
        """Store the jobs that were added since the last call. Raises EnqueueError: the first that was not stored."""
        added, self._added = self._added, []
        stored = [queue.aenqueue(payload, **options) for queue, payload, options in added]
        for found in await asyncio.gather(*stored, return_exceptions=True):
            if isinstance(found, BaseException):
                raise found


class HasScope(Protocol):
    """A request or connection object of a web framework."""

    @property
    def scope(self) -> Any: ...


def jobs_of(request: HasScope) -> Jobs:
    """Return the jobs of a request. Raises RuntimeError: it is not HTTP, or the application has no JobsMiddleware."""
    found = request.scope.get(KEY)
    if not isinstance(found, Jobs):
        if (kind := request.scope["type"]) != "http":
            raise RuntimeError(f"only an HTTP request has jobs, and this is a {kind}: use await queue.aenqueue(...)")
        raise RuntimeError("the application has no JobsMiddleware: add_middleware(JobsMiddleware)")
    return found


class JobsMiddleware:
    """The ASGI middleware that stores the jobs of each request before its response begins.

    Jobs of a request whose response has a status of 400 or more are dropped. An EnqueueError that leaves the
    application, or that is raised when its jobs are stored, becomes a response.

    Args:
        status: of the response if a queue is full or the engine cannot be reached: 503, or 429.
        retry_after: seconds that it asks the client to wait.
    """

    def __init__(self, app: App, *, status: int = 503, retry_after: int = RETRY_AFTER) -> None:
        self._app, self._status, self._retry_after = app, status, retry_after

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answer = _Answer(send, self._status, self._retry_after)
        scope[KEY] = answer.jobs
        try:
            await self._app(scope, receive, answer.send)
        except REFUSED as error:
            if answer.begun:
                raise
            await answer.refuse(error)


class _Answer:
    """The response of one request on its way out."""

    def __init__(self, send: Send, status: int, retry_after: int) -> None:
        self._send, self._status, self._retry_after = send, status, retry_after
        self._refused = False
        self.begun = False
        self.jobs = Jobs()

    async def send(self, message: Message) -> None:
        """Send a message of the application; the first one only after the jobs are stored."""
        if self._refused:
            return  # the rest of a response that was replaced
        if message["type"] == "http.response.start" and not self.begun:
            self.jobs.close()  # before they are stored: a job that is added meanwhile would be lost
            if message["status"] < 400:
                try:
                    await self.jobs.store()
                except REFUSED as error:
                    await self.refuse(error)
                    return
            self.begun = True
        await self._send(message)

    async def refuse(self, error: EnqueueError) -> None:
        """Answer that the request's jobs are not stored, without details of the engine."""
        self._refused = self.begun = True
        self.jobs.close()
        status, headers, body = refusal(error, self._status, self._retry_after)
        sent = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": sent})
        await self._send({"type": "http.response.body", "body": body})


def refusal(
    error: EnqueueError, status: int = 503, retry_after: int = RETRY_AFTER
) -> tuple[int, dict[str, str], bytes]:
    """Return status, headers and JSON body of the response to a request whose jobs could not be stored."""
    log.warning("a request is refused: %s", error)
    too_large = isinstance(error, PayloadTooLarge)
    detail = "the job is too large" if too_large else "busy: try again later"
    body = json.dumps({"detail": detail}).encode()
    headers = {"Content-Type": "application/json", "Content-Length": str(len(body))}
    return (413, headers, body) if too_large else (status, headers | {"Retry-After": str(retry_after)}, body)
