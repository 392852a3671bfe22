"""Results as texts read them: one value, and the views computed on lookup.

A view (``.data``, ``rows`` by index, merged keys of a pipeline, the body behind an http
result …) exists only while a text looks at it (PB-431): :func:`plain` gives the value
without views. A key the value really has wins over every view.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, TypeAlias, cast

from jinja2 import Undefined
from msgspec import Struct

from state_builder.errors import TemplateError
from state_builder.records import JSON

ABSENT: Final = object()
"""What a lookup gives that found nothing; null is a value."""

_ITSELF: Final = frozenset({"data", "result", "output"})
_HTTP_KEYS: Final = frozenset({"status_code", "headers", "body", "url"})


class StepResult(Struct):
    """The result of a step, task or iteration (PB-430..437).

    Attributes:
        value: all of it, without views; of a pipeline the map label → data.
        form: ``plain``, ``http``, ``pipeline``, ``call``, ``cursor``; ``loop``, or
            ``loop:<form of its elements>``; ``labels`` for a map label → data without
            merged keys; ``outcome`` for the envelope of policy rules (PB-100), whose
            member ``data`` may itself be a StepResult. ``rows``, ``elements`` and
            ``no_error`` come from lookups.
        error: why it failed, or the error a policy absorbed; lookup ``error``.
        failed: the step failed (PB-568).
        envelope: further words found where the value has no such key: ``output`` of a
            step's ``set`` and arcs (PB-203).
        words: looked at last of all: what only a stored result has (PB-343).
    """

    value: JSON
    form: str = "plain"
    error: dict[str, JSON] | None = None
    failed: bool = False
    envelope: dict[str, JSON] | None = None
    words: dict[str, JSON] | None = None

    def __bool__(self) -> bool:
        """Row sets and aggregates are true when not empty (PB-230, PB-434)."""
        found = sequence(self)
        return bool(whole(self) if found is None else found)


class Outside(StepResult):
    """A result whose value is not at hand; it answers what it can."""

    def lookup(self, name: str) -> object:
        """What ``result.name`` gives, or :data:`ABSENT`."""
        raise NotImplementedError

    def first(self) -> object:
        """What ``result[0]`` gives, or :data:`ABSENT`."""
        raise NotImplementedError


Seen: TypeAlias = "JSON | StepResult"
"""What a lookup gives: a value, or one that has views."""


def child(value: Seen, form: str = "") -> Seen:
    """A task's data or a loop's element: a result of its own."""
    if value is None or isinstance(value, StepResult):
        return value
    if not form:
        form = "http" if _is_http(value) else "plain"
    return StepResult(value, form)


def seen(value: Seen) -> Seen:
    """A member that was looked up; a map with a list ``rows`` is a row set (PB-434)."""
    if type(value) is dict and type(value.get("rows")) is list:
        return StepResult(value, "rows")
    return value


def _is_http(value: JSON) -> bool:
    return type(value) is dict and value.keys() >= _HTTP_KEYS


def _map_of(result: StepResult) -> dict[str, JSON] | None:
    """The map whose keys are real, or None where the value is none (PB-568)."""
    value = result.value
    if type(value) is dict:
        return value
    if result.failed:
        return {"status": "error", "error": result.error}
    return None


def member(result: StepResult, name: str) -> object:
    """What ``result.name`` gives, or :data:`ABSENT`."""
    if isinstance(result, Outside):
        return result.lookup(name)
    form = "plain" if result.failed and result.form == "pipeline" else result.form
    if form == "pipeline":
        found = _pipeline_member(result, name)
    elif form.startswith("loop"):
        found = _loop_member(result, name, form[5:])
    elif form == "labels":
        labels = _map_of(result) or {}
        return child(labels[name]) if name in labels else ABSENT
    elif form == "outcome":
        return _outcome_member(result, name)
    elif form == "no_error":
        return False if name == "retryable" else ABSENT
    else:
        found = _real_member(result.value, name, form)
        if found is ABSENT and result.failed:
            found = (_map_of(result) or {}).get(name, ABSENT)
    if found is not ABSENT:
        return found
    return _word(result, name, form)


def _word(result: StepResult, name: str, form: str) -> object:
    """Words beside the value: the envelope, the error, the body, the value itself."""
    if result.envelope is not None and name in result.envelope:
        return result.envelope[name]
    if name == "error" and result.error is not None:
        return result.error
    if name == "status" and result.failed:
        return "error"
    if form == "http":
        found = _http_word(result.value, name)
        if found is not ABSENT:
            return found
    if name.startswith("command_") and _is_last_statement(result.value, name):
        return result
    if name in _ITSELF and form not in ("rows", "elements"):
        return result
    return ABSENT if result.words is None else result.words.get(name, ABSENT)


def _is_last_statement(value: JSON, name: str) -> bool:
    """``command_<i>`` of an SQL result's last statement is the result (TL-PG-08)."""
    if type(value) is not dict or type(value.get("statement_count")) is not int:
        return False
    return name == f"command_{cast('int', value['statement_count']) - 1}"


def _real_member(value: JSON, name: str, form: str) -> object:
    if type(value) is dict:
        if name in value:
            return value[name]
        if name == "data" and form == "http" and "body" in value:
            # The body is stored once and has two names (TL-HT-04).
            return value["body"]
    return ABSENT


def _http_word(value: JSON, name: str) -> object:
    """PB-436: the body's keys, and ``status``."""
    if type(value) is not dict:
        return ABSENT
    body = value.get("body")
    if type(body) is dict and name in body:
        return body[name]
    return value.get("status_code", ABSENT) if name == "status" else ABSENT


def _labels(result: StepResult) -> dict[str, Seen]:
    value = result.value
    if type(value) is not dict:
        return {}
    return cast("dict[str, Seen]", value)


def _task_value(data: Seen) -> JSON:
    return data.value if isinstance(data, StepResult) else data


def _pipeline_member(result: StepResult, name: str) -> object:
    """PB-183: merged keys, the last writer first; then labels; then ``results``."""
    labels = _labels(result)
    if name != "_context_updates":
        for label in reversed(labels):
            data = _task_value(labels[label])
            if label != "_context_updates" and type(data) is dict:
                form = "http" if _is_http(data) else "plain"
                found = _real_member(data, name, form)
                if found is not ABSENT:
                    return found
        if name in labels:
            return child(labels[name])
    if name == "results":
        return StepResult(result.value, "labels")
    return ABSENT


def _loop_member(result: StepResult, name: str, form: str) -> object:
    value = result.value
    if type(value) is dict and (name == "results" or name not in value):
        if name in ("results", "data"):
            return StepResult(value.get("results"), f"elements:{form}")
        return ABSENT
    return _real_member(value, name, "plain")


def _outcome_member(result: StepResult, name: str) -> object:
    """PB-100, PB-101: the envelope's words, then what the data has."""
    envelope = _labels(result)
    if name in ("data", "result"):
        return child(envelope.get("data"))
    if name == "error" and envelope.get("error") is None:
        return StepResult(None, "no_error")
    if name == "status" and envelope.get("status") == "success":
        return Success("success")
    if name in envelope:
        return envelope[name]
    data = child(envelope.get("data"))
    return member(data, name) if isinstance(data, StepResult) else ABSENT


class Success(str):
    """The status of a success: ``success``, and also equal to ``ok`` (TL-OUT-01)."""

    __slots__ = ()
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        return other in ("success", "ok") if type(other) is str else self is other

    def __ne__(self, other: object) -> bool:
        return not self == other


def sequence(result: StepResult) -> list[JSON] | None:
    """The list that index, ``length``, iteration, ``first`` and truth address."""
    value = result.value
    if type(value) is list:
        return value
    if result.form.startswith("loop"):
        rows = value.get("results") if type(value) is dict else None
    elif result.form == "pipeline" and not result.failed:
        rows = cast("JSON", _pipeline_member(result, "rows"))
    else:
        rows = value.get("rows") if type(value) is dict else None
    return rows if type(rows) is list else None


def _element_form(result: StepResult) -> str | None:
    """The form of a loop's elements, None where elements are mere values."""
    name, _, form = result.form.partition(":")
    return form if name in ("loop", "elements") else None


def element(result: StepResult, index: int) -> object:
    """What ``result[index]`` gives, or :data:`ABSENT`."""
    if index == 0 and isinstance(result, Outside):
        return result.first()
    found = sequence(result)
    if found is None:
        text = whole(result)
        return cast("str", text)[index] if _has(text, index) else ABSENT
    if not -len(found) <= index < len(found):
        return ABSENT
    form = _element_form(result)
    return seen(found[index]) if form is None else child(found[index], form)


def _has(value: JSON, index: int) -> bool:
    return type(value) is str and -len(value) <= index < len(value)


def elements(result: StepResult) -> list[Seen] | None:
    """The elements of :func:`sequence`, those of a loop with their views."""
    found = sequence(result)
    form = _element_form(result)
    if found is None or form is None:
        return cast("list[Seen] | None", found)
    return [child(value, form) for value in found]


def part(result: StepResult, piece: slice) -> Seen:
    """What ``result[a:b]`` gives; a slice of a loop's results keeps their views."""
    found = sequence(result)
    if found is None:
        text = whole(result)
        if not isinstance(text, str):
            raise TemplateError(f"cannot slice {type_name(text)}")
        return text[piece]
    form = _element_form(result)
    if form is None:
        return found[piece]
    return StepResult(found[piece], f"elements:{form}")


def whole(result: StepResult) -> JSON:
    """The value without views; a pipeline's merged keys are materialised (PB-183)."""
    if result.failed:
        return _map_of(result) if _is_bare(result) else result.value
    labels = result.value
    if result.form not in ("pipeline", "labels", "outcome") or type(labels) is not dict:
        return labels
    tasks = {name: plain(data) for name, data in labels.items()}
    if result.form == "pipeline":
        for data in list(tasks.values()):
            if type(data) is dict:
                tasks.update(data)
    tasks.pop("_context_updates", None)
    return tasks


def _is_bare(result: StepResult) -> bool:
    return type(result.value) is not dict


def keys(result: StepResult) -> Iterator[str]:
    """The keys of the whole value; raises TypeError where it is no map."""
    value = whole(result)
    if type(value) is not dict:
        raise TypeError(f"{type_name(value)} has no elements")
    return iter(value)


def plain(value: object) -> JSON:
    """The JSON value behind a result, a view or a lazy mapping; undefined is null."""
    if isinstance(value, StepResult):
        return whole(value)
    if isinstance(value, Undefined):
        return None
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, Mapping) and type(value) is not dict:
        return {name: plain(value[name]) for name in value}
    return cast("JSON", value)


def type_name(value: object) -> str:
    """What an author calls the type of a value."""
    if isinstance(value, StepResult):
        value = whole(value)
    if value is None or isinstance(value, Undefined):
        return "null" if value is None else "undefined"
    for kind, name in _TYPE_NAMES:
        if isinstance(value, kind):
            return name
    return type(value).__name__


_TYPE_NAMES: Final[tuple[tuple[type, str], ...]] = (
    (bool, "boolean"),
    (int, "number"),
    (float, "number"),
    (str, "text"),
    (list, "list"),
    (Mapping, "map"),
)
