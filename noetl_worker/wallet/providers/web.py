"""One HTTP call of the wallet: bounded, verified, no redirects, errors by status."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final, cast

import httpx
from msgspec import DecodeError
from msgspec.json import decode as decode_json

from state_builder.errors import (
    InvalidError,
    NoetlError,
    NotFoundError,
    RefusedError,
    UpstreamError,
)
from state_builder.records import JSON
from state_builder.redact import mask_error

TIMEOUT_S: Final = 10.0
BODY_BYTES_MAX: Final = 1 << 20
WORDS_MAX: Final = 200
"""Characters of a remote side's own words (SC-PR-04)."""

_STATUS: Final[dict[int, type[NoetlError]]] = {
    HTTPStatus.UNAUTHORIZED: RefusedError,
    HTTPStatus.FORBIDDEN: RefusedError,
    HTTPStatus.NOT_FOUND: NotFoundError,
    HTTPStatus.REQUEST_TIMEOUT: UpstreamError,
    HTTPStatus.TOO_MANY_REQUESTS: UpstreamError,
}


@dataclass(frozen=True, kw_only=True)
class WebCall:
    """A request; ``who`` is how errors call the remote side.

    Attributes:
        form: sent as a form; ``json`` else.
        ca: file of the authority to trust instead of the system's.
    """

    who: str
    url: str
    method: str = "GET"
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    form: Mapping[str, str] | None = field(default=None, repr=False)
    json: JSON = field(default=None, repr=False)
    ca: str = ""


class Web:
    """The way out."""

    def __init__(self, timeout_s: float = TIMEOUT_S) -> None:
        self._timeout_s = timeout_s
        self._clients: dict[str, httpx.AsyncClient] = {}

    async def object(self, call: WebCall) -> dict[str, JSON]:
        """The JSON object that is answered.

        Raises NotFoundError, RefusedError, InvalidError, or UpstreamError.
        """
        try:
            response = await self._client(call.ca).request(
                call.method,
                call.url,
                headers=dict(call.headers),
                data=dict(call.form) if call.form is not None else None,
                json=call.json,
            )
        except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
            raise InvalidError(f"{call.who}: the address cannot be used") from error
        except httpx.TransportError as error:
            raise UpstreamError(
                f"{call.who} cannot be reached: {type(error).__name__}"
            ) from error
        if not response.is_success:
            raise _refused(call.who, response)
        try:
            if len(response.content) > BODY_BYTES_MAX:
                raise InvalidError(f"{call.who}: the answer is larger than allowed")
            found = decode_json(response.content)
        except DecodeError as error:
            raise InvalidError(f"{call.who}: the answer is no JSON") from error
        if not isinstance(found, dict):
            raise InvalidError(f"{call.who}: the answer is no JSON object")
        return cast("dict[str, JSON]", found)

    async def close(self) -> None:
        """Drop the connections."""
        clients, self._clients = list(self._clients.values()), {}
        for client in clients:
            await client.aclose()

    def _client(self, ca: str) -> httpx.AsyncClient:
        client = self._clients.get(ca)
        if client is None:
            try:
                verify = ssl.create_default_context(cafile=ca) if ca else True
            except OSError as error:
                raise InvalidError(f"authority file {ca} cannot be read") from error
            client = httpx.AsyncClient(
                timeout=self._timeout_s,
                follow_redirects=False,
                trust_env=False,
                verify=verify,
            )
            self._clients[ca] = client
        return client


def _refused(who: str, response: httpx.Response) -> NoetlError:
    status = response.status_code
    server = status >= HTTPStatus.INTERNAL_SERVER_ERROR
    kind = _STATUS.get(status, UpstreamError if server else InvalidError)
    words = mask_error(response.text[: 2 * WORDS_MAX])[:WORDS_MAX]
    return kind(f"{who} answers {status}: {' '.join(words.split())}")
