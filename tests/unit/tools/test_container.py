"""``container``: what is refused, and how a container's life is told by each driver."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest
from calls import call, context, failure, refusal
from web_server import Seen, WebServer, reply, web_server

from tools.contract import CallContext, ToolLimits, ToolPorts
from tools.doors.containers import Spec
from tools.doors.containers.engine import EngineDriver
from tools.doors.containers.local import ProcessDriver
from tools.errors import ToolCallError
from tools.kinds.container import Container

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody calls back here."""
    monkeypatch.setattr(ProcessDriver, "first_s", 0.0)


@pytest.fixture
def limits(tmp_path: Path) -> ToolLimits:
    return ToolLimits(data_dir=str(tmp_path), container_driver="process")


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no image": ({"image": None}, "image: say which"),
    "command": ({"command": 3}, "command must be a list of texts"),
    "args": ({"args": "[1"}, "args must be a list of texts"),
    "both": ({"env": [{"name": "A", "value": "1", "value_from": {}}]}, "env[0]: give value or value_from, not both"),
    "no secret key": ({"env": [{"name": "A", "value_from": {"secret_name": "s"}}]}, "env[0].value_from.secret_key is required"),
    "env name": ({"env": {"A B": "1"}}, "env[0].name: 'A B' cannot be the name"),
    "quantity": ({"resources": {"limits": {"cpu": "lots"}}}, "resources.limits.cpu must be a quantity like 500m or 1Gi"),
    "namespace": ({"namespace": "../x"}, "namespace: '../x' is no name of Kubernetes"),
    "policy": ({"restart_policy": "Always"}, "restart_policy must be one of Never, OnFailure"),
    "volume": ({"volumes": [{"name": "v", "host_path": {"path": "/"}}]}, "volumes[0]: give a name and one of empty_dir, pvc"),
    "mounts": ({"volume_mounts": {}}, "volume_mounts must be a list of maps"),
    "secret elsewhere": ({"env": [{"name": "A", "value_from": {"secret_name": "s", "secret_key": "k"}}], "command": ["true"]}, "env.A: value_from needs the kubernetes driver"),
    "nothing to run": ({}, "command: the process driver needs one"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
async def test_what_cannot_run_is_refused_by_name(
    limits: ToolLimits, what: str
) -> None:
    """TL-CTR-03, TL-CTR-10: before anything is started."""
    config, words = REFUSED[what]
    error = await failure(Container(limits), limits, **{"image": "i", **config})
    assert error.kind == "configuration" and words in error.message


async def test_namespaces_may_be_restricted(limits: ToolLimits) -> None:
    """TL-CTR-10."""
    few = ToolLimits(container_namespaces=("jobs",))
    error = await failure(Container(few), few, image="i")
    assert error.message == "namespace 'noetl' is not allowed (allowed: jobs)"


async def test_a_machine_without_an_engine_says_what_to_do(tmp_path: Path) -> None:
    """TL-IDX-02, TL-CTR-08."""
    limits = ToolLimits(environment={"PATH": str(tmp_path)})
    error = await failure(Container(limits), limits, image="i")
    assert error.kind == "configuration"
    assert "docker or podman is not installed" in error.message


async def test_a_process_stands_in_for_a_container(limits: ToolLimits) -> None:
    """TL-CTR-08, TL-CTR-09: the same data as from an engine."""
    tool = Container(limits)
    result = await call(
        tool,
        limits,
        image="i",
        command=["/bin/sh"],
        args="['-c', 'echo $A; echo $B >&2']",
        env={"A": 1, "B": "two"},
    )
    data: Any = result.data
    name = data.pop("job_name")
    assert data.pop("labels")["noetl.execution-id"] == "7"
    assert data == {
        "job_uid": name,
        "namespace": "noetl",
        "driver": "process",
        "terminal_state": "succeeded",
        "exit_code": 0,
        "reason": "",
        "stdout": "1\n",
        "stderr": "two\n",
        "via": "poll",
    }
    error = await refusal(tool, limits, image="i", command=["/bin/sh", "-c", "exit 3"])
    assert (error.failure.kind, error.failure.code) == ("process", "failed")
    assert error.failure.message == "the container ended with code 3 (failed)"
    assert isinstance(error.data, dict) and error.data["exit_code"] == 3


ENGINE = """#!/bin/sh
# Keeps a container's state as files beside itself.
cd "$(dirname "$0")"
echo "$@" >> calls
case $1 in
run) shift
  while [ $# -gt 0 ]; do case $1 in
    --name) name=$2; shift 2;;
    --env) eval "echo $2=\\$$2" >> env; shift 2;;
    --detach) shift;;
    --*) shift 2;;
    *) break;;
  esac; done
  [ "$1" = gone ] && { echo "Unable to find image 'gone:latest'" >&2; exit 125; }
  [ -e "c-$name" ] && { echo "Conflict. The name is already in use" >&2; exit 125; }
  echo "$1" > "c-$name"; echo id;;
inspect) [ -e "c-$4" ] || exit 1
  n=$(cat looks 2>/dev/null || echo 0); echo $((n + 1)) > looks
  [ $n -lt 2 ] && echo '{"Status":"running","Running":true}' && exit
  case $(cat "c-$4") in
    oom) echo '{"Status":"exited","ExitCode":137,"OOMKilled":true}';;
    bad) echo '{"Status":"exited","ExitCode":2}';;
    *) echo '{"Status":"exited","ExitCode":0}';;
  esac;;
logs) echo out; echo err >&2;;
rm) rm -f "c-$3";;
esac
"""


@pytest.fixture
def engine(tmp_path: Path) -> ToolLimits:
    """Limits with a ``docker`` of a few lines in the path."""
    place = tmp_path / "bin"
    place.mkdir()
    (place / "docker").write_text(ENGINE)
    (place / "docker").chmod(0o755)
    return ToolLimits(
        data_dir=str(tmp_path / "data"),
        environment={"PATH": f"{place}:/usr/bin:/bin"},
    )


def said(engine: ToolLimits, name: str = "calls") -> list[str]:
    place = Path(engine.environment["PATH"].partition(":")[0])
    return (place / name).read_text().splitlines()


async def test_an_engine_runs_a_container_to_its_end(engine: ToolLimits) -> None:
    """TL-CTR-01, TL-CTR-05, TL-CTR-08."""
    result = await call(
        Container(engine),
        engine,
        image="good",
        command=["/entry", "a"],
        args=["b c"],
        env={"SECRET": "s3cret"},
        resources={"limits": {"cpu": "500m", "memory": "64Mi"}},
    )
    data: Any = result.data
    assert (data["driver"], data["terminal_state"]) == ("docker", "succeeded")
    assert (data["stdout"], data["stderr"]) == ("out\n", "err\n")
    first = said(engine)[0]
    assert first.endswith(
        "--env SECRET --cpus 0.5 --memory 64m --entrypoint /entry good a b c"
    )
    assert "s3cret" not in " ".join(said(engine))
    assert said(engine, "env") == ["SECRET=s3cret"]
    assert said(engine)[-1] == f"rm --force {data['job_name']}"


@pytest.mark.parametrize(
    ("image", "state", "code"),
    [("oom", "failed_oom", 137), ("bad", "failed", 2)],
)
async def test_an_end_that_is_no_success_is_named(
    engine: ToolLimits, image: str, state: str, code: int
) -> None:
    """TL-CTR-04."""
    error = await refusal(Container(engine), engine, image=image)
    assert (error.failure.kind, error.failure.code) == ("process", state)
    assert isinstance(error.data, dict) and error.data["exit_code"] == code


async def test_an_image_that_is_not_there_is_named(engine: ToolLimits) -> None:
    error = await failure(Container(engine), engine, image="gone")
    assert (error.kind, error.code) == ("process", "failed_image_pull")
    assert "Unable to find image 'gone:latest'" in error.message


async def test_a_second_delivery_adopts_the_container(engine: ToolLimits) -> None:
    """TL-CTR-01: the name follows from the command and its attempt."""
    tool = Container(engine)
    config = tool.validate({"image": "good"})
    driver = EngineDriver("docker", engine)
    first = await tool.run(config, context(engine))
    data: Any = first.data
    await driver.start(Spec(name=data["job_name"], image="good", timeout_s=1))
    again: Any = (await tool.run(config, context(engine))).data
    assert again["job_name"] == data["job_name"]
    other: Any = (await tool.run(config, context(engine, attempt=2))).data
    assert other["job_name"] != data["job_name"]


async def test_cancelling_removes_the_container(engine: ToolLimits) -> None:
    """TL-CTR-09, TL-LIM-02."""
    place = Path(engine.environment["PATH"].partition(":")[0])
    (place / "docker").write_text(ENGINE.replace("-lt 2", "-lt 99999"))
    with anyio.move_on_after(0.5):
        await call(Container(engine), engine, image="good")
    assert said(engine)[-1].startswith("rm --force noetl-container-s-7-")


class Parked:
    """The port, with its caller's word on whether the execution is over."""

    def __init__(self, ended: bool = False) -> None:
        self.jobs: list[tuple[Any, bool]] = []
        self._ended = ended

    async def park(
        self, call: CallContext, job: dict[str, Any], *, watched: bool
    ) -> None:
        self.jobs.append((job, watched))

    def over(self, call: CallContext) -> bool:
        return self._ended


async def test_a_container_that_began_is_parked_before_it_is_waited_for(
    engine: ToolLimits,
) -> None:
    """TL-CTR-02, TL-CTR-06, TL-CTR-07: and by itself when only a call-back ends it."""
    port = Parked()
    where = context(engine, ports=ToolPorts(parking=port))
    tool = Container(engine)
    data: Any = (await tool.run(tool.validate({"image": "good"}), where)).data
    only = Container(replace(engine, container_poll=False))
    begun: Any = (await only.run(only.validate({"image": "good"}), where)).data
    assert (data["terminal_state"], data["via"]) == ("succeeded", "poll")
    assert set(begun) == {"job_name", "job_uid", "namespace", "driver", "labels"}
    assert port.jobs == [(begun, True), (begun, False)]
    assert [line.split()[0] for line in said(engine)].count("inspect") == 3


@pytest.mark.parametrize("ended", [True, False])
async def test_a_worker_that_goes_leaves_its_container_to_the_next_one(
    engine: ToolLimits, ended: bool
) -> None:
    """TL-CTR-09: it is removed only when its execution is over."""
    place = Path(engine.environment["PATH"].partition(":")[0])
    (place / "docker").write_text(ENGINE.replace("-lt 2", "-lt 99999"))
    tool = Container(engine)
    where = context(engine, ports=ToolPorts(parking=Parked(ended)))
    with anyio.move_on_after(0.5):
        await tool.run(tool.validate({"image": "good"}), where)
    assert said(engine)[-1].startswith("rm --force") is ended


async def test_a_container_that_takes_too_long_is_removed(engine: ToolLimits) -> None:
    """TL-LIM-02, TL-CTR-04."""
    place = Path(engine.environment["PATH"].partition(":")[0])
    (place / "docker").write_text(ENGINE.replace("-lt 2", "-lt 99999"))
    tool = Container(engine)
    with pytest.raises(ToolCallError) as caught:
        await tool.run(tool.validate({"image": "good"}), context(engine, timeout_s=0.3))
    found = caught.value.failure
    assert (found.kind, found.code, found.retryable) == (
        "timeout",
        "failed_timeout",
        True,
    )
    assert said(engine)[-1].startswith("rm --force")


class Cluster:
    """The part of a Kubernetes API that Jobs need, with recorded answers."""

    def __init__(self, server: WebServer) -> None:
        self.server = server
        self.job: dict[str, Any] = {}
        self.ends: dict[str, Any] = {"succeeded": 1}
        self.pod: dict[str, Any] = {}
        self.refuse: dict[str, Any] | None = None
        jobs = "/apis/batch/v1/namespaces/noetl/jobs"
        server.answers[jobs] = self.create
        server.answers["/api/v1/namespaces/noetl/pods"] = self.pods
        server.answers["/api/v1/namespaces/noetl/pods/p-1/log"] = reply(
            b"line 1\nline 2\n", content_type="text/plain"
        )
        self._jobs = jobs

    def create(self, seen: Seen) -> bytes:
        if self.refuse is not None:
            status = int(self.refuse["code"])
            return reply({"kind": "Status", **self.refuse}, status=status)
        job = json.loads(seen.body)
        name = job["metadata"]["name"]
        self.server.answers[f"{self._jobs}/{name}"] = self.read
        if self.job:
            taken = {"kind": "Status", "code": 409, "reason": "AlreadyExists"}
            return reply({**taken, "message": "it exists"}, status=409)
        self.job = job
        self.job["metadata"]["uid"] = "uid-1"
        return reply(self.job, status=201)

    def read(self, seen: Seen) -> bytes:
        if seen.method == "DELETE":
            return reply({"kind": "Status", "status": "Success"})
        return reply({**self.job, "status": self.ends})

    def pods(self, seen: Seen) -> bytes:
        items = [{"metadata": {"name": "p-1"}, "status": self.pod}]
        return reply({"kind": "PodList", "apiVersion": "v1", "items": items})


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    async with web_server() as server:
        yield Cluster(server)


async def on_cluster(cluster: Cluster, **config: Any) -> Any:
    """A call against that cluster."""
    pytest.importorskip("lightkube")
    from lightkube.config.kubeconfig import Cluster as Place
    from lightkube.config.kubeconfig import Context, SingleConfig, User

    from tools.doors.containers.kubernetes import KubernetesDriver

    limits = ToolLimits()
    tool = Container(limits)
    place, there = Place(server=cluster.server.url), Context(cluster="t")
    driver = KubernetesDriver(SingleConfig("t", there, place, User()))
    driver.first_s = 0.01
    tool._driver = driver
    try:
        return (await call(tool, limits, **{"image": "i", **config})).data
    finally:
        await tool.close()


def terminated(code: int, reason: str) -> dict[str, Any]:
    ended = {"exitCode": code, "reason": reason}
    state = {"name": "main", "image": "i", "imageID": "", "ready": False}
    return {
        "containerStatuses": [
            {**state, "restartCount": 0, "state": {"terminated": ended}}
        ]
    }


async def test_a_job_is_made_of_the_listed_fields(cluster: Cluster) -> None:
    """TL-CTR-01, TL-CTR-02, TL-CTR-10."""
    cluster.pod = terminated(0, "Completed")
    data = await on_cluster(
        cluster,
        command=["run"],
        args=["--fast"],
        env=[
            {"name": "A", "value": "1"},
            {"name": "B", "value_from": {"secret_name": "s", "secret_key": "k"}},
        ],
        resources={"limits": {"memory": "1Gi"}, "requests": {"cpu": "100m"}},
        service_account="jobs",
        node_selector={"disk": "fast"},
        tolerations=[{"key": "k", "operator": "Exists"}],
        volumes=[{"name": "v", "empty_dir": {}}, {"name": "c", "config_map": {"name": "m"}}],
        volume_mounts=[{"name": "v", "mount_path": "/v"}],
        image_pull_policy="Always",
        privileged=True,
        host_network=True,
    )  # fmt: skip
    assert (data["job_uid"], data["terminal_state"]) == ("uid-1", "succeeded")
    assert data["stdout"] == "line 1\nline 2\n"
    spec = cluster.job["spec"]
    assert (spec["backoffLimit"], spec["activeDeadlineSeconds"]) == (0, 10)
    pod = spec["template"]["spec"]
    assert pod.pop("containers") == [
        {
            "name": "main",
            "image": "i",
            "command": ["run"],
            "args": ["--fast"],
            "env": [
                {"name": "A", "value": "1"},
                {
                    "name": "B",
                    "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}},
                },
            ],
            "resources": {"limits": {"memory": "1Gi"}, "requests": {"cpu": "100m"}},
            "imagePullPolicy": "Always",
            "volumeMounts": [{"name": "v", "mountPath": "/v"}],
        }
    ]
    assert pod == {
        "restartPolicy": "Never",
        "serviceAccountName": "jobs",
        "nodeSelector": {"disk": "fast"},
        "tolerations": [{"key": "k", "operator": "Exists"}],
        "volumes": [
            {"name": "v", "emptyDir": {}},
            {"name": "c", "configMap": {"name": "m"}},
        ],
    }


FAILED = {"conditions": [{"type": "Failed", "status": "True", "reason": "X"}]}
LATE = {
    "conditions": [{"type": "Failed", "status": "True", "reason": "DeadlineExceeded"}]
}
WAITING = {"containerStatuses": [{"name": "main", "image": "i", "imageID": "", "ready": False, "restartCount": 0, "state": {"waiting": {"reason": "ErrImagePull"}}}]}  # fmt: skip
ENDS: dict[str, tuple[dict[str, Any], dict[str, Any], bool]] = {
    "failed": (FAILED, terminated(2, "Error"), False),
    "failed_oom": (FAILED, terminated(137, "OOMKilled"), False),
    "failed_timeout": (LATE, {}, True),
    "failed_node_lost": (FAILED, {}, True),
    "failed_image_pull": ({}, WAITING, False),
}


@pytest.mark.parametrize("state", ENDS)
async def test_how_a_job_ended_is_told(cluster: Cluster, state: str) -> None:
    """TL-CTR-04."""
    cluster.ends, cluster.pod, retryable = ENDS[state]
    with pytest.raises(ToolCallError) as caught:
        await on_cluster(cluster)
    assert caught.value.failure.code == state
    assert caught.value.failure.retryable is retryable


async def test_a_job_that_exists_is_adopted(cluster: Cluster) -> None:
    """TL-CTR-01, TL-CTR-03."""
    cluster.pod = terminated(0, "Completed")
    await on_cluster(cluster)
    assert (await on_cluster(cluster))["job_uid"] == "uid-1"


REFUSALS = [
    (403, "auth", False),
    (422, "client_error", False),
    (500, "server_error", True),
]


@pytest.mark.parametrize(("code", "kind", "retryable"), REFUSALS)
async def test_what_the_api_refuses_is_an_error_of_its_kind(
    cluster: Cluster, code: int, kind: str, retryable: bool
) -> None:
    """TL-CTR-03."""
    cluster.refuse = {"code": code, "message": "no"}
    with pytest.raises(ToolCallError) as caught:
        await on_cluster(cluster)
    found = caught.value.failure
    assert (found.kind, found.retryable) == (kind, retryable)
    assert found.message == "kubernetes: no"


async def test_a_cluster_that_is_away_may_be_tried_again(cluster: Cluster) -> None:
    """TL-CTR-03."""
    async with web_server() as gone:
        cluster.server = gone
    with pytest.raises(ToolCallError) as caught:
        await on_cluster(cluster)
    assert caught.value.failure.kind == "connection"
    assert caught.value.failure.retryable
