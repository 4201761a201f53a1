"""The routes of the page, its errors, and what it tells monitoring."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from framework.admin.live.desk import Desk
from framework.admin.live.tasks import Task, Tasks
from framework.engine.port import QueueStats
from framework.model.errors import EngineError, UsageError, WorkerError
from framework.model.events import Event, OperatorActed
from framework.model.text.redaction import redact
from framework.service.app import WorkerApp
from framework.service.settings import Settings
from framework.web import forms, metrics
from framework.web.acting import Acting
from framework.web.config import Config
from framework.web.guard import STATIC, Guard
from framework.web.history import EVERY, History
from framework.web.pages import Pages, Values
from framework.web.remembered import Remembered
from framework.web.render import HERE, Render
from framework.web.sessions import COOKIE, LASTS, Sessions, TooMany

REMEMBERED = 200  # acts
log = logging.getLogger("framework.web")
Handler = Callable[[Request], Awaitable[Response]]


class Site:
    """The page of one store.

    Args:
        emit: takes each act, besides the page's own list; by default a line of the logger `framework.web`.
    """

    def __init__(
        self,
        settings: Settings,
        app: type[WorkerApp] | None,
        config: Config,
        *,
        url: str = "",
        emit: Callable[[Event], None] | None = None,
    ) -> None:
        self.config = config
        self._tell = emit or _log
        self._noted: deque[OperatorActed] = deque(maxlen=REMEMBERED)
        self._answers: Counter[int] = Counter()
        self._desk = Desk(settings, app, url, self._emit)
        self._behind = Desk(settings, app, url, self._emit)
        self._remembered = Remembered(self._behind)
        self._tasks = Tasks(self._desk, self._task)
        self._history = History()
        self._pages = Pages(config, self._desk, self._history, self._remembered)
        self._acting = Acting(config, self._desk, self._tasks)
        self._render = Render(config)
        self._sessions = Sessions(config)

    def asgi(self) -> ASGIApp:
        """Return the ASGI application, with the guard around it."""
        pages = self._pages
        reading = {
            "/": ("overview", pages.overview), "/queue": ("queue", pages.queue), "/jobs": ("jobs", pages.jobs),
            "/job": ("job", pages.job), "/runs": ("runs", pages.runs), "/dead": ("dead", pages.dead),
            "/bad": ("bad", pages.bad), "/bad/file": ("bad_file", pages.bad_file),
            "/schedules": ("schedules", pages.schedules), "/processes": ("processes", pages.processes),
        }  # fmt: skip
        routes = [Route(path, self._reading(name, read)) for path, (name, read) in reading.items()]
        routes += [
            Route("/acts", self._acts),
            Route("/act", self._act, methods=["POST"]),
            Route("/login", self._login, methods=["GET", "POST"]),
            Route("/logout", self._logout, methods=["POST"]),
            Route("/healthz", self._healthz),
            Route("/metrics", self._metrics),
            Route("/static/{name}", _static),
        ]
        errors: dict[int | type[Exception], Handler] = {WorkerError: self._error, 404: self._missing, 500: self._bug}  # type: ignore[dict-item]
        inner = Starlette(routes=routes, exception_handlers=errors, lifespan=self._lifespan)  # type: ignore[arg-type]
        return Guard(inner, self.config, self._sessions)

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncGenerator[None, None]:
        sampling = asyncio.create_task(self._sample())
        try:
            yield
        finally:
            sampling.cancel()
            self._tasks.end()
            await self._desk.close()
            await self._behind.close()

    async def _sample(self) -> None:
        while True:
            if self._history.is_due():
                self._pages.sample()
            await asyncio.sleep(EVERY)

    # --- pages --------------------------------------------------------------------------------------------------------

    def _reading(self, name: str, read: Callable[..., Values]) -> Handler:
        async def page(request: Request) -> Response:
            began = time.perf_counter()
            given = forms.parse(request.scope["query_string"].decode("latin-1"))
            values = await self._desk.ask(lambda store: read(store, given))
            answer = self._render.page(request, f"{name}.html", **values)
            took = (time.perf_counter() - began) * 1000
            answer.headers["server-timing"] = f"page;dur={took:.1f}"
            self._answers[200] += 1
            return answer

        return page

    async def _acts(self, request: Request) -> Response:
        return self._render.page(request, "acts.html", tasks=self._tasks.all, noted=list(reversed(self._noted)))

    async def _act(self, request: Request) -> Response:
        form = forms.parse((await request.body()).decode("latin-1"))
        answer = await self._acting.act(form, request.scope["actor"])
        return self._render.page(request, "answer.html", answer=answer)

    async def _login(self, request: Request) -> Response:
        wrong = ""
        if request.method == "POST":
            form = forms.parse((await request.body()).decode("latin-1"))
            try:
                cookie = self._sessions.login(forms.one(form, "token"), forms.one(form, "name"))
            except TooMany:
                return self._render.page(request, "login.html", 429, wrong="Too many wrong tokens: wait a minute.")
            if cookie is not None:
                root = request.scope.get("root_path", "")
                answer: Response = RedirectResponse(f"{root}/", 303)
                answer.set_cookie(
                    COOKIE, cookie, max_age=LASTS, path=f"{root}/", httponly=True, samesite="strict",
                    secure="https" in (request.url.scheme, request.headers.get("x-forwarded-proto")),
                )  # fmt: skip
                return answer
            wrong = "That is not the token."
        return self._render.page(request, "login.html", 403 if wrong else 200, wrong=wrong)

    async def _logout(self, request: Request) -> Response:
        root = request.scope.get("root_path", "")
        answer = RedirectResponse(f"{root}/login", 303)
        answer.delete_cookie(COOKIE, path=f"{root}/", httponly=True, samesite="strict")
        return answer

    # --- monitoring ---------------------------------------------------------------------------------------------------

    async def _healthz(self, request: Request) -> Response:
        try:
            await self._desk.ask(self._pages.counts)
        except EngineError:
            return PlainTextResponse("the store cannot be read\n", 503)
        return PlainTextResponse("ok\n")

    async def _metrics(self, request: Request) -> Response:
        try:
            stats: dict[str, QueueStats] = await self._desk.ask(self._pages.counts)
        except EngineError:
            stats = {}
        return PlainTextResponse(metrics.text(stats, self._answers), media_type=metrics.MEDIA_TYPE)

    # --- errors -------------------------------------------------------------------------------------------------------

    async def _error(self, request: Request, error: Exception) -> Response:
        usual = 409 if request.method == "POST" else 404
        status = 503 if isinstance(error, EngineError) else 400 if isinstance(error, UsageError) else usual
        return self._message(request, status, redact(str(error)))

    async def _missing(self, request: Request, error: Exception) -> Response:
        return self._message(request, 404, "there is no such page")

    async def _bug(self, request: Request, error: Exception) -> Response:
        return self._message(request, 500, "this page has failed, and its log says why")

    def _message(self, request: Request, status: int, text: str) -> Response:
        self._answers[status] += 1
        return self._render.page(request, "message.html", status, text=text)

    # --- acts ---------------------------------------------------------------------------------------------------------

    def _emit(self, event: Event) -> None:
        self._remembered.forget()
        if isinstance(event, OperatorActed):
            self._noted.append(event)
        self._tell(event)

    def _task(self, task: Task) -> None:
        self._remembered.forget()
        log.info("act %d of %s on many jobs, %s (%s): %s", task.number, task.who, task.verb, task.words, task.state)


def _log(event: Event) -> None:
    if isinstance(event, OperatorActed):
        log.info(
            "%s: %s of %d on %s %s", event.actor, event.verb, event.count, event.queue, event.job_id,
            extra={"actor": event.actor, "verb": event.verb, "queue": event.queue, "count": event.count},
        )  # fmt: skip


async def _static(request: Request) -> Response:
    name = request.path_params["name"]
    if name not in STATIC:
        return PlainTextResponse("there is no such file\n", 404)
    return FileResponse(HERE / "static" / name, headers={"cache-control": "max-age=300"})
