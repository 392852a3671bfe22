"""The way to Snowflake: its SQL API, by key pair or password (TL §3.7)."""

from __future__ import annotations

import base64
import hashlib
import re
import time
from collections.abc import AsyncIterator
from typing import Any, Final, NamedTuple

import anyio
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)
from msgspec import DecodeError
from msgspec.json import decode as decode_json

from state_builder.records import JSON, ToolFailure, encode_json
from tools.doors.web import Web, WebRequest, WebResponse
from tools.errors import ToolCallError, configuration
from tools.fields import Fields, text_of

POLL_FIRST_S: Final = 0.5
POLL_MAX_S: Final = 5.0
TOKEN_S: Final = 3600
RENEW_S: Final = 3000.0
READ_S: Final = 60.0
CANCEL_S: Final = 5.0

_USE: Final = re.compile(
    r'\s*USE\s+(DATABASE|SCHEMA|WAREHOUSE|ROLE)\s+("(?:[^"]|"")+"|[\w$.]+)\s*',
    re.IGNORECASE,
)
_DATABASES: Final = re.compile(
    r"\s*(CREATE|DROP)\s+(OR\s+REPLACE\s+)?(TRANSIENT\s+)?DATABASE\b", re.IGNORECASE
)
_STATE: Final = ("warehouse", "role", "database", "schema")


class Table(NamedTuple):
    """What a statement gave; cells are texts as the API gives them."""

    columns: list[str]
    types: list[str]
    rows: list[list[str | None]]


def account_of(config: Fields) -> Fields:
    """Who connects and where to; canonical.

    Raises ToolCallError of ``configuration`` naming what is missing.
    """
    auth = config.get("auth")
    given = {**(auth if isinstance(auth, dict) else {}), **config}
    names = (
        *("account", "user", "password", "private_key", "private_key_passphrase"),
        *("public_key", "database", "role", "base_url"),
    )
    found: Fields = {name: text_of(given, name) or "" for name in names}
    found["warehouse"] = text_of(given, "warehouse") or "COMPUTE_WH"
    found["schema"] = text_of(given, "schema") or "PUBLIC"
    for name in ("account", "user"):
        if not found[name]:
            raise configuration(f"snowflake needs {name}")
    if not found["password"] and not found["private_key"]:
        raise configuration("snowflake needs a password or a private_key")
    if not found["base_url"]:
        found["base_url"] = f"https://{found['account']}.snowflakecomputing.com"
    return found


class Session:
    """Statements of one call, one after another."""

    def __init__(self, web: Web, account: Fields, timeout_s: float) -> None:
        self._web = web
        self._account = account
        self._base = str(account["base_url"]).rstrip("/")
        self._timeout_s = timeout_s
        self._state = {name: str(account[name]) for name in _STATE}
        self._headers: dict[str, str] = {}
        self._since = 0.0

    async def run(self, statement: str, binds: list[JSON] | None = None) -> Table:
        """One statement to its end, every partition. Raises as :meth:`pages` does."""
        found: Table | None = None
        async for page in self.pages(statement, binds):
            if found is None:
                found = page
            else:
                found.rows.extend(page.rows)
        assert found is not None
        return found

    async def pages(
        self, statement: str, binds: list[JSON] | None = None
    ) -> AsyncIterator[Table]:
        """One statement, a partition at a time. Raises ToolCallError with the SQLSTATE.

        Cancelling cancels it on the server (TL-SF-03).
        """
        used = _USE.fullmatch(statement)
        if used is not None:
            # The API keeps no session: what a USE says goes with what follows.
            self._state[used.group(1).lower()] = used.group(2)
            yield Table(["status"], ["text"], [["Statement executed successfully."]])
            return
        body: dict[str, JSON] = {
            "statement": statement,
            "timeout": max(1, int(self._timeout_s)),
            **{name: value for name, value in self._state.items() if value},
        }
        if _DATABASES.match(statement):
            body.pop("database", None)
            body.pop("schema", None)
        if binds:
            body["bindings"] = {
                str(number): {"type": "TEXT", "value": value}
                for number, value in enumerate(binds, 1)
            }
        response = await self._call("POST", "/api/v2/statements", body)
        answer = await self._finished(response)
        about = answer.get("resultSetMetaData") or {}
        kinds = about.get("rowType") or []
        names = [str(kind["name"]) for kind in kinds]
        types = [str(kind.get("type", "")) for kind in kinds]
        yield Table(names, types, list(answer.get("data") or []))
        handle = answer.get("statementHandle")
        for number in range(1, len(about.get("partitionInfo") or [])):
            path = f"/api/v2/statements/{handle}?partition={number}"
            response = await self._call("GET", path)
            if response.status != 200:
                raise _refused(response, _json(response))
            yield Table(names, types, list(_json(response).get("data") or []))

    async def _finished(self, response: WebResponse) -> dict[str, Any]:
        wait_s = POLL_FIRST_S
        answer = _json(response)
        handle = str(answer.get("statementHandle") or "")
        try:
            while response.status == 202:
                await anyio.sleep(wait_s)
                wait_s = min(wait_s * 2, POLL_MAX_S)
                response = await self._call("GET", f"/api/v2/statements/{handle}")
                answer = _json(response)
        except BaseException:
            if handle:
                with anyio.CancelScope(shield=True), anyio.move_on_after(CANCEL_S):
                    await self._cancel(handle)
            raise
        if response.status != 200:
            raise _refused(response, answer)
        return answer

    async def _cancel(self, handle: str) -> None:
        try:
            await self._call("POST", f"/api/v2/statements/{handle}/cancel", {})
        except ToolCallError:
            # It ends by its own timeout.
            return

    async def _call(
        self, method: str, path: str, body: dict[str, JSON] | None = None
    ) -> WebResponse:
        """Answers of 401 renew the token once."""
        response = await self._send(method, path, body, await self._token(False))
        if response.status == 401:
            response = await self._send(method, path, body, await self._token(True))
        return response

    async def _send(
        self,
        method: str,
        path: str,
        body: dict[str, JSON] | None,
        headers: dict[str, str],
    ) -> WebResponse:
        return await self._web.fetch(
            WebRequest(
                method=method,
                url=self._base + path,
                headers={
                    **headers,
                    "Accept": "application/json",
                    "Content-Type": "application/json",
                    "User-Agent": "noetl",
                },
                content=None if body is None else encode_json(body),
                read_s=READ_S,
            )
        )

    async def _token(self, fresh: bool) -> dict[str, str]:
        now = time.monotonic()
        if fresh or not self._headers or now - self._since > RENEW_S:
            if self._account["private_key"]:
                token = key_pair_token(self._account, int(time.time()))
                self._headers = {
                    "Authorization": f"Bearer {token}",
                    "X-Snowflake-Authorization-Token-Type": "KEYPAIR_JWT",
                }
            else:
                token = await self._logged_in()
                self._headers = {"Authorization": f'Snowflake Token="{token}"'}
            self._since = now
        return self._headers

    async def _logged_in(self) -> str:
        data: dict[str, JSON] = {
            "ACCOUNT_NAME": self._account["account"],
            "LOGIN_NAME": self._account["user"],
            "PASSWORD": self._account["password"],
            "CLIENT_APP_ID": "noetl",
        }
        response = await self._send(
            "POST", "/session/v1/login-request", {"data": data}, {}
        )
        answer = _json(response)
        token = (answer.get("data") or {}).get("token")
        if response.status != 200 or not answer.get("success") or not token:
            text = str(answer.get("message") or f"HTTP {response.status}")[:200]
            raise _failure("auth", "auth", f"snowflake refuses the login: {text}")
        return str(token)


def key_pair_token(account: Fields, now: int) -> str:
    """TL-SF-01: RS256, named by the fingerprint of the public key."""
    key = _private_key(account)
    public = key.public_key().public_bytes(
        Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    )
    _check_public(str(account["public_key"]), public)
    name = str(account["account"]).partition(".")[0].upper()
    subject = f"{name}.{str(account['user']).upper()}"
    mark = base64.b64encode(hashlib.sha256(public).digest()).decode()
    claims: dict[str, JSON] = {
        "iss": f"{subject}.SHA256:{mark}",
        "sub": subject,
        "iat": now,
        "exp": now + TOKEN_S,
    }
    head = _part(encode_json({"alg": "RS256", "typ": "JWT"}))
    signed = f"{head}.{_part(encode_json(claims))}"
    signature = key.sign(signed.encode(), padding.PKCS1v15(), SHA256())
    return f"{signed}.{_part(signature)}"


def _part(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _private_key(account: Fields) -> rsa.RSAPrivateKey:
    text = str(account["private_key"]).replace("\\n", "\n").strip()
    if "BEGIN" not in text:
        text = f"-----BEGIN PRIVATE KEY-----\n{text}\n-----END PRIVATE KEY-----\n"
    phrase = str(account["private_key_passphrase"]).encode() or None
    try:
        key = load_pem_private_key(text.encode(), phrase)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise _failure("auth", "auth", "private_key cannot be read") from error
    if not isinstance(key, rsa.RSAPrivateKey):
        raise _failure("auth", "auth", "private_key is no RSA key")
    return key


def _check_public(given: str, public: bytes) -> None:
    if not given:
        return
    try:
        found = load_pem_public_key(given.replace("\\n", "\n").encode())
    except ValueError as error:
        raise _failure("auth", "auth", "public_key cannot be read") from error
    if found.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) != public:
        raise _failure("auth", "auth", "public_key is not that of private_key")


def _json(response: WebResponse) -> dict[str, Any]:
    try:
        found = decode_json(response.body or b"{}")
    except DecodeError:
        return {}
    return found if isinstance(found, dict) else {}


def _refused(response: WebResponse, answer: dict[str, Any]) -> ToolCallError:
    status = response.status
    text = str(answer.get("message") or f"HTTP {status} {response.reason}")[:2000]
    if status == 422:
        return _failure("db_error", str(answer.get("sqlState") or ""), text)
    kinds = {401: "auth", 403: "auth", 408: "db_timeout", 429: "rate_limit"}
    server = status >= 500
    kind = kinds.get(status, "server_error" if server else "client_error")
    retryable = server or status in (408, 429)
    return _failure(kind, f"HTTP_{status}", text, retryable=retryable)


def _failure(
    kind: str, code: str, message: str, *, retryable: bool = False
) -> ToolCallError:
    return ToolCallError(
        ToolFailure(
            kind=kind,
            code=code,
            message=message,
            retryable=retryable,
            source="snowflake",
        )
    )
