"""The tasks, written as Django's documentation has them."""

from __future__ import annotations

from django.contrib.auth.models import User

try:
    from django.tasks import TaskContext, task
except ImportError:  # before Django 6
    from django_tasks import TaskContext, task


@task()
def welcome(user_id: int) -> None:
    """Greet a user, who exists: the task is enqueued when the transaction commits."""
    print(f"welcome, {User.objects.get(id=user_id).username}", flush=True)


@task(takes_context=True)
async def report(context: TaskContext, title: str) -> None:
    """Fail at the first attempt, to show the second."""
    if context.attempt == 1:
        raise ConnectionError("the printer is off")
    print(f"report {title}, attempt {context.attempt}", flush=True)
