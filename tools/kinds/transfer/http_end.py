"""An HTTP API as a source: one answer, the array in it, its objects as rows."""

from __future__ import annotations

from urllib.parse import urlencode, urlsplit

from msgspec import DecodeError
from msgspec.json import decode as decode_json

from state_builder.records import JSON, ToolFailure
from tools.auth import http_headers
from tools.doors.statuses import failure_of
from tools.doors.web import Web, WebRequest
from tools.errors import ToolCallError, configuration
from tools.fields import Fields, map_of


async def rows_of(web: Web, source: Fields) -> list[Fields]:
    """The rows of the answer.

    Raises ToolCallError: of the status outside 2xx, ``json`` where the body is none,
    ``configuration`` naming the segment of ``data_path`` that is missing (TL-TR-09).
    """
    response = await web.fetch(_request(source))
    if not 200 <= response.status < 300:
        raise ToolCallError(failure_of(response, "source: "))
    try:
        body: JSON = decode_json(response.body)
    except DecodeError as error:
        text = f"source: the answer is no JSON: {error}"
        raise ToolCallError(ToolFailure(kind="json", message=text)) from error
    found = _at(body, str(source["data_path"]))
    items = found if isinstance(found, list) else [found]
    rows: list[Fields] = []
    for number, item in enumerate(items, 1):
        if not isinstance(item, dict):
            raise configuration(f"source: row {number} of the answer is no object")
        rows.append(item)
    return rows


def columns_of(rows: list[Fields]) -> list[str]:
    """Every key of every row, in the order they are first seen."""
    return list(dict.fromkeys(key for row in rows for key in row))


def _request(source: Fields) -> WebRequest:
    headers = {
        name: str(value)
        for name, value in map_of(source, "headers").items()
        if value is not None
    }
    headers = {**http_headers(source.get("auth")), **headers}
    query = urlencode(
        {name: str(value) for name, value in map_of(source, "params").items()}
    )
    url = str(source["url"])
    if query:
        url += ("&" if urlsplit(url).query else "?") + query
    return WebRequest(method=str(source["method"]), url=url, headers=headers)


def _at(body: JSON, path: str) -> JSON:
    """What stands at a dotted path."""
    found = body
    for segment in filter(None, path.split(".")):
        if isinstance(found, dict) and segment in found:
            found = found[segment]
        elif (
            isinstance(found, list) and segment.isdigit() and int(segment) < len(found)
        ):
            found = found[int(segment)]
        else:
            raise configuration(
                f"source.data_path: the answer has no '{segment}' in '{path}'"
            )
    return found
