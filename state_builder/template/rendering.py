"""Rendering values and deciding conditions (PB §12.2, §12.5)."""

from __future__ import annotations

from typing import Final

from msgspec import DecodeError
from msgspec.json import decode as decode_json

from state_builder.errors import TemplateError
from state_builder.records import JSON
from state_builder.template.limits import NESTING_MAX, nested_too_deep
from state_builder.template.reading import is_template
from state_builder.template.scope import Scope
from state_builder.template.texts import compiled, compiled_expression
from state_builder.template.values import truth

_OPENERS: Final = {"{": "}", "[": "]"}


def render(value: JSON, scope: Scope, *, data: bool = False) -> JSON:
    """A value with every text in it rendered; keys of maps stay as they are.

    Args:
        data: the value stands in a data position: text that is complete JSON becomes
            the structure it spells (PB-413).

    Raises:
        TemplateError: a text that cannot be parsed or evaluated.
        LimitExceededError: a text that does or makes too much.
    """
    return _render(value, scope, data, 0)


def _render(value: JSON, scope: Scope, data: bool, depth: int) -> JSON:
    if isinstance(value, str):
        return _render_text(value, scope, data) if is_template(value) else value
    if depth > NESTING_MAX:
        raise nested_too_deep()
    if isinstance(value, dict):
        return {
            key: _render(item, scope, data, depth + 1) for key, item in value.items()
        }
    if isinstance(value, list):
        return [_render(item, scope, data, depth + 1) for item in value]
    return value


def _render_text(text: str, scope: Scope, data: bool) -> JSON:
    found = compiled(text)
    if found.lone:
        value: JSON = found.native(scope)
        return _structure(value) if data and found.to_json else value
    rendered = found.text(scope)
    return _structure(rendered) if data else rendered


def _structure(value: JSON) -> JSON:
    """The list or map a text spells, else the text itself."""
    if not isinstance(value, str):
        return value
    stripped = value.strip()
    closer = _OPENERS.get(stripped[:1])
    if closer is None or not stripped.endswith(closer):
        return value
    try:
        decoded: JSON = decode_json(stripped)
    except DecodeError:
        return value
    return decoded


def condition(text: str | bool, scope: Scope) -> bool:
    """Whether a condition holds (PB-440, PB-441).

    Raises:
        TemplateError: it cannot be evaluated, is empty, or is one unpaired brace.
    """
    if isinstance(text, bool):
        return text
    if is_template(text):
        found = compiled(text)
        return truth(found.value(scope) if found.lone else found.text(scope))
    if not text.strip():
        raise TemplateError("the condition is empty")
    if text.strip()[0] == "{":
        raise TemplateError("a condition in single braces: write {{ … }}")
    return truth(compiled_expression(text).value(scope))
