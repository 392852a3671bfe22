"""Containers as Jobs of a Kubernetes cluster (TL-CTR-01 to 09)."""

from __future__ import annotations

from typing import Any, Final

import httpx2
from lightkube import AsyncClient, KubeConfig
from lightkube.config.kubeconfig import SingleConfig
from lightkube.core.exceptions import ApiError, ConfigError
from lightkube.resources.batch_v1 import Job
from lightkube.resources.core_v1 import Pod
from lightkube.types import CascadeType

from state_builder.records import JSON, ToolFailure
from tools.doors.containers.interface import Env, Spec, State, tail
from tools.errors import ToolCallError, configuration

_PULLS: Final = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName")
_CONTAINER: Final = "main"


class KubernetesDriver:
    """See :class:`tools.doors.containers.interface.Driver`."""

    name = "kubernetes"
    first_s = 5.0
    longest_s = 30.0

    def __init__(self, config: SingleConfig | None = None) -> None:
        try:
            self._client = AsyncClient(config or KubeConfig.from_env().get())
        except ConfigError as error:
            text = f"no Kubernetes cluster is configured: {error}"
            raise configuration(text) from error

    async def start(self, spec: Spec) -> str:
        """Create the Job; one that exists is adopted."""
        try:
            wanted: Any = Job.from_dict(manifest(spec))
            job: Any = await self._client.create(wanted)
        except ApiError as error:
            if error.status.code != 409:
                raise _refused(error) from error
            job = await self._job(spec)
        except httpx2.HTTPError as error:
            raise _away(error) from error
        return str(getattr(job.metadata, "uid", "") or spec.name)

    async def status(self, spec: Spec) -> State | None:
        """What the Job's conditions and its pod say."""
        try:
            job = await self._client.get(Job, spec.name, namespace=spec.namespace)
            pod = await self._pod(spec)
        except ApiError as error:
            if error.status.code == 404:
                return State(terminal="failed_node_lost", reason="the job is gone")
            raise _refused(error) from error
        except httpx2.HTTPError:
            return None  # the API is away; the job goes on without it
        waiting = _waiting(pod)
        if waiting in _PULLS:
            await self.cancel(spec)
            return State(terminal="failed_image_pull", reason=waiting)
        status = job.status
        if status is None or not (status.succeeded or _failed(status)):
            return None
        code, reason = _exit(pod)
        return State(
            terminal=_terminal(status, code, reason),
            exit_code=code,
            reason=reason,
            stdout=tail(await self._log(spec, pod)),
        )

    async def cancel(self, spec: Spec) -> None:
        """Delete the Job and, in the background, its pods (TL-CTR-09)."""
        try:
            await self._client.delete(
                Job,
                spec.name,
                namespace=spec.namespace,
                cascade=CascadeType.BACKGROUND,
            )
        except ApiError as error:
            if error.status.code != 404:
                raise _refused(error) from error

    async def close(self) -> None:
        """Drop the connections."""
        await self._client.close()

    async def _job(self, spec: Spec) -> Job:
        try:
            return await self._client.get(Job, spec.name, namespace=spec.namespace)
        except ApiError as error:
            raise _refused(error) from error

    async def _pod(self, spec: Spec) -> Any:
        """The newest pod of the Job, or None."""
        newest: Any = None
        async for pod in self._client.list(
            Pod, namespace=spec.namespace, labels={"job-name": spec.name}
        ):
            newest = pod
        return newest

    async def _log(self, spec: Spec, pod: Any) -> str:
        if pod is None:
            return ""
        lines: list[str] = []
        try:
            async for line in self._client.log(
                pod.metadata.name, namespace=spec.namespace, tail_lines=1000
            ):
                lines.append(line)
        except (ApiError, httpx2.HTTPError) as error:
            # The outcome is known; its log is a courtesy.
            return f"(no log: {error})"
        return "".join(lines)


def manifest(spec: Spec) -> dict[str, Any]:
    """The Job, as its API takes it."""
    container: dict[str, JSON] = {
        "name": _CONTAINER,
        "image": spec.image,
        "command": list(spec.command),
        "args": list(spec.args),
        "env": [_variable(one) for one in spec.env],
        "resources": {"requests": {**spec.requests}, "limits": {**spec.limits}},
    }
    pod = dict(spec.pod)
    for key in ("imagePullPolicy", "volumeMounts"):
        if key in pod:
            container[key] = pod.pop(key)
    metadata: dict[str, JSON] = {
        "labels": {**spec.labels},
        "annotations": {**spec.annotations},
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": spec.name, "namespace": spec.namespace, **metadata},
        "spec": {
            "backoffLimit": spec.backoff_limit,
            "activeDeadlineSeconds": max(1, int(spec.timeout_s)),
            "template": {
                "metadata": metadata,
                "spec": {"restartPolicy": "Never", **pod, "containers": [container]},
            },
        },
    }


def _variable(one: Env) -> JSON:
    if not one.secret_name:
        return {"name": one.name, "value": one.value}
    place: JSON = {"name": one.secret_name, "key": one.secret_key}
    return {"name": one.name, "valueFrom": {"secretKeyRef": place}}


def _failed(status: Any) -> bool:
    return any(
        one.type == "Failed" and one.status == "True" for one in status.conditions or ()
    )


def _terminal(status: Any, code: int | None, reason: str) -> str:
    if status.succeeded:
        return "succeeded"
    reasons = {one.reason for one in status.conditions or ()}
    if "DeadlineExceeded" in reasons:
        return "failed_timeout"
    if reason == "OOMKilled":
        return "failed_oom"
    return "failed" if code is not None else "failed_node_lost"


def _statuses(pod: Any) -> list[Any]:
    status = getattr(pod, "status", None)
    return list(getattr(status, "containerStatuses", None) or ())


def _waiting(pod: Any) -> str:
    for one in _statuses(pod):
        if one.state is not None and one.state.waiting is not None:
            return str(one.state.waiting.reason or "")
    return ""


def _exit(pod: Any) -> tuple[int | None, str]:
    for one in _statuses(pod):
        if one.state is not None and one.state.terminated is not None:
            ended = one.state.terminated
            return int(ended.exitCode), str(ended.reason or "")
    return None, ""


def _refused(error: ApiError) -> ToolCallError:
    """TL-CTR-03: 403 and 422 are final, what is on the API's side is not."""
    status = int(error.status.code or 0)
    kind = {401: "auth", 403: "auth", 404: "not_found"}.get(status, "client_error")
    return ToolCallError(
        ToolFailure(
            kind="server_error" if status >= 500 else kind,
            code=f"HTTP_{status}",
            message=f"kubernetes: {error.status.message}",
            retryable=status >= 500 or status == 429,
            status_code=status,
            source="kubernetes",
        )
    )


def _away(error: Exception) -> ToolCallError:
    return ToolCallError(
        ToolFailure(
            kind="connection",
            code="CONNECTION",
            message=f"kubernetes: {error}",
            retryable=True,
        )
    )
