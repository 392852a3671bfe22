"""A result that is stored elsewhere, as texts see it without fetching it.

What the summary shows whole is answered from it; whatever else a text does with the
result raises :class:`BulkNeededError`, so a text can never take a mark for the value.
Whoever evaluates fetches the bulk and evaluates again: size changes no value (PB-344).
"""

from __future__ import annotations

from typing import Final, cast

from msgspec import UNSET, Struct, UnsetType

from state_builder.errors import NoetlError
from state_builder.records import JSON, Reference
from state_builder.summary import META
from state_builder.template.results import ABSENT, Outside, StepResult


class BulkNeededError(NoetlError):
    """The text needs the whole of a stored value, which is not at hand.

    Attributes:
        reference: where it is.
    """

    code = "missing_reference"

    def __init__(self, reference: Reference) -> None:
        super().__init__(f"the value of {reference.ref} is needed and not at hand")
        self.reference = reference


class _Node(Struct, frozen=True):
    """One place of the summary.

    Attributes:
        kind: ``map``, ``list``, ``text``, ``scalar``; ``unknown`` for a map of which
            nothing is shown, and where there is no summary at all.
        value: the map's members as shown, the scalar, or the list's first element.
        whole: no name of the map is missing.
    """

    kind: str
    value: JSON | UnsetType = UNSET
    whole: bool = True


_UNKNOWN: Final = _Node("unknown")


def _node(shown: JSON) -> _Node:
    """What a piece of the summary says; marks are keys no shown map has."""
    if isinstance(shown, list):
        return _Node("list", shown[0] if shown else UNSET)
    if not isinstance(shown, dict):
        return _Node("scalar", shown)
    if "_keys" in shown:
        return _UNKNOWN
    if "_len" in shown:
        return _Node("text")
    if "_bytes" in shown or "_count" in shown:
        return _Node("list")
    if "_truncated" in shown:
        rest = {name: one for name, one in shown.items() if name != "_truncated"}
        return _Node("map", rest, whole=False)
    return _Node("map", shown)


class External(Outside, kw_only=True):
    """A stored result, or a part of one; ``form`` as of any result.

    A part that is no result of its own has the form ``rows``: it has no views.
    """

    stored: Reference
    node: _Node

    # A field that may not be read: whoever does needs the bulk.
    @property  # type: ignore[misc]
    def value(self) -> JSON:  # type: ignore[override]
        """The value itself: never at hand."""
        raise BulkNeededError(self.stored)

    def part(self, node: _Node, form: str) -> object:
        """What stands at a place of the summary."""
        if node.kind == "scalar":
            return node.value
        return External(None, form, stored=self.stored, node=node)

    def lookup(self, name: str) -> object:
        """``result.name``, or ABSENT; in the order of an inline result's lookups."""
        found = _member(self, name)
        if found is not ABSENT:
            return found
        if self.envelope is not None and name in self.envelope:
            return self.envelope[name]
        if name == "error" and self.error is not None:
            return self.error
        if name == "status" and self.failed:
            return "error"
        if self.form == "http":
            found = _http_word(self, name)
            if found is not ABSENT:
                return found
        if name in _ITSELF and self.form not in ("rows", "elements"):
            return self
        return ABSENT if self.words is None else self.words.get(name, ABSENT)

    def first(self) -> object:
        """``result[0]``."""
        rows = self.node
        if rows.kind != "list":
            found = self._rows()
            if not isinstance(found, External) or found.node.kind != "list":
                raise BulkNeededError(self.stored)
            rows = found.node
        if isinstance(rows.value, UnsetType):
            raise BulkNeededError(self.stored)
        return self.part(_node(rows.value), _element_form(self.form))

    def _rows(self) -> object:
        """The list that index addresses (PB-434)."""
        if self.form.startswith("loop"):
            return _real(self, self.node, "results")
        if self.form == "pipeline" and not self.failed:
            return _pipeline_member(self, "rows")
        return _real(self, self.node, "rows")

    def within(self, envelope: dict[str, JSON]) -> External:
        """The same with further words (PB-203)."""
        return External(
            None,
            self.form,
            self.error,
            self.failed,
            envelope=envelope,
            words=self.words,
            stored=self.stored,
            node=self.node,
        )


_ITSELF: Final = frozenset({"data", "result", "output"})


def external(
    reference: Reference,
    form: str,
    *,
    error: dict[str, JSON] | None = None,
    failed: bool = False,
) -> External:
    """The result behind a reference."""
    shown = reference.extracted
    node = _UNKNOWN if isinstance(shown, UnsetType) else _node(_without_counts(shown))
    words = words_of(reference)
    return External(None, form, error, failed, words=words, stored=reference, node=node)


def fetched(
    value: JSON,
    reference: Reference,
    form: str,
    *,
    error: dict[str, JSON] | None = None,
    failed: bool = False,
) -> StepResult:
    """The same result with its bulk at hand: as inline, but for the words of its
    reference (TL-RR-42)."""
    return StepResult(value, form, error, failed, words=words_of(reference))


def words_of(reference: Reference) -> dict[str, JSON]:
    """Words only a stored result has, where its value has no such key (PB-343)."""
    words: dict[str, JSON] = dict(reference.selected)
    words["_ref"] = words["_uri"] = reference.ref
    words["_store"] = reference.store
    words["_preview"] = reference.preview
    words["_size_bytes"] = reference.meta.value_bytes or reference.meta.bytes
    return words


def stub_of(reference: Reference) -> JSON:
    """What stands for a stored value where nobody fetches it (RT-EVT-16, TL-RR-41)."""
    shown = reference.extracted
    fields = shown if isinstance(shown, dict) else {}
    return {
        "_ref": reference.ref,
        "_store": reference.store,
        **fields,
        **reference.selected,
    }


def _without_counts(shown: JSON) -> JSON:
    if isinstance(shown, dict) and "_counts" in shown:
        return {name: one for name, one in shown.items() if name != "_counts"}
    return shown


def _element_form(form: str) -> str:
    name, _, of = form.partition(":")
    return (of or "plain") if name in ("loop", "elements") else "rows"


def _member(result: External, name: str) -> object:
    """What the value itself has of the name."""
    form = result.form
    if form == "pipeline" and not result.failed:
        return _pipeline_member(result, name)
    if form.startswith("loop") and name in ("results", "data"):
        elements = _real(result, result.node, "results")
        if isinstance(elements, External):
            return result.part(elements.node, f"elements:{form[5:]}")
        return elements
    if name == "data" and form == "http":
        found = _real(result, result.node, "data")
        return _real(result, result.node, "body") if found is ABSENT else found
    return _real(result, result.node, name)


def _real(result: External, node: _Node, name: str) -> object:
    """A member of a map, which is shown, certainly absent, or needs the bulk."""
    if node.kind == "map":
        members = cast("dict[str, JSON]", node.value)
        if name in members:
            return result.part(_node(members[name]), "rows")
        if node.whole:
            return ABSENT
    elif node.kind != "unknown":
        return ABSENT
    if node is result.node and result.words is not None and name in META:
        # A key of that name would have been shown first of all.
        return ABSENT
    raise BulkNeededError(result.stored)


def _http_word(result: External, name: str) -> object:
    """PB-436: the body's keys, and ``status``."""
    body = _real(result, result.node, "body")
    if isinstance(body, External):
        found = _real(result, body.node, name)
        if found is not ABSENT:
            return found
    if name == "status":
        return _real(result, result.node, "status_code")
    return ABSENT


def _pipeline_member(result: External, name: str) -> object:
    """PB-183, as far as the summary tells; tasks that share a key need the bulk, since
    the last one to run has it."""
    node = result.node
    if node.kind != "map" or not node.whole:
        if name in META:
            return ABSENT
        raise BulkNeededError(result.stored)
    labels = cast("dict[str, JSON]", node.value)
    having = []
    if name != "_context_updates":
        for label, shown in labels.items():
            if label != "_context_updates":
                found = _task_member(result, _node(shown), name)
                if found is not ABSENT:
                    having.append(found)
    if len(having) > 1:
        raise BulkNeededError(result.stored)
    if having:
        return having[0]
    if name in labels:
        return _task(result, _node(labels[name]))
    if name == "results":
        raise BulkNeededError(result.stored)
    return ABSENT


def _task_member(result: External, node: _Node, name: str) -> object:
    found = _real_of_task(result, node, name)
    if found is ABSENT and name == "data" and _is_http(node):
        return _real_of_task(result, node, "body")
    return found


def _real_of_task(result: External, node: _Node, name: str) -> object:
    return ABSENT if node.kind == "scalar" else _real(result, node, name)


def _task(result: External, node: _Node) -> object:
    if node.kind == "scalar":
        # Also a scalar has its views.
        return None if node.value is None else StepResult(cast("JSON", node.value))
    return result.part(node, "http" if _is_http(node) else "plain")


def _is_http(node: _Node) -> bool:
    if node.kind != "map":
        return False
    members = cast("dict[str, JSON]", node.value)
    return members.keys() >= {"status_code", "headers", "body", "url"}
