"""Django: a backend for its tasks, and `manage.py worker`.

    INSTALLED_APPS = [..., "framework.contrib.django"]
    TASKS = {"default": {"BACKEND": "framework.contrib.django.backend.WorkerBackend"}}

`django.tasks` comes with Django 6. For older versions `django-tasks` has the same names.
"""
