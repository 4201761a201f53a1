"""The settings of the project: what tasks need, and a database beside the spool."""

from __future__ import annotations

import os

SECRET_KEY = os.environ.get("DJANGO_SECRET_KEY", "for-this-demo-only")
ALLOWED_HOSTS = ["127.0.0.1", "localhost"]
ROOT_URLCONF = "services.django_site.urls"
USE_TZ = True
INSTALLED_APPS = ["django.contrib.contenttypes", "django.contrib.auth", "framework.contrib.django"]
DATABASES = {
    "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": os.environ.get("DJANGO_DATABASE", "var/site.sqlite3")}
}
TASKS = {"default": {"BACKEND": "framework.contrib.django.backend.WorkerBackend"}}
