"""The chart says only what the roles understand (RT-WRK-1, RT-ARC-2, RT-OBS-14)."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from noetl_worker.metrics import METRICS
from noetl_worker.settings import Settings

ROOT = Path(__file__).parents[3]
CHART = ROOT / "charts/noetl-worker"
TEMPLATES = sorted((CHART / "templates").iterdir())
EVERYTHING = {
    "nats.existingSecret": "broker",
    "monitoring.serviceMonitor.enabled": "true",
    "monitoring.rules.enabled": "true",
    "networkPolicy.enabled": "true",
    "server.ingress.enabled": "true",
    "server.ingress.host": "noetl.example",
    "server.autoscaling.enabled": "true",
    "workers.shared.autoscaling.enabled": "true",
}


def text_of(*names: str) -> str:
    return "\n".join(
        path.read_text() for path in TEMPLATES if not names or path.name in names
    )


def known_variables() -> set[str]:
    """Every environment variable a role understands, older names too."""
    page = (CHART / "SETTINGS.md").read_text()
    return set(re.findall(r"`?\b([A-Z][A-Z0-9_]{3,})\b`?", page))


def test_every_variable_of_the_chart_is_a_setting() -> None:
    named = set(re.findall(r"\{name: ([A-Z][A-Z0-9_]+)", text_of()))
    assert len(named) > 15
    assert named <= known_variables()
    assert Settings.variables()


def test_workers_may_ask_for_credentials_and_cannot_unseal_them() -> None:
    """SC-TR-02: the token goes to workers, the key to the server alone."""
    workers = text_of("workers.yaml")
    assert "NOETL_INTERNAL_API_TOKEN" in workers
    assert "NOETL_ENCRYPTION_KEY" not in workers
    assert "NOETL_ENCRYPTION_KEY" in text_of("server.yaml")


def test_every_metric_of_an_alert_exists() -> None:
    named = set(re.findall(r"\bnoetl_\w+", text_of("monitoring.yaml")))
    named -= {"noetl_materializer"}  # a label's value
    assert named <= {metric.name for metric in METRICS}


def test_the_chart_has_the_version_of_the_package() -> None:
    chart = YAML(typ="safe").load((CHART / "Chart.yaml").read_text())
    package = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert chart["appVersion"] == chart["version"] == package["version"]


@pytest.mark.skipif(shutil.which("helm") is None, reason="helm is not installed here")
@pytest.mark.parametrize("more", [{}, EVERYTHING], ids=["defaults", "everything"])
def test_each_role_gets_its_own_secrets_only(more: dict[str, str]) -> None:
    """RT-ARC-2: neither owners nor tool workers can reach the platform's database."""
    roles = {
        document["metadata"]["name"].removeprefix("r-noetl-worker-"): document
        for document in rendered(more)
        if document["kind"] == "Deployment"
    }
    assert set(roles) == {"server", "system", "materializer", "worker-shared"}
    with_database = {
        name for name, role in roles.items() if "POSTGRES_PASSWORD" in variables(role)
    }
    assert with_database == {"server", "materializer"}
    with_key = {
        name
        for name, role in roles.items()
        if "NOETL_ENCRYPTION_KEY" in variables(role)
    }
    assert with_key == {"server"}


def rendered(more: dict[str, str]) -> list[dict[str, Any]]:
    """Every document the chart makes of these values."""
    sets = [word for pair in more.items() for word in ("--set", "=".join(pair))]
    done = subprocess.run(
        ["helm", "template", "r", str(CHART), "--kube-version", "1.30", *sets],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return [one for one in YAML(typ="safe").load_all(done.stdout) if one]


def variables(deployment: dict[str, Any]) -> set[str]:
    containers = deployment["spec"]["template"]["spec"]["containers"]
    return {variable["name"] for one in containers for variable in one["env"]}
