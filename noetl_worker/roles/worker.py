"""The tool worker: pulls commands of its pools and runs tools."""

from __future__ import annotations

from dataclasses import replace
from socket import gethostname
from typing import Final

import anyio

from noetl_worker import logs
from noetl_worker.bus.nats import NatsBus
from noetl_worker.client import ClientOptions, NoetlClient, RemotePlugins
from noetl_worker.daemons.children import AskedChildren, ChildrenPorts
from noetl_worker.daemons.executor import Executor, ExecutorPorts, ExecutorSettings
from noetl_worker.daemons.references import CommandValues
from noetl_worker.daemons.registration import Presence, Registration
from noetl_worker.lifecycle import SnowflakeIds, machine_number
from noetl_worker.results.artifacts import StepValues
from noetl_worker.results.effects import PluginEffects
from noetl_worker.roles.process import Process, open_bus, run_with_health
from noetl_worker.roles.values import open_values
from noetl_worker.settings import Settings
from noetl_worker.wallet import RemoteSettings, RemoteWallet, WorkerKey
from tools.contract import ToolLimits, ToolPorts
from tools.doors.groups import guard
from tools.pipeline import Runner
from tools.registry import Registry

WARM_S: Final = 60.0
"""Plug-ins may take so long to compile before commands are pulled anyhow."""


def tool_limits(settings: Settings) -> ToolLimits:
    """Bounds of the tools, out of what the process was told."""
    tools = settings.tools
    return ToolLimits(
        timeout_s=tools.timeout_s,
        http_body_bytes_max=tools.http_body_bytes_max,
        output_bytes_max=tools.output_bytes_max,
        rows_max=tools.rows_max,
        result_bytes_max=tools.result_bytes_max,
        stream_bytes_max=settings.worker.stream_bytes_max,
        provider_error_terminates=tools.provider_error_terminates,
        sequence_runs_max=tools.sequence_runs_max,
        python_rss_mb_max=tools.python_rss_mb_max,
        python_runs_max=tools.python_runs_max,
        python_path=tools.python_path,
        shell_rss_mb_max=tools.shell_rss_mb_max,
        processes_max=tools.processes_max,
        concurrency_max=tools.concurrency,
        mcp_endpoints=tools.mcp,
        wasm_fuel=tools.wasm_fuel,
        container_driver=tools.container_driver,
        container_namespaces=tools.container_namespaces,
        container_poll=tools.container_poll,
        environment=tools.environment,
        python_children_max=tools.python_children_max,
        pg_connections_max=tools.pg_connections_max,
        pg_numeric_as_float=tools.pg_numeric_as == "float",
        pg_default_host="localhost" if tools.pg_default_localhost else "",
        nats_default_url=(
            settings.bus.urls.reveal() if tools.nats_worker_connection else ""
        ),
        duckdb_allow_install=tools.duckdb_allow_install,
        duckdb_memory_limit=tools.duckdb_memory_limit,
        duckdb_threads=tools.duckdb_threads,
        data_dir=tools.data_dir,
        file_roots=tools.file_roots,
        script_root=tools.script_root,
        http_deny_cidrs=tools.http_deny_cidrs,
        http_allow_cidrs=tools.http_allow_cidrs,
        http_trust_env=tools.http_trust_env,
        server_url=settings.process.server_url,
        public_url=settings.process.public_server_url or settings.process.server_url,
        keychain_strict=settings.wallet.strict,
    )


async def run(process: Process) -> None:
    """Run commands until a signal."""
    settings = process.settings
    guard()
    ids = SnowflakeIds(machine_number(settings.process.machine_id), process.clock.now)
    worker_id = settings.worker.worker_id or f"{gethostname()}-{ids.mint()}"
    limits = tool_limits(settings)
    options = _client_options(settings)
    async with open_bus(process) as bus, NoetlClient(options) as client:
        await bus.ensure_log(create=False)
        registration, wallet = _wallet(process, client, worker_id)
        logs.hide(lambda: wallet.masked)
        values = open_values(process, bus)
        children = _children(process, bus)
        step_values = StepValues(values, ids.mint)
        ports = ToolPorts(
            plugins=RemotePlugins(client),
            observer=process.observer,
            effects=PluginEffects(client, step_values),
            values=step_values,
            children=children,
        )
        registry = Registry(limits, ports)
        runner = Runner(
            registry,
            limits,
            process.clock,
            process.observer,
            wallet,
            values,
        )
        executor = Executor(
            ExecutorPorts(
                log=bus.log,
                commands=bus.commands,
                signals=bus.signals,
                runner=runner,
                values=CommandValues(values, settings.limits.result_inline_bytes_max),
                clock=process.clock,
                observer=process.observer,
            ),
            _executor_settings(settings, worker_id),
        )
        children.on_wait = executor.step_aside
        registry.ports = replace(ports, parking=executor)
        with anyio.move_on_after(WARM_S):
            await registry.warm(settings.tools.plugins_warm)
        process.readiness.watch(
            "pull", lambda: "" if executor.pulling else "not pulling"
        )
        try:
            daemons = {"executor": executor.run, "registration": registration.run}
            await run_with_health(process, daemons)
        finally:
            with anyio.CancelScope(shield=True):
                await runner.close()


def _executor_settings(settings: Settings, worker_id: str) -> ExecutorSettings:
    return ExecutorSettings(
        worker_id=worker_id,
        pools=settings.worker.pools,
        slots=settings.worker.slots,
        ack_wait_s=settings.bus.ack_wait_s,
        drain_s=settings.process.grace_s,
    )


def _client_options(settings: Settings) -> ClientOptions:
    """How a worker reaches its server."""
    worker = settings.worker
    return ClientOptions(
        url=settings.process.server_url,
        token=settings.process.internal_token.reveal(),
        cert=worker.tls_client_cert,
        key=worker.tls_client_key,
        ca=worker.tls_ca,
    )


def _children(process: Process, bus: NatsBus) -> AskedChildren:
    """Playbooks that pipelines call (PB-185)."""
    ports = ChildrenPorts(log=bus.log, signals=bus.signals, clock=process.clock)
    return AskedChildren(ports, process.settings.bus.shard_count)


def _wallet(
    process: Process, client: NoetlClient, worker_id: str
) -> tuple[Registration, RemoteWallet]:
    """Where credentials come from, and the registration they are sealed by."""
    worker = process.settings.worker
    key = WorkerKey()
    registration = Registration(
        client,
        Presence(
            worker_id=worker_id,
            public_key=key.public,
            pools=worker.pools,
            slots=worker.slots,
            hostname=gethostname(),
            heartbeat_s=worker.heartbeat_s,
        ),
        process.clock,
    )
    settings = RemoteSettings(
        worker_id=worker_id,
        attempts_max=worker.predispatch_attempts_max,
        deadline_s=worker.predispatch_deadline_s,
    )
    wallet = RemoteWallet(client, key, registration.register, process.clock, settings)
    return registration, wallet
