"""The driver of a worker: what it is set to, else what its machine offers."""

from __future__ import annotations

import shutil

from tools.contract import ToolLimits
from tools.doors.containers.engine import EngineDriver
from tools.doors.containers.interface import Driver
from tools.doors.containers.local import ProcessDriver
from tools.doors.process import SYSTEM_PATH
from tools.errors import configuration

ENGINES = ("docker", "podman")


def driver_of(limits: ToolLimits) -> Driver:
    """The driver. Raises ToolCallError of ``configuration`` where there is none."""
    name = limits.container_driver
    if not name and "KUBERNETES_SERVICE_HOST" in limits.environment:
        name = "kubernetes"
    if name == "kubernetes":
        return _kubernetes()
    if name == "process":
        return ProcessDriver(limits)
    path = limits.environment.get("PATH", SYSTEM_PATH)
    for engine in (name,) if name else ENGINES:
        if shutil.which(engine, path=path):
            return EngineDriver(engine, limits)
    wanted = name or " or ".join(ENGINES)
    raise configuration(
        f"no container can run here: {wanted} is not installed; install it, or set "
        "NOETL_CONTAINER_DRIVER to docker, podman, kubernetes or process"
    )


def _kubernetes() -> Driver:
    try:
        from tools.doors.containers.kubernetes import KubernetesDriver
    except ImportError as error:
        raise configuration(
            "containers in Kubernetes need the package 'lightkube': "
            "pip install 'noetl-worker[kubernetes]'"
        ) from error
    return KubernetesDriver()
