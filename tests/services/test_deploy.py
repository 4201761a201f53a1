"""deploy/: the systemd unit and the Kubernetes manifests, as the programs that read them see them."""

from __future__ import annotations

import shutil
import subprocess
from configparser import RawConfigParser
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
from ruamel.yaml import YAML

from framework.process.supervisor import LAST_GRACE
from framework.service.settings import OTHER_VARIABLES, Settings
from tests.support.command import WORKER

DEPLOY = Path(__file__).parents[2] / "deploy"
UNIT = DEPLOY / "systemd" / "relay.service"
KUBERNETES = "1.34"
AFTER = 5  # seconds that the end of the supervisor and a container's own end may take beyond the drain

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not here")
needs_kubectl = pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not here")


def known(name: str) -> bool:
    return name in OTHER_VARIABLES or name.removeprefix("WORKER_").lower() in Settings.model_fields


@needs_systemd
def test_systemd_finds_no_mistake_in_the_unit(tmp_path: Path) -> None:
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/opt/relay/.venv/bin/worker", str(WORKER)))
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, timeout=60)
    ours = [line for line in done.stderr.splitlines() if "relay" in line]
    assert (done.returncode, ours) == (0, [])


def test_the_unit_gives_a_drain_its_time() -> None:
    parser = RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(UNIT)
    service = parser["Service"]
    settings = Settings()
    assert float(service["TimeoutStopSec"]) >= float(settings.drain) + LAST_GRACE + settings.telemetry_flush + AFTER
    assert float(service["TimeoutStartSec"]) > settings.ready_within
    assert (service["Type"], service["KillMode"]) == ("notify", "mixed")
    assert all(known(pair.partition("=")[0]) for pair in service["Environment"].split())


def manifests(name: str) -> list[dict[str, Any]]:
    done = subprocess.run(
        ["kubectl", "kustomize", DEPLOY / "kubernetes" / name], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return list(YAML(typ="safe").load_all(done.stdout))


@needs_kubectl
@pytest.mark.parametrize("name", ["base", "keda", "spool"])
def test_kubernetes_takes_the_manifests(name: str) -> None:
    found = manifests(name)
    for one in found:
        if one["kind"] != "ScaledObject":  # KEDA's own
            kubernetes_validate.validate(one, KUBERNETES, strict=True)
    (pod,) = (one["spec"]["template"]["spec"] for one in found if one["kind"] in ("Deployment", "StatefulSet"))
    (config,) = [one["data"] for one in found if one["kind"] == "ConfigMap"] or [
        {pair["name"]: pair["value"] for pair in pod["containers"][0]["env"]}
    ]
    assert all(known(variable) for variable in config)
    assert pod["terminationGracePeriodSeconds"] >= float(config["WORKER_DRAIN"]) + LAST_GRACE + AFTER
    (worker,) = pod["containers"]
    port = int(config["WORKER_HEALTH"].rpartition(":")[2])
    assert [one["containerPort"] for one in worker["ports"]] == [port]
    for probe, path in (("startupProbe", "/startupz"), ("livenessProbe", "/livez"), ("readinessProbe", "/readyz")):
        assert worker[probe]["httpGet"] == {"path": path, "port": "health"}
    start = worker["startupProbe"]
    assert start["periodSeconds"] * start["failureThreshold"] > Settings().ready_within
    assert pod["securityContext"]["runAsNonRoot"]
    assert worker["securityContext"]["readOnlyRootFilesystem"]


@needs_kubectl
def test_keda_scales_the_deployment_by_metrics_that_exist() -> None:
    found = {one["kind"]: one for one in manifests("keda")}
    scaled = found["ScaledObject"]["spec"]
    assert scaled["scaleTargetRef"]["name"] == found["Deployment"]["metadata"]["name"]
    assert "replicas" not in found["Deployment"]["spec"]
    alerts = (DEPLOY.parent / "observability" / "prometheus" / "alerts.yml").read_text()
    for trigger in scaled["triggers"]:
        metric = next(word for word in trigger["metadata"]["query"].replace("(", "{").split("{") if "worker_" in word)
        assert f"{metric}{{" in alerts or f"({metric}" in alerts
        assert isinstance(trigger["metadata"]["threshold"], str)
