"""Writes the lists of `reference.md`: each public name, with the first sentence of its docstring.

On the site each line becomes all that the docstring says (docs/site.py). A public name without a group, or in two,
stops this. `python -m docs.reference`
"""

from __future__ import annotations

import importlib
import inspect
import os
from pathlib import Path

import framework
from docs.emitted import written
from framework.model import errors, outcome

PAGE = Path(__file__).with_name("reference.md")
GENERATOR = "docs/reference.py"

GROUPS = {
    "declarations": "WorkerApp Queue Pool Slot Settings",
    "options": "RetryPolicy Slo Unique Breaker Cron Every",
    "handlers": "Context Running Item Ended DeadLetter Failure JobId Logger",
    "ends": "RetryLater Snooze Reject Discard JobInterrupted",
    "errors": "WorkerError DeclarationError SettingsError EngineError EnqueueError QueueFull PayloadTooLarge "
    "InvalidPayload InvalidArgument Duplicate EnqueueFailed EnqueueUncertain",
}
MODULES = {
    "testing": {"framework.testing": ["harness", "context", "Harness"]},
    "asgi": {"framework.contrib.asgi": ["lifespan", "Jobs", "jobs_of", "JobsMiddleware"]},
    "fastapi": {"framework.contrib.fastapi": ["from_queue", "request_jobs"]},
    "django": {
        "framework.contrib.django.backend": ["WorkerBackend"],
        "framework.contrib.django.queues": ["TaskQueues", "TaskCall"],
        "framework.contrib.django.service": ["run_task"],
    },
    "web": {"framework.web": ["app"], "framework.web.config": ["Config"]},
}


def lists() -> dict[str, str]:
    """Return the lists by name. Raises ValueError: a public name has no group, or two, or no docstring."""
    listed = [name for names in GROUPS.values() for name in names.split()]
    if sorted(listed) != sorted(framework.__all__):
        raise ValueError(
            f"GROUPS and framework.__all__ differ: {sorted(set(listed) ^ set(framework.__all__)) or listed}"
        )
    made = {group: "".join(_line("framework", name) for name in names.split()) for group, names in GROUPS.items()}
    for group, modules in MODULES.items():
        made[group] = "".join(_line(module, name) for module, names in modules.items() for name in names)
    return made


def _line(module: str, name: str) -> str:
    value = getattr(importlib.import_module(module), name)
    said = inspect.getdoc(value) if value.__doc__ else None
    if not said:
        raise ValueError(f"{module}.{name} has no docstring")
    # Exceptions name `framework` as their module, as services import them.
    raised = inspect.isclass(value) and issubclass(value, BaseException)
    home = next(found for found in (errors, outcome) if hasattr(found, name)) if raised else inspect.unwrap(value)
    file = Path(inspect.getfile(home)).relative_to(PAGE.parents[1])
    sentence = " ".join(said.partition("\n\n")[0].split())
    return f"- [`{module}.{name}`](../{file.as_posix()}): {sentence}\n"


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "services.django_site.settings")
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8"), lists(), by=GENERATOR), encoding="utf-8")


if __name__ == "__main__":
    main()
