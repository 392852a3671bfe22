"""Listening: real sockets, graceful stop, one clear error; and the health page."""

from __future__ import annotations

import anyio
import httpx
import pytest
from litestar import Litestar, get

from noetl_worker.health import health_app
from noetl_worker.lifecycle import Readiness
from noetl_worker.listener import Address, Listener, parse_address
from noetl_worker.metrics import PrometheusObserver
from state_builder.errors import SettingsError

pytestmark = pytest.mark.anyio

LOCAL = Address(host="127.0.0.1", port=0)


async def test_requests_at_hand_are_finished_before_it_closes() -> None:
    """RT-WRK-22."""
    asked, go = anyio.Event(), anyio.Event()

    @get("/slow")
    async def slow() -> str:
        asked.set()
        await go.wait()
        return "done"

    listener = Listener(Litestar([slow], logging_config=None), LOCAL)
    stop = anyio.Event()
    answers: list[str] = []

    async def ask() -> None:
        async with httpx.AsyncClient(trust_env=False) as http:
            url = f"http://127.0.0.1:{listener.port}/slow"
            answers.append((await http.get(url)).text)

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listener.run, stop)
            tasks.start_soon(ask)
            await asked.wait()
            stop.set()
            go.set()
    assert answers == ["done"]
    with pytest.raises(OSError):
        await anyio.connect_tcp("127.0.0.1", listener.port)


def test_a_taken_port_is_one_clear_error() -> None:
    app = Litestar([], logging_config=None)
    first = Listener(app, LOCAL)
    with pytest.raises(SettingsError, match=rf"127.0.0.1:{first.port}.*another port"):
        Listener(app, Address(host="127.0.0.1", port=first.port))
    first.close()


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("0.0.0.0:9100", "0.0.0.0", 9100),
        (":9100", "0.0.0.0", 9100),
        ("127.0.0.1", "127.0.0.1", 9090),
        ("[::1]:9100", "::1", 9100),
        ("[::1]", "::1", 9090),
    ],
)
def test_addresses_are_read(text: str, host: str, port: int) -> None:
    assert parse_address(text, 9090) == Address(host=host, port=port)


@pytest.mark.parametrize("text", ["host:http", "host:70000", "host:-1"])
def test_a_bad_address_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="host:port"):
        parse_address(text, 9090)


async def test_the_health_page_tells_why_a_process_is_not_ready() -> None:
    """RT-OBS-12: losing a dependency makes not ready, not dead."""
    readiness = Readiness()
    readiness.clear("process")
    observer = PrometheusObserver()
    transport = httpx.ASGITransport(health_app(readiness, observer.page))
    async with httpx.AsyncClient(transport=transport, base_url="http://t") as http:
        assert (await http.get("/readyz")).json() == {"status": "ready", "reasons": {}}
        readiness.hold("bus", "disconnected")
        answer = await http.get("/readyz")
        assert answer.status_code == 503
        assert answer.json()["reasons"] == {"bus": "disconnected"}
        assert (await http.get("/healthz")).status_code == 200
        page = await http.get("/metrics")
        assert page.headers["content-type"].startswith("text/plain")
        assert "noetl_bus_connected" in page.text
