"""Django's tasks, from Django 6 or from the package `django-tasks`, which has the same names for older versions."""

from __future__ import annotations

import importlib
from typing import Any

from django.core.exceptions import ImproperlyConfigured


def _found() -> tuple[Any, ...]:
    for package in ("django.tasks", "django_tasks"):
        try:
            return tuple(
                importlib.import_module(f"{package}{part}") for part in (".base", ".backends.base", ".signals")
            )
        except ModuleNotFoundError as error:
            if error.name is None or not error.name.startswith(package):
                raise
    raise ImproperlyConfigured("tasks need Django 6, or with an older one the package django-tasks")


base, backends, signals = _found()
