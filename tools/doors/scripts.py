"""Scripts that are not in the playbook: of a file, the web, a store (TL-PY-02)."""

from __future__ import annotations

import hashlib
from typing import Final
from urllib.parse import quote, urljoin, urlsplit

from anyio import to_thread

from state_builder.records import JSON
from tools.auth import http_headers
from tools.contract import ToolLimits
from tools.doors.files import confined
from tools.doors.objects import access_of, get, place_of
from tools.doors.statuses import failure_of
from tools.doors.web import Web, WebRequest
from tools.errors import ToolCallError, configuration
from tools.fields import Fields, map_of, number_of, text_of

SCRIPT_BYTES_MAX: Final = 10 << 20
"""Size of a script."""

TIMEOUT_S: Final = 30.0
GCS_BASE: Final = "https://storage.googleapis.com"
KNOWN: Final = ("inline", "file", "http", "gcs", "s3")

_BODY_SHOWN: Final = 300


async def load_script(script: Fields, limits: ToolLimits, web: Web) -> str:
    """The text of a script that is not inline.

    Raises ToolCallError: ``configuration`` naming the field, or what the place said.
    """
    source = map_of(script, "source")
    kind = source.get("type") or _guessed(script.get("uri"))
    if kind == "file":
        data = await to_thread.run_sync(_read, _uri(script), limits)
    elif kind == "http":
        data = await _fetch(web, _http_request(script, source))
    elif kind == "gcs":
        data = await _fetch(web, _gcs_request(script, source))
    elif kind == "s3":
        place = place_of(_uri(script), "script.uri")
        data = await get(place, access_of("s3", source), SCRIPT_BYTES_MAX)
    else:
        raise configuration(
            f"script.source.type '{kind}' is not known (known: {', '.join(KNOWN)})"
        )
    return _checked(data, script)


def _guessed(uri: JSON) -> str:
    scheme = urlsplit(uri).scheme if isinstance(uri, str) else ""
    return {"http": "http", "https": "http", "gs": "gcs", "s3": "s3"}.get(
        scheme, "file"
    )


def _uri(script: Fields) -> str:
    uri = text_of(script, "uri", "script.")
    if uri is None:
        raise configuration("script.uri: say where the script is")
    return uri


def _checked(data: bytes, script: Fields) -> str:
    if len(data) > SCRIPT_BYTES_MAX:
        raise configuration(f"script.uri: more than {SCRIPT_BYTES_MAX:,} bytes")
    wanted = text_of(script, "sha256", "script.")
    found = hashlib.sha256(data).hexdigest()
    if wanted is not None and wanted.lower() != found:
        raise configuration(f"script.sha256: the script has {found}")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise configuration(f"script.uri: the script is not UTF-8: {error}") from error


def _read(uri: str, limits: ToolLimits) -> bytes:
    """A file below the script root, else the file roots (TL-SEC-04)."""
    path = uri.removeprefix("file://")
    place = confined(path, limits, field="script.uri", base=limits.script_root)
    try:
        with place.open("rb") as file:
            return file.read(SCRIPT_BYTES_MAX + 1)
    except OSError as error:
        reason = error.strerror or str(error)
        raise configuration(f"script.uri: cannot read '{uri}': {reason}") from error


def _http_request(script: Fields, source: Fields) -> WebRequest:
    uri, endpoint = script.get("uri") or "", source.get("endpoint") or ""
    if not isinstance(uri, str) or not isinstance(endpoint, str):
        raise configuration("script.uri and script.source.endpoint must be texts")
    url = urljoin(f"{endpoint.rstrip('/')}/", uri.lstrip("/")) if endpoint else uri
    added = http_headers(source.get("auth"))
    headers = {name: str(text) for name, text in map_of(source, "headers").items()}
    return WebRequest(
        method=(text_of(source, "method", "script.source.") or "GET").upper(),
        url=url,
        headers={**added, **headers},
        secret_headers=frozenset(name.lower() for name in added),
        read_s=number_of(source, "timeout") or TIMEOUT_S,
        body_bytes_max=SCRIPT_BYTES_MAX,
    )


def _gcs_request(script: Fields, source: Fields) -> WebRequest:
    uri = _uri(script)
    bucket, _, name = uri.removeprefix("gs://").partition("/")
    if not uri.startswith("gs://") or not bucket or not name:
        raise configuration(
            f"script.uri: '{uri}' is not of the form gs://bucket/object"
        )
    base = text_of(source, "endpoint", "script.source.") or GCS_BASE
    added = http_headers(source.get("auth"))
    return WebRequest(
        method="GET",
        url=f"{base.rstrip('/')}/storage/v1/b/{quote(bucket, safe='')}"
        f"/o/{quote(name, safe='')}?alt=media",
        headers=added,
        secret_headers=frozenset(name.lower() for name in added),
        read_s=number_of(source, "timeout") or TIMEOUT_S,
        body_bytes_max=SCRIPT_BYTES_MAX,
    )


async def _fetch(web: Web, request: WebRequest) -> bytes:
    response = await web.fetch(request)
    if 200 <= response.status < 300:
        return response.body
    failure = failure_of(response, "script.uri: ")
    shown = response.body[:_BODY_SHOWN].decode("utf-8", "replace")
    failure.message += f": {shown}" if shown else ""
    raise ToolCallError(failure)
