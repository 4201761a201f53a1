"""From an empty directory to the first job that survives kill -9, as a new user goes: `python -m bench.sixty_seconds`.

The clock runs from `python -m venv` over `pip install` from a directory of wheels, a new service, a job whose worker is
killed in the middle, to the line that its second attempt prints. Collecting the wheels is not measured: that is the
network. Plain, with FastAPI and with Django; `--python` chooses the interpreter.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]
PATIENCE = 60  # seconds for any step
# The body of a handler: the first attempt is long enough to be killed.
BODY = """
    import os, time
    print(f"began {os.getpid()}", flush=True)
    time.sleep(30 if attempt == 1 else 0)
    print("survived", flush=True)
"""
SERVICE = f"""
def body(attempt: int) -> None:{BODY}

"""
PLAIN = """
from framework import Context, Queue, WorkerApp
{service}
class First(WorkerApp):
    jobs = Queue[int]("jobs")

    @jobs.handler
    def run(self, number: int, ctx: Context) -> None:
        body(ctx.attempt)
"""
FASTAPI = (
    PLAIN
    + """
from fastapi import FastAPI
from framework.contrib.fastapi import JobsMiddleware, RequestJobs, lifespan

api = FastAPI(lifespan=lifespan(First, running=True))
api.add_middleware(JobsMiddleware)


@api.post("/", status_code=202)
async def enqueue(jobs: RequestJobs) -> None:
    jobs.add(First.jobs, 1)
"""
)
DJANGO = """
try:
    from django.tasks import task
except ImportError:
    from django_tasks import task
{service}
@task(takes_context=True)
def first(context) -> None:
    body(context.attempt)
"""
SETTINGS = """
INSTALLED_APPS += ["framework.contrib.django"]
TASKS = {"default": {"BACKEND": "framework.contrib.django.backend.WorkerBackend"}}
"""


@dataclass
class Place:
    """One empty directory, its environment, and the seconds that each step took."""

    home: Path
    steps: list[tuple[str, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._since = time.monotonic()
        self.environ = {k: v for k, v in os.environ.items() if not k.startswith(("WORKER_", "OTEL_", "PYTHON"))}
        self.environ |= {"OTEL_SDK_DISABLED": "true", "PYTHONUNBUFFERED": "1"}

    def step(self, name: str) -> None:
        """Note the seconds since the last step."""
        now = time.monotonic()
        self.steps.append((name, now - self._since))
        self._since = now

    def bin(self, name: str) -> str:
        return str(self.home / ".venv" / "bin" / name)

    def run(self, *command: str) -> None:
        done = subprocess.run(command, cwd=self.home, env=self.environ, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")

    def start(self, *command: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            command, cwd=self.home, env=self.environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )


def wait_for(process: subprocess.Popen[str], text: str) -> str:
    """Return the first line of a process's output that has this text."""
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(line)
        if text in line:
            return line
    raise SystemExit(f"the process ended without {text!r}:\n{''.join(seen)}")


def survive(place: Place, process: subprocess.Popen[str], enqueue: Callable[[], None], ready: str) -> None:
    """Enqueue a job once the process is ready, kill its worker in the middle, and see it run again."""
    try:
        wait_for(process, ready)
        place.step("start")
        enqueue()
        os.kill(int(wait_for(process, "began ").split()[1]), signal.SIGKILL)
        wait_for(process, "survived")
        place.step("job, kill -9, job")
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=PATIENCE)


def plain(place: Place) -> None:
    (place.home / "first.py").write_text(PLAIN.format(service=SERVICE))
    place.step("write")
    process = place.start(place.bin("worker"), "run", "first")
    survive(place, process, lambda: place.run(place.bin("worker"), "enqueue", "first", "jobs", "1"), "process_ready")


def fastapi(place: Place) -> None:
    (place.home / "first.py").write_text(FASTAPI.format(service=SERVICE))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
    place.step("write")
    process = place.start(place.bin("uvicorn"), "first:api", f"--port={url.rpartition(':')[2].rstrip('/')}")
    request = urllib.request.Request(url, method="POST")
    survive(place, process, lambda: urllib.request.urlopen(request, timeout=PATIENCE).close(), "Uvicorn running")


def django(place: Place) -> None:
    python, site = place.bin("python"), place.home / "site1"
    place.run(place.bin("django-admin"), "startproject", "site1", ".")
    with (site / "settings.py").open("a") as settings:
        settings.write(SETTINGS)
    (site / "tasks.py").write_text(DJANGO.format(service=SERVICE))
    place.step("write")
    enqueue = "from site1.tasks import first; first.enqueue()"
    process = place.start(python, "manage.py", "worker")
    survive(place, process, lambda: place.run(python, "manage.py", "shell", "-c", enqueue), "process_ready")


KINDS: dict[str, tuple[Callable[[Place], None], Sequence[str]]] = {
    "plain": (plain, ["continuum-worker"]),
    "fastapi": (fastapi, ["continuum-worker[fastapi]", "uvicorn"]),
    "django": (django, ["continuum-worker[django]"]),
}


def collect(python: str, wheels: Path) -> None:
    """Build our wheel and download what it depends on."""
    pip = [python, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", f"--wheel-dir={wheels}", str(ROOT)], check=True)
    wanted = sorted({name for _, names in KINDS.values() for name in names})
    subprocess.run([*pip, "download", f"--find-links={wheels}", f"--dest={wheels}", *wanted], check=True)


def measure(kind: str, python: str, wheels: Path) -> float:
    """Go the whole way in an empty directory; print the steps and return the seconds."""
    act, names = KINDS[kind]
    with tempfile.TemporaryDirectory(prefix=f"first-{kind}-") as home:
        place = Place(Path(home))
        place.run(python, "-m", "venv", ".venv")
        place.step("venv")
        place.run(place.bin("pip"), "install", "--quiet", "--no-index", f"--find-links={wheels}", *names)
        place.step("pip install")
        act(place)
        total = sum(seconds for _, seconds in place.steps)
        print(f"{kind:8} {total:5.1f} s  ({', '.join(f'{name} {seconds:.1f}' for name, seconds in place.steps)})")
        return total


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--kind", action="append", choices=list(KINDS), help="may be repeated; default: all")
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--most", type=float, default=60.0, help="seconds that each may take (60)")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="wheels-") as wheels:
        collect(given.python, Path(wheels))
        slow = [kind for kind in given.kind or KINDS if measure(kind, given.python, Path(wheels)) > given.most]
    print(f"within {given.most:g} s" if not slow else f"above {given.most:g} s: {', '.join(slow)}")
    return 1 if slow else 0


if __name__ == "__main__":
    sys.exit(main())
