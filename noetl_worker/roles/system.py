"""The system worker: owns shards, decides, answers."""

from __future__ import annotations

from collections.abc import Callable
from socket import gethostname

import anyio
from anyio.abc import TaskGroup

from noetl_worker.bus.nats import NatsBus
from noetl_worker.bus.topology import SNAPSHOT_BUCKET
from noetl_worker.client import ClientOptions, NoetlClient, RemoteCatalog
from noetl_worker.daemons.answers import AnswerPorts, Answers
from noetl_worker.daemons.backstop import (
    Backstop,
    BackstopPorts,
    BackstopSettings,
)
from noetl_worker.daemons.owned import OwnedShard
from noetl_worker.daemons.owner import Owner, OwnerPorts
from noetl_worker.daemons.ownership import (
    Ownership,
    OwnershipPorts,
    OwnershipSettings,
)
from noetl_worker.daemons.playbooks import Playbooks
from noetl_worker.lifecycle import SnowflakeIds, machine_number
from noetl_worker.roles.process import Process, open_bus, run_with_health
from noetl_worker.roles.values import open_values
from state_builder.drive import DriveLimits


async def run(process: Process) -> None:
    """Own shards until a signal."""
    settings = process.settings
    process.readiness.hold("shards", "no look at the members yet")
    own = settings.process
    options = ClientOptions(url=own.server_url, token=own.internal_token.reveal())
    async with open_bus(process) as bus, NoetlClient(options) as client:
        await bus.ensure_log(create=False)
        catalog = RemoteCatalog(client)
        playbooks = Playbooks(catalog, process.clock, settings.owner.playbooks_max)

        async def own_shards(stop: anyio.Event) -> None:
            async with anyio.create_task_group() as tasks:
                ownership = _assemble(process, bus, playbooks, tasks)
                await stop.wait()
                await ownership.leave()
                tasks.cancel_scope.cancel()

        await run_with_health(process, {"owner": own_shards})


def _assemble(
    process: Process, bus: NatsBus, playbooks: Playbooks, tasks: TaskGroup
) -> Ownership:
    owner = _owner(process, bus, playbooks, tasks)
    answers = Answers(
        AnswerPorts(log=bus.log, signals=bus.signals, clock=process.clock), owner
    )
    ownership = _ownership(
        process, bus, owner, tasks, lambda owned: tasks.start_soon(answers.open, owned)
    )
    process.readiness.clear("shards")
    process.readiness.watch(
        "shards", lambda: "" if ownership.ready else "shards are being read"
    )
    backstop = _backstop(process, bus, owner, ownership)
    for daemon in (owner.run, ownership.run, backstop.run):
        tasks.start_soon(daemon)
    return ownership


def _owner(
    process: Process, bus: NatsBus, playbooks: Playbooks, tasks: TaskGroup
) -> Owner:
    limits = process.settings.limits
    return Owner(
        OwnerPorts(
            log=bus.log,
            signals=bus.signals,
            clock=process.clock,
            observer=process.observer,
            playbooks=playbooks,
            values=open_values(process, bus),
        ),
        tasks,
        DriveLimits(
            inline_bytes_max=limits.result_inline_bytes_max,
            context_bytes_max=limits.command_context_bytes_max,
            open_commands_max=limits.open_commands_max,
            entries_max=limits.steps_max,
            visits_max=limits.visits_max,
            depth_max=limits.depth_max,
            tree_executions_max=limits.tree_executions_max,
        ),
        process.settings.bus.shard_count,
    )


def _ownership(
    process: Process,
    bus: NatsBus,
    owner: Owner,
    tasks: TaskGroup,
    taken: Callable[[OwnedShard], object],
) -> Ownership:
    settings = process.settings
    ids = SnowflakeIds(machine_number(settings.process.machine_id), process.clock.now)
    return Ownership(
        OwnershipPorts(
            log=bus.log,
            members=bus.members,
            snapshots=bus.blobs(SNAPSHOT_BUCKET),
            clock=process.clock,
            observer=process.observer,
        ),
        owner,
        tasks,
        OwnershipSettings(
            member=settings.worker.worker_id or f"{gethostname()}-{ids.mint()}",
            shard_count=settings.bus.shard_count,
            pinned=settings.process.shards or None,
            snapshot_every_events=settings.owner.snapshot_every_events,
            snapshot_every_s=settings.owner.snapshot_every_s,
            index_bytes_max=settings.owner.index_bytes_max,
        ),
        taken,
    )


def _backstop(
    process: Process, bus: NatsBus, owner: Owner, ownership: Ownership
) -> Backstop:
    own = process.settings.owner
    return Backstop(
        BackstopPorts(
            log=bus.log,
            commands=bus.commands,
            clock=process.clock,
            observer=process.observer,
            shards=ownership.shards.values,
            catch_up=ownership.catch_up,
        ),
        owner,
        BackstopSettings(
            look_s=own.backstop_s,
            lost_after_s=own.command_lost_after_s,
            start_timeout_s=own.command_start_timeout_s,
        ),
    )
