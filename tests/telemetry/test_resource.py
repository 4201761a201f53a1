"""Which process emitted: names from the environment win, and an instance is a slot."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from framework.telemetry import ProcessIdentity
from framework.telemetry.sdk.resource import instance_id, resource_of
from tests.telemetry.helpers import IDENTITY


def test_the_app_names_the_service_unless_the_environment_does(monkeypatch):
    assert resource_of(IDENTITY).attributes["service.name"] == "relay"
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "service.name=from-attributes,service.namespace=shop")
    attributes = resource_of(IDENTITY).attributes
    assert (attributes["service.name"], attributes["service.namespace"]) == ("from-attributes", "shop")
    monkeypatch.delenv("OTEL_RESOURCE_ATTRIBUTES")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "from-variable")
    assert resource_of(IDENTITY).attributes["service.name"] == "from-variable"


def test_version_and_environment_come_from_the_environment(monkeypatch):
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "service.version=1.2.3,deployment.environment.name=prod%20eu")
    attributes = resource_of(IDENTITY).attributes
    assert (attributes["service.version"], attributes["deployment.environment.name"]) == ("1.2.3", "prod eu")
    assert attributes["process.pid"] == os.getpid()


def test_a_replaced_process_of_a_slot_is_the_same_instance():
    assert instance_id(IDENTITY, host="h") == instance_id(IDENTITY, host="h")
    first, second = resource_of(IDENTITY, pid=1, host="h"), resource_of(IDENTITY, pid=2, host="h")
    assert first.attributes["service.instance.id"] == second.attributes["service.instance.id"]


@pytest.mark.parametrize(
    "other",
    [
        replace(IDENTITY, slot="deliveries/1"),
        replace(IDENTITY, instance=1),
        replace(IDENTITY, app="shop"),
        ProcessIdentity("relay", "maintenance", "deliveries/0", 0, "spool"),
    ],
)
def test_another_slot_instance_app_or_role_is_another_instance(other):
    assert instance_id(other, host="h") != instance_id(IDENTITY, host="h")


def test_another_host_is_another_instance():
    assert instance_id(IDENTITY, host="a") != instance_id(IDENTITY, host="b")


def test_one_id_given_to_all_processes_of_a_pod_still_tells_them_apart(monkeypatch):
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "service.instance.id=pod-7")
    ids = {
        resource_of(replace(IDENTITY, slot=f"deliveries/{i}"), host=host).attributes["service.instance.id"]
        for i in range(3)
        for host in ("a", "b")
    }
    assert len(ids) == 3  # by slot; the pod's id stands for the host
    assert "pod-7" not in ids
