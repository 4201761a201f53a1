"""The Django project of services/django_site: its tasks through real processes, and the backend's own rules."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import postgres
from tests.support.command import TIMEOUT, Cli

ROOT = Path(__file__).parents[2]

ENQUEUE = """
import json, django
django.setup()
from datetime import timedelta
from django.db import transaction
from django.test import Client
from django.utils import timezone
from framework.contrib.django.tasks_api import signals
from services.django_site.tasks import report, welcome

told = []
signals.task_enqueued.connect(lambda sender, task_result, **_: told.append(task_result.id), weak=False)
found = {"ids": [Client().get("/users/ada").json()["task"]]}
found["refused"] = Client().get("/users/nobody").status_code
with transaction.atomic():
    found["ids"].append(report.enqueue(title="of the year").id)
    found["before the commit"] = len(told)
welcome.using(run_after=timezone.now() + timedelta(hours=1)).enqueue(1)
found["told"] = told
found["backend"] = type(welcome.get_backend()).__name__
print(json.dumps(found))
"""


@pytest.fixture
def site(tmp_path: Path) -> Cli:
    found = Cli(tmp_path)
    found.environ |= {
        "DJANGO_SETTINGS_MODULE": "services.django_site.settings",
        "DJANGO_DATABASE": str(tmp_path / "site.sqlite3"),
        "OTEL_SDK_DISABLED": "true",
        "WORKER_QUEUES__DEFAULT__RETRY__FIRST_DELAY": "0",
    }
    return found


def python(site: Cli, *args: str) -> str:
    done = subprocess.run(
        [sys.executable, *args],
        cwd=ROOT,
        env=site.environ,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def test_tasks_are_enqueued_at_the_commit_and_run_by_the_management_command(site: Cli) -> None:
    python(site, "-m", "services.django_site", "migrate", "--verbosity=0")
    found = json.loads(python(site, "-c", ENQUEUE))
    assert (found["backend"], found["refused"], found["before the commit"]) == ("WorkerBackend", 400, 1)
    assert found["told"][:2] == found["ids"]
    assert len(found["told"]) == 3
    out = python(site, "-m", "services.django_site", "worker", "--burst")
    assert "welcome, ada" in out
    assert "report of the year, attempt 2" in out
    assert '"retried"' in out
    assert "the printer is off" in out
    assert "1 delayed jobs stay for later" in out


def test_a_task_that_is_gone_becomes_a_dead_letter(site: Cli) -> None:
    call = '{"path": "services.django_site.tasks.renamed"}'
    for path in (call, call.replace("renamed", "User")):
        python(site, "-m", "continuum_worker", "enqueue", "framework.contrib.django.queues", "default", path)
    out = python(site, "-m", "services.django_site", "worker", "--burst", "--solo")
    assert "no task services.django_site.tasks.renamed" in out
    assert "services.django_site.tasks.User is no task" in out
    assert out.count('"dead_lettered"') == 2


SETTINGS = """
from services.django_site.settings import *
INSTALLED_APPS += ["mysite"]
"""
MANAGE = f"""
import sys
sys.path.append({str(ROOT)!r})
from django.core.management import execute_from_command_line
execute_from_command_line([*sys.argv, "--settings=mysite.settings"])
"""
LEAVING = """
import sys
import time
from framework.contrib.django.tasks_api import signals

try:
    from django.tasks import task
except ImportError:
    from django_tasks import task


def tell(sender, task_result, **_):
    print("told:", task_result.status, task_result.errors[0].exception_class_path, flush=True)


signals.task_finished.connect(tell)


@task()
def leave():
    sys.exit(3)


@task()
def hang():
    time.sleep(60)
"""


def test_a_task_that_exits_or_hangs_has_finished_and_manage_py_may_be_elsewhere(site: Cli) -> None:
    for name, text in (
        ("manage", MANAGE),
        ("mysite/__init__", ""),
        ("mysite/settings", SETTINGS),
        ("mysite/tasks", LEAVING),
    ):
        site.write(f"project/{name}.py", text)
    site.environ |= {"WORKER_QUEUES__DEFAULT__RETRY__MAX_RETRIES": "0", "WORKER_QUEUES__DEFAULT__TIMEOUT": "0.5"}
    site.ok("enqueue", "framework.contrib.django.queues", "default", '{"path": "mysite.tasks.leave"}')
    site.ok("enqueue", "framework.contrib.django.queues", "default", '{"path": "mysite.tasks.hang"}')
    out = python(site, str(site.home / "project" / "manage.py"), "worker", "--burst")
    assert "told: FAILED builtins.SystemExit" in out, out
    assert "told: FAILED framework.JobInterrupted" in out, "at its soft timeout"


IN_TRANSACTION = """
import django
django.setup()
from django.contrib.auth.models import User
from django.db import connection, transaction
from services.django_site.tasks import welcome

def stored():
    with connection.cursor() as cursor:
        cursor.execute("select count(*) from worker.job")
        return cursor.fetchone()[0]

with transaction.atomic():
    welcome.enqueue(User.objects.create(username="grace").pk)
    print(stored())
    transaction.set_rollback(True)
print(stored())
with transaction.atomic():
    welcome.enqueue(User.objects.create(username="ada").pk)
print(stored())
"""


def test_on_postgresql_a_task_is_a_row_of_the_transaction(site: Cli) -> None:
    server = postgres.shared()
    postgres.empty(server)
    site.environ |= {
        "DJANGO_SETTINGS_MODULE": "tests.contrib.on_postgres",
        "WORKER_ENGINE_URL": f"{server.url}?local_dir={site.home / 'local'}",
    }
    python(site, "-m", "services.django_site", "migrate", "--verbosity=0")
    assert python(site, "-c", IN_TRANSACTION).split() == ["1", "0", "1"]
    out = python(site, "-m", "services.django_site", "worker", "--burst", "--solo")
    assert "welcome, ada" in out
    assert "grace" not in out


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"OPTIONS": {"retries": 3}}, "TASKS['default']: no option 'retries'; there are queues, database"),
        ({"QUEUES": ["mails"]}, "TaskQueues has no Queue[TaskCall] with the attribute 'mails'"),
    ],
)
def test_wrong_settings_are_named(params: dict[str, object], message: str) -> None:
    from django.core.exceptions import ImproperlyConfigured

    from framework.contrib.django.backend import WorkerBackend

    with pytest.raises(ImproperlyConfigured) as error:
        WorkerBackend("default", params)
    assert message in str(error.value)


def test_a_task_of_another_package_is_refused_when_it_is_enqueued() -> None:
    from django.core.exceptions import ImproperlyConfigured

    from framework.contrib.django.backend import WorkerBackend

    with pytest.raises(ImproperlyConfigured, match="is a task of builtins, and this backend is for those of django"):
        WorkerBackend("default", {}).enqueue(len, [], {})
