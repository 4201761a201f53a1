"""What docker-compose.yml pins, as versions that Go's module proxy knows; read from the file, so that the versions that
are proven are the versions that run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]


def load(path: str) -> Any:
    """A YAML file of the repository."""
    return YAML(typ="safe").load(ROOT / path)


@dataclass(frozen=True, slots=True)
class Pins:
    """Versions with their `v`: of the images, and of the modules from which the same releases are built."""

    images: Mapping[str, str]
    collector: str
    prometheus: str
    jaeger: str
    victorialogs: str

    @classmethod
    def read(cls) -> Pins:
        """From docker-compose.yml. ValueError names an image that is not pinned to a release."""
        services = load("docker-compose.yml")["services"]
        found = {name: services[name]["image"] for name in ("otel-collector", "prometheus", "jaeger", "victorialogs")}
        collector, prometheus, jaeger, logs = (_release(image) for image in found.values())
        return cls(
            images=found,
            collector="v{}.{}.{}".format(*collector),
            # Prometheus v3.14.0 is the module v0.314.0.
            prometheus=f"v0.{prometheus[0]}{prometheus[1]:02}.{prometheus[2]}",
            # Up to 2.13 (v1.76.0) each release of Jaeger 2 had a tag of version 1, too; the module's path has no /v2.
            jaeger=f"v1.{jaeger[1] + 63}.{jaeger[2]}",
            victorialogs="v{}.{}.{}".format(*logs),
        )


def _release(image: str) -> tuple[int, int, int]:
    match = re.search(r":v?(\d+)\.(\d+)\.(\d+)$", image)
    if match is None:
        raise ValueError(f"docker-compose.yml: {image} is not pinned to a release such as name:1.2.3")
    major, minor, patch = (int(part) for part in match.groups())
    return major, minor, patch
