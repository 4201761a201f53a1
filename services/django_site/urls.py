"""One view, which makes a user and enqueues a task in the same transaction."""

from __future__ import annotations

from django.contrib.auth.models import User
from django.db import transaction
from django.http import HttpRequest, HttpResponseBadRequest, JsonResponse
from django.urls import path

from services.django_site.tasks import welcome


def sign_up(request: HttpRequest, name: str) -> JsonResponse | HttpResponseBadRequest:
    try:
        with transaction.atomic():
            user = User.objects.create(username=name)
            result = welcome.enqueue(user.pk)
            if name == "nobody":
                raise ValueError("not this one")  # the user and the task go together
    except ValueError as error:
        return HttpResponseBadRequest(str(error))
    return JsonResponse({"task": result.id})


urlpatterns = [path("users/<slug:name>", sign_up)]
