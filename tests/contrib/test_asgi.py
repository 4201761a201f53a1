"""The example shops of services/web on a real server: jobs that survive, answers to a full queue, workers beside."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest
from fastapi import BackgroundTasks, FastAPI
from fastapi.responses import StreamingResponse

from framework import Settings
from framework.contrib.asgi import jobs_of
from framework.contrib.fastapi import JobsMiddleware, RequestJobs
from framework.engine.port import open_engine
from framework.model.options import QueueOptions
from services.web.shop import Invoice, ShopQueues
from tests.support.command import TIMEOUT, Cli, wait_for

ROOT = Path(__file__).parents[2]


@contextmanager
def serving(module: str, spool: Path, **env: str) -> Iterator[tuple[subprocess.Popen[str], httpx.Client]]:
    """A web application on a port of its own, and a client for it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    environ = Cli(spool.parent).environ | {"WORKER_ENGINE_URL": f"spool:{spool}", "OTEL_SDK_DISABLED": "true"} | env
    process = subprocess.Popen(
        [sys.executable, "-m", "uvicorn", f"services.web.{module}:api", f"--port={port}"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=ROOT, env=environ, text=True,
    )  # fmt: skip
    try:
        wait_for(process, "Uvicorn running")
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=TIMEOUT) as client:
            yield process, client
    finally:
        process.kill()
        process.communicate(timeout=TIMEOUT)


def ready(spool: Path) -> dict[str, int | None]:
    """How many jobs are ready, by queue."""
    engine = open_engine(f"spool:{spool}", incarnation="look")
    engine.open([QueueOptions("shop.invoices"), QueueOptions("shop.mails")])
    try:
        return {name: engine.stats(f"shop.{name}").ready for name in ("invoices", "mails")}
    finally:
        engine.close()


@pytest.mark.parametrize(
    ("module", "status", "retry_after"),
    [("on_starlette", 429, "7"), ("on_litestar", 503, "5"), ("on_fastapi", 503, "5")],
)
def test_jobs_are_stored_before_the_answer_or_it_says_so(
    tmp_path: Path, module: str, status: int, retry_after: str
) -> None:
    spool = tmp_path / "spool"
    no_workers = {f"WORKER_QUEUES__{name}__WORKERS": "0" for name in ("INVOICES", "MAILS")}
    if module == "on_fastapi":  # the example runs its workers beside it: one that has nothing to do here
        no_workers = {"WORKER_QUEUES__INVOICES__WORKERS": "0"}
    with serving(module, spool, WORKER_QUEUES__INVOICES__MAX_LENGTH="2", **no_workers) as (process, client):
        assert client.post("/orders/1").status_code == 202
        process.send_signal(signal.SIGSTOP)  # nothing is stored after the answer
        assert ready(spool)["invoices"] == 1
        process.send_signal(signal.SIGCONT)
        assert client.post("/orders/0").status_code == 404
        assert client.post("/orders/2/invoice").json()["job"]
        assert ready(spool)["invoices"] == 2
        for path in ("/orders/3", "/orders/4/invoice"):
            refused = client.post(path)
            assert (refused.status_code, refused.headers["Retry-After"]) == (status, retry_after), path
            assert refused.json() == {"detail": "busy: try again later"}
        assert ready(spool)["invoices"] == 2


def test_workers_beside_a_web_process_end_with_it_at_kill_9(tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    with serving("on_fastapi", spool) as (process, client):
        assert client.post("/orders/7").status_code == 202
        wait_for(process, '"mail_sent"')
        os.kill(process.pid, signal.SIGKILL)
        rest, _ = process.communicate(timeout=TIMEOUT)  # the pipe closes when the last worker has ended
    assert "stopped, exit code 0" in rest
    assert Cli(tmp_path).run("health", env={"WORKER_ENGINE_URL": f"spool:{spool}"}).code == 1


def test_workers_beside_are_started_again_and_drain_with_the_web_process(tmp_path: Path) -> None:
    with serving("on_fastapi", tmp_path / "spool") as (process, client):
        (supervisor,) = psutil.Process(process.pid).children()
        supervisor.kill()
        wait_for(process, "ended with exit code -9: again in 1 s")
        assert client.post("/orders/8/invoice").json() == {"job": "invoice-8"}
        wait_for(process, "invoice_printed")
        process.send_signal(signal.SIGTERM)
        rest, _ = process.communicate(timeout=TIMEOUT)
    assert "stopped, exit code 0" in rest
    assert "Traceback" not in rest


def test_a_service_that_cannot_start_fails_the_web_process(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="WORKER_QUEUES__INVOICES__WORKERS"):
        with serving("on_fastapi", tmp_path / "spool", WORKER_QUEUES__INVOICES__WORKERS="many"):
            raise RuntimeError("it serves")


@pytest.mark.parametrize(
    ("kind", "message"),
    [("http", "no JobsMiddleware"), ("websocket", "only an HTTP request has jobs, and this is a websocket")],
)
def test_without_middleware_the_mistake_is_named(kind: str, message: str) -> None:
    class Request:
        scope = {"type": kind}

    with pytest.raises(RuntimeError, match=message):
        jobs_of(Request())


api = FastAPI()
api.add_middleware(JobsMiddleware)


@api.post("/background")
async def background(jobs: RequestJobs, tasks: BackgroundTasks) -> None:
    tasks.add_task(jobs.add, ShopQueues.invoices, Invoice(order=1))


@api.post("/refused", status_code=400)
async def refused(jobs: RequestJobs, tasks: BackgroundTasks) -> None:
    tasks.add_task(jobs.add, ShopQueues.invoices, Invoice(order=1))


@api.post("/stream")
async def stream(jobs: RequestJobs) -> StreamingResponse:
    async def parts() -> AsyncIterator[bytes]:
        yield b"first"
        jobs.add(ShopQueues.invoices, Invoice(order=2))

    return StreamingResponse(parts())


@api.post("/option")
async def option(jobs: RequestJobs) -> None:
    jobs.add(ShopQueues.invoices, Invoice(order=3), priority=3, delay=0)
    jobs.add(ShopQueues.invoices, Invoice(order=4), prio=3)


async def test_a_job_that_nothing_would_store_is_an_error(tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    client = httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://shop")
    with ShopQueues.connect(Settings(engine_url=f"spool:{spool}")):
        for path in ("/background", "/refused", "/stream"):
            with pytest.raises(RuntimeError, match=r"the response has begun: use await queue\.aenqueue\(\.\.\.\)"):
                await client.post(path)
        with pytest.raises(TypeError, match=r"a job of shop\.invoices has no option 'prio'; there are .*priority"):
            await client.post("/option")
    assert ready(spool)["invoices"] == 0
