"""The settings of services/django_site on the PostgreSQL that is also the engine."""

from __future__ import annotations

import os
from urllib.parse import urlsplit

from services.django_site.settings import *  # noqa: F403

_place = urlsplit(os.environ["WORKER_ENGINE_URL"])
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": "postgres",
        "USER": "postgres",
        "HOST": _place.hostname,
        "PORT": _place.port,
    }
}
TASKS = {
    "default": {
        "BACKEND": "framework.contrib.django.backend.WorkerBackend",
        "OPTIONS": {"transactional": True},
    }
}
