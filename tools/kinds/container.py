"""``container``: a container that runs to its end (TL §3.14).

Once it has begun, its command is parked and holds no slot: the end comes from whoever
sees it first, a call-back or this worker's own looks (TL-CTR-04, TL-CTR-07).

Only the fields listed here exist: no value of a playbook's data can ask for a host
path, for privileges or for the host's network (TL-CTR-10).
"""

from __future__ import annotations

import ast
import hashlib
import re
from typing import ClassVar, Final

import anyio

from state_builder.ports import Observer
from state_builder.records import JSON, ToolFailure, encode_json
from tools.contract import CallContext, Tool, ToolLimits, ToolResult
from tools.doors.containers import Driver, Env, Spec, State, driver_of
from tools.errors import ToolCallError, configuration
from tools.fields import Fields, integer_of, map_of, text_of, texts_of, wrong

_QUANTITY: Final = re.compile(r"\d+(?:\.\d+)?(?:m|[kKMGTPE]i?)?")
_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?")
_VARIABLE: Final = re.compile(r"[A-Za-z_.-][A-Za-z0-9_.-]*")
_NOT_LABEL: Final = re.compile(r"[^A-Za-z0-9_.-]+")
_SOURCES: Final = {
    "empty_dir": "emptyDir",
    "pvc": "persistentVolumeClaim",
    "config_map": "configMap",
    "secret": "secret",
}
_SLUG_MAX: Final = 20
CANCEL_S: Final = 10.0
"""How long removing a cancelled container may take."""
WATCH_MAX_S: Final = 86_400.0
"""How long a container is looked at (TL-CTR-07)."""


class Container(Tool):
    """Starts a container, parks its command, says how it ended."""

    kind: ClassVar[str] = "container"
    keeps_time: ClassVar[bool] = True

    def __init__(self, limits: ToolLimits) -> None:
        super().__init__(limits)
        self._driver: Driver | None = None

    def validate(self, config: Fields) -> Fields:
        """Checked fields, as :class:`tools.doors.containers.Spec` names them."""
        image = text_of(config, "image")
        if image is None:
            raise configuration("image: say which image runs")
        namespace = text_of(config, "namespace") or "noetl"
        allowed = self._limits.container_namespaces
        if allowed and namespace not in allowed:
            known = ", ".join(allowed)
            raise configuration(
                f"namespace '{namespace}' is not allowed (allowed: {known})"
            )
        resources = map_of(config, "resources")
        return {
            "image": image,
            "command": list(_texts(config, "command")),
            "args": list(_texts(config, "args")),
            "env": _env(config.get("env")),
            "requests": _quantities(resources, "requests"),
            "limits": _quantities(resources, "limits"),
            "namespace": _name(namespace, "namespace"),
            "backoff_limit": integer_of(config, "backoff_limit", least=0, most=100)
            or 0,
            "pod": _pod(config),
        }

    async def run(self, config: Fields, call: CallContext) -> ToolResult:
        """``{job_name, job_uid, terminal_state, exit_code, stdout …}`` (TL-CTR-05)."""
        if self._driver is None:
            self._driver = driver_of(self._limits)
        driver, spec = self._driver, _spec(config, call)
        uid = await driver.start(spec)
        begun: Fields = {
            "job_name": spec.name,
            "job_uid": uid,
            "namespace": spec.namespace,
            "driver": driver.name,
            "labels": {**spec.labels},
        }
        parking, watched = call.ports.parking, self._limits.container_poll
        try:
            if parking is not None:
                await parking.park(call, begun, watched=watched)
                if not watched:
                    return ToolResult(data=begun)
            state = await _watched(driver, spec, call.ports.observer)
        except anyio.get_cancelled_exc_class():
            # A worker that goes leaves the container to the next one.
            if parking is None or parking.over(call):
                await _removed(driver, spec)
            raise
        data: Fields = {
            **begun,
            "terminal_state": state.terminal,
            "exit_code": state.exit_code,
            "reason": state.reason,
            "stdout": state.stdout,
            "stderr": state.stderr,
            "via": "poll",
        }
        helpers: Fields = {"exit_code": state.exit_code}
        if state.terminal != "succeeded":
            raise ToolCallError(_failure(state), data=data, helpers=helpers)
        return ToolResult(data=data, helpers=helpers)

    async def close(self) -> None:
        """Drop the driver's connections."""
        if self._driver is not None:
            await self._driver.close()


async def _watched(driver: Driver, spec: Spec, observer: Observer | None) -> State:
    """Its end, counted (TL-MET-01)."""
    began = anyio.current_time()
    if observer is not None:
        observer.count("noetl_worker_container_poll_started_total")
    state = await _ended(driver, spec)
    if observer is not None:
        seconds = anyio.current_time() - began
        observer.time("noetl_worker_container_poll_duration_seconds", seconds)
        observer.count(
            "noetl_worker_container_poll_terminal_total", state=state.terminal
        )
    return state


async def _ended(driver: Driver, spec: Spec) -> State:
    """How it ended; removed when it takes longer than it may."""
    wait_s = driver.first_s
    with anyio.move_on_after(min(spec.timeout_s, WATCH_MAX_S)):
        await anyio.sleep(wait_s)
        while (state := await driver.status(spec)) is None:
            await anyio.sleep(wait_s)
            wait_s = min(wait_s * 2, driver.longest_s)
        return state
    await _removed(driver, spec)
    return State(terminal="failed_timeout", reason=f"not over in {spec.timeout_s:g} s")


async def _removed(driver: Driver, spec: Spec) -> None:
    with anyio.CancelScope(shield=True), anyio.move_on_after(CANCEL_S):
        await driver.cancel(spec)


def _failure(state: State) -> ToolFailure:
    how = f" with code {state.exit_code}" if state.exit_code is not None else ""
    reason = f": {state.reason}" if state.reason else ""
    timed_out = state.terminal == "failed_timeout"
    return ToolFailure(
        kind="timeout" if timed_out else "process",
        code=state.terminal,
        message=f"the container ended{how} ({state.terminal}){reason}",
        retryable=state.terminal in ("failed_timeout", "failed_node_lost"),
    )


def _spec(config: Fields, call: CallContext) -> Spec:
    """The container of a call; another delivery of it has the same name."""
    step = call.label or call.step
    suffix = hashlib.sha256(f"{call.key}.{call.attempt}".encode()).hexdigest()[:6]
    slug = re.sub(r"[^a-z0-9]+", "-", step.lower())[:_SLUG_MAX].strip("-") or "step"
    given = config["env"]
    assert isinstance(given, list)
    env = [Env(name=name, value=text) for name, text in call.trace.items()]
    env += [Env(**one) for one in given if isinstance(one, dict)]  # type: ignore[arg-type]
    return Spec(
        name=f"noetl-container-{slug}-{call.execution_id}-{suffix}",
        image=str(config["image"]),
        timeout_s=call.timeout_s,
        command=tuple(texts_of(config, "command")),
        args=tuple(texts_of(config, "args")),
        env=tuple(env),
        requests=_strings(config, "requests"),
        limits=_strings(config, "limits"),
        namespace=str(config["namespace"]),
        backoff_limit=int(str(config["backoff_limit"])),
        labels={
            "noetl.execution-id": call.execution_id,
            "noetl.step-name": _NOT_LABEL.sub("-", step)[:63].strip("-_."),
            "noetl.tool-kind": "container",
        },
        annotations={"noetl.step-name": step},
        pod=map_of(config, "pod"),
    )


def _strings(config: Fields, key: str) -> dict[str, str]:
    return {name: str(text) for name, text in map_of(config, key).items()}


def _texts(config: Fields, key: str) -> list[str]:
    """A list; a text that is the literal of one is that list (TL-CTR-09)."""
    value = config.get(key)
    if isinstance(value, str) and value.strip().startswith("["):
        try:
            value = ast.literal_eval(value.strip())
        except (ValueError, SyntaxError, RecursionError) as error:
            raise wrong(key, config[key], "a list of texts") from error
    if isinstance(value, list):
        value = [_plain(item) for item in value]
    return texts_of({key: value}, key)


def _plain(item: JSON) -> JSON:
    return encode_json(item).decode() if isinstance(item, int | float) else item


def _env(given: JSON) -> list[JSON]:
    """A map of texts, or a list of ``{name, value | value_from}``."""
    if isinstance(given, dict):
        given = [{"name": name, "value": value} for name, value in given.items()]
    if given is None:
        return []
    if not isinstance(given, list):
        raise wrong("env", given, "a map or a list")
    found: list[JSON] = []
    for index, one in enumerate(given):
        if not isinstance(one, dict):
            raise wrong(f"env[{index}]", one, "a map with name and value")
        found.append(_variable(f"env[{index}]", one))
    return found


def _variable(field: str, one: Fields) -> JSON:
    name = text_of(one, "name", f"{field}.")
    if name is None or not _VARIABLE.fullmatch(name):
        raise configuration(f"{field}.name: '{name}' cannot be the name of a variable")
    value, source = one.get("value"), one.get("value_from")
    if value is not None and source is not None:
        raise configuration(f"{field}: give value or value_from, not both")
    if source is None:
        text = "" if value is None else value
        return {"name": name, "value": text if isinstance(text, str) else _json(text)}
    place = map_of(one, "value_from")
    found: Fields = {"name": name}
    for key in ("secret_name", "secret_key"):
        found[key] = text_of(place, key, f"{field}.value_from.")
        if found[key] is None:
            raise configuration(f"{field}.value_from.{key} is required")
    return found


def _json(value: JSON) -> str:
    return encode_json(value).decode()


def _quantities(resources: Fields, key: str) -> Fields:
    found: Fields = {}
    for name, value in map_of(resources, key).items():
        text = value if isinstance(value, str) else _json(value)
        if not _QUANTITY.fullmatch(text):
            field = f"resources.{key}.{name}"
            raise wrong(field, value, "a quantity like 500m or 1Gi")
        found[name] = text
    return found


def _name(text: str, field: str) -> str:
    if len(text) > 253 or not _NAME.fullmatch(text):
        raise configuration(f"{field}: '{text[:60]}' is no name of Kubernetes")
    return text


def _pod(config: Fields) -> Fields:
    """Fields of the pod in Kubernetes' spelling, only those that are listed."""
    pod: Fields = {}
    account = text_of(config, "service_account")
    if account is not None:
        pod["serviceAccountName"] = _name(account, "service_account")
    for key, name, choices in (
        ("restart_policy", "restartPolicy", ("Never", "OnFailure")),
        ("image_pull_policy", "imagePullPolicy", ("Always", "IfNotPresent", "Never")),
    ):
        word = text_of(config, key)
        if word is not None and word not in choices:
            raise wrong(key, word, "one of " + ", ".join(choices))
        if word is not None:
            pod[name] = word
    selector = map_of(config, "node_selector")
    if selector:
        pod["nodeSelector"] = {name: str(value) for name, value in selector.items()}
    for key, name in (
        ("tolerations", "tolerations"),
        ("volume_mounts", "volumeMounts"),
    ):
        items = _maps(config, key)
        if items:
            pod[name] = [_camel(item) for item in items]
    volumes = _maps(config, "volumes")
    if volumes:
        pod["volumes"] = [_volume(one, at) for at, one in enumerate(volumes)]
    return pod


def _maps(config: Fields, key: str) -> list[Fields]:
    value = config.get(key)
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise wrong(key, value, "a list of maps")
    return [one for one in value if isinstance(one, dict)]


def _volume(one: Fields, index: int) -> JSON:
    sources = [key for key in _SOURCES if key in one]
    if len(sources) != 1 or not isinstance(one.get("name"), str):
        known = ", ".join(_SOURCES)
        raise configuration(f"volumes[{index}]: give a name and one of {known}")
    value = one[sources[0]]
    content = _camel(value) if isinstance(value, dict) else {}
    return {"name": one["name"], _SOURCES[sources[0]]: content}


def _camel(value: Fields) -> JSON:
    """Keys as Kubernetes spells them."""
    found: Fields = {}
    for key, item in value.items():
        head, *rest = key.split("_")
        found[head + "".join(word.capitalize() for word in rest)] = item
    return found
