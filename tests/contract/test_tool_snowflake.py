"""The ``snowflake`` tool against a server that speaks its SQL API (TL §3.7)."""

from __future__ import annotations

import base64
import gzip
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import anyio
import pytest
import tool_calls
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from tools.contract import ToolLimits
from tools.doors.snowflake import account_of, key_pair_token
from tools.errors import ToolCallError
from tools.kinds.snowflake import Snowflake

pytestmark = pytest.mark.anyio

COLUMNS = {
    "rowType": [{"name": "ID", "type": "fixed"}, {"name": "NAME", "type": "text"}]
}


class Api(BaseHTTPRequestHandler):
    """Statements by their text: ``slow`` takes two polls, ``parts`` has three."""

    asked: list[tuple[str, str, Any, dict[str, str]]]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append(("POST", self.path, body, dict(self.headers)))
        if self.path == "/session/v1/login-request":
            good = body["data"]["PASSWORD"] == "right"
            self._say(
                200,
                {
                    "success": good,
                    "data": {"token": "t1"} if good else None,
                    "message": "no",
                },
            )
            return
        text = body.get("statement", "")
        if (
            "expired" in text
            and len([1 for one in self.asked if one[1] == self.path]) == 1
        ):
            self._say(401, {"message": "token expired"})
        elif "bad" in text:
            self._say(422, {"message": "SQL compilation error", "sqlState": "42000"})
        elif "slow" in text or "endless" in text:
            self._say(
                202, {"statementHandle": "endless" if "endless" in text else "h1"}
            )
        elif "parts" in text:
            about = {**COLUMNS, "partitionInfo": [{}, {}, {}]}
            self._say(
                200,
                {
                    "statementHandle": "h2",
                    "resultSetMetaData": about,
                    "data": [["0", None]],
                },
            )
        else:
            self._say(200, {"resultSetMetaData": COLUMNS, "data": [["1", "a"]]})

    def do_GET(self) -> None:
        self.asked.append(("GET", self.path, None, dict(self.headers)))
        _, _, number = self.path.partition("?partition=")
        if number:
            self._say(200, {"data": [[number, "p"]]}, zipped=True)
        elif (
            "endless" in self.path
            or len([1 for one in self.asked if one[0] == "GET"]) < 2
        ):
            self._say(
                202, {"statementHandle": "endless" if "endless" in self.path else "h1"}
            )
        else:
            self._say(200, {"resultSetMetaData": COLUMNS, "data": [["9", "late"]]})

    def _say(self, status: int, answer: Any, *, zipped: bool = False) -> None:
        data = json.dumps(answer).encode()
        self.send_response(status)
        if zipped:
            data = gzip.compress(data)
            self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Quiet."""


class Lab:
    """The tool and what the server was asked."""

    def __init__(self, url: str, asked: list[Any]) -> None:
        self.asked = asked
        self.limits = ToolLimits()
        self.tool = Snowflake(self.limits)
        self.where = {
            "account": "xy1.eu",
            "user": "loader",
            "password": "right",
            "base_url": url,
            "database": "DB",
        }

    async def data(self, command: Any, **config: Any) -> Any:
        config = {**self.where, "command": command, **config}
        return (await tool_calls.run(self.tool, self.limits, **config)).data

    async def failure(self, command: Any, **config: Any) -> ToolCallError:
        config = {**self.where, "command": command, **config}
        return await tool_calls.failing(self.tool, self.limits, **config)

    def statements(self) -> list[Any]:
        return [body for _, path, body, _ in self.asked if path == "/api/v2/statements"]


@pytest.fixture
async def lab() -> Any:
    asked: list[Any] = []
    handler = type("Handler", (Api,), {"asked": asked})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        lab = Lab(f"http://127.0.0.1:{server.server_port}", asked)
        yield lab
        await lab.tool.close()
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def key() -> Iterator[rsa.RSAPrivateKey]:
    yield rsa.generate_private_key(public_exponent=65537, key_size=2048)


def pem(key: rsa.RSAPrivateKey, phrase: bytes = b"") -> str:
    how = BestAvailableEncryption(phrase) if phrase else NoEncryption()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, how).decode()


async def test_every_statement_gives_its_rows(lab: Lab) -> None:
    """TL-SF-02, TL-SF-05."""
    data = await lab.data("SELECT 1; // a comment ;\nSELECT 'it\\'s;'")
    rows = [{"ID": "1", "NAME": "a"}]
    assert data["statement_0"]["result"] == rows
    assert (data["rows"], data["columns"], data["row_count"]) == (
        rows,
        ["ID", "NAME"],
        1,
    )
    assert [body["statement"] for body in lab.statements()][1].endswith(
        "SELECT 'it\\'s;'"
    )
    first = lab.statements()[0]
    assert (first["warehouse"], first["schema"], first["database"]) == (
        "COMPUTE_WH",
        "PUBLIC",
        "DB",
    )
    assert first["timeout"] == 60
    headers = lab.asked[1][3]
    assert headers["Authorization"] == 'Snowflake Token="t1"'
    assert "X-Snowflake-Authorization-Token-Type" not in headers


async def test_what_use_says_goes_with_what_follows(lab: Lab) -> None:
    """TL-SF-04."""
    await lab.data(
        [
            "USE DATABASE other",
            'USE SCHEMA "my s"',
            "USE ROLE r",
            "SELECT 1",
            "CREATE DATABASE x",
        ]
    )
    one, two = lab.statements()
    assert (one["database"], one["schema"], one["role"]) == ("other", '"my s"', "r")
    assert "database" not in two
    assert "schema" not in two


async def test_a_long_statement_is_waited_for_and_every_partition_read(
    lab: Lab,
) -> None:
    """TL-SF-03."""
    assert (await lab.data("SELECT slow"))["rows"] == [{"ID": "9", "NAME": "late"}]
    rows = (await lab.data("SELECT parts"))["rows"]
    assert [(row["ID"], row["NAME"]) for row in rows] == [
        ("0", None),
        ("1", "p"),
        ("2", "p"),
    ]


async def test_a_cancelled_statement_is_cancelled_on_the_server(lab: Lab) -> None:
    """TL-SF-03, TL-LIM-02."""
    with anyio.move_on_after(0.3):
        await lab.data("SELECT endless")
    assert [path for _, path, _, _ in lab.asked][
        -1
    ] == "/api/v2/statements/endless/cancel"


async def test_an_expired_token_is_renewed_once(lab: Lab) -> None:
    """TL-SF-03."""
    assert (await lab.data("SELECT expired"))["row_count"] == 1
    assert [path for _, path, _, _ in lab.asked].count("/session/v1/login-request") == 2


async def test_a_failed_statement_ends_the_step_and_keeps_what_ran(lab: Lab) -> None:
    """TL-SF-06."""
    error = await lab.failure("SELECT 1; SELECT bad; SELECT 3")
    assert (error.failure.kind, error.failure.code) == ("db_error", "42000")
    assert (
        error.failure.message
        == "Some statements failed: statement 1: SQL compilation error"
    )
    data: Any = error.data
    assert data["statement_0"]["status"] == "success"
    assert data["statement_1"]["status"] == "error"
    assert len(lab.statements()) == 2


async def test_a_wrong_password_is_an_auth_error(lab: Lab) -> None:
    """TL-SF-02."""
    error = await lab.failure("SELECT 1", password="wrong-one")
    assert error.failure.kind == "auth"
    assert "wrong-one" not in error.failure.message


async def test_a_key_pair_signs_its_own_token(lab: Lab, key: rsa.RSAPrivateKey) -> None:
    """TL-SF-01, TL-SF-02."""
    await lab.data("SELECT 1", password=None, private_key=pem(key))
    headers = lab.asked[0][3]
    assert headers["X-Snowflake-Authorization-Token-Type"] == "KEYPAIR_JWT"
    token = headers["Authorization"].removeprefix("Bearer ")
    signed, _, signature = token.rpartition(".")
    raw = base64.urlsafe_b64decode(signature + "==")
    key.public_key().verify(raw, signed.encode(), padding.PKCS1v15(), SHA256())
    claims = json.loads(base64.urlsafe_b64decode(signed.partition(".")[2] + "=="))
    assert claims["sub"] == "XY1.LOADER"
    assert claims["iss"].startswith("XY1.LOADER.SHA256:")
    assert claims["exp"] - claims["iat"] == 3600


def test_keys_come_in_the_forms_people_have(key: rsa.RSAPrivateKey) -> None:
    """TL-SF-01: escaped newlines, a bare body, a phrase; a public key must fit."""
    text = pem(key)
    body = "".join(text.splitlines()[1:-1])
    public = (
        key.public_key()
        .public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        .decode()
    )
    given: list[dict[str, Any]] = [
        {"private_key": text},
        {"private_key": text.replace("\n", "\\n")},
        {"private_key": body},
        {"private_key": pem(key, b"phrase"), "private_key_passphrase": "phrase"},
        {"private_key": text, "public_key": public},
    ]
    tokens = {
        key_pair_token(account_of({"account": "a", "user": "u", **one}), 1)
        for one in given
    }
    assert len(tokens) == 1
    other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    wrong = {
        "account": "a",
        "user": "u",
        "private_key": pem(other),
        "public_key": public,
    }
    with pytest.raises(ToolCallError, match="public_key is not that of private_key"):
        key_pair_token(account_of(wrong), 1)
    with pytest.raises(ToolCallError, match="private_key cannot be read"):
        key_pair_token(account_of({**wrong, "private_key": "none"}), 1)


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"account": None}, "snowflake needs account"),
        ({"password": None}, "needs a password or a private_key"),
        ({"command": " ; "}, "empty query"),
    ],
)
async def test_what_is_missing_is_named(
    lab: Lab, config: dict[str, Any], named: str
) -> None:
    error = await lab.failure(**{"command": "SELECT 1", **config})
    assert error.failure.kind == "configuration"
    assert named in error.failure.message
