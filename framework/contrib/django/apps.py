"""The Django application."""

from __future__ import annotations

from django.apps import AppConfig


class WorkerConfig(AppConfig):
    """Adds the management command `worker`."""

    name = "framework.contrib.django"
    label = "continuum_worker"
    verbose_name = "continuum-worker"
