"""Rendering values and deciding conditions: what the rest of the house calls."""

from __future__ import annotations

from msgspec import DecodeError
from msgspec.json import decode as decode_json

from state_builder.errors import LimitExceededError, TemplateError
from state_builder.records import JSON
from state_builder.template.limits import nested_too_deep
from state_builder.template.scope import Scope
from state_builder.template.texts import (
    blamed,
    condition_of_source,
    guarded,
    is_template,
    text_of_source,
)
from state_builder.template.values import truth


def render(value: JSON, scope: Scope, *, data: bool = False) -> JSON:
    """Every text of a value evaluated once, at any depth; keys are literal.

    Args:
        data: the value stands in a data position (PB-413).

    Raises:
        TemplateError: a text that cannot be parsed or evaluated; ``path`` leads to it.
        LimitExceededError: a text that does too much, or a value nested too deeply.
    """
    try:
        return _rendered(value, scope, data)
    except RecursionError as error:
        raise nested_too_deep() from error


def _rendered(value: JSON, scope: Scope, data: bool) -> JSON:
    if type(value) is str:
        return _rendered_text(value, scope, data) if is_template(value) else value
    if type(value) is dict:
        found: dict[str, JSON] = {}
        for key, item in value.items():
            try:
                found[key] = _rendered(item, scope, data)
            except TemplateError as error:
                error.under(key)
                raise
        return found
    if type(value) is list:
        items: list[JSON] = []
        for index, item in enumerate(value):
            try:
                items.append(_rendered(item, scope, data))
            except TemplateError as error:
                error.under(index)
                raise
        return items
    return value


def _rendered_text(source: str, scope: Scope, data: bool) -> JSON:
    text = text_of_source(source)
    if data and text.structure is not None:
        text = text.structure
    value = guarded(source, lambda: text.value(scope))
    return _structured(value) if data and not text.lone else value


def _structured(value: JSON) -> JSON:
    """A mixed text that is a complete JSON list or map gives that (PB-413)."""
    if not isinstance(value, str) or not value.lstrip().startswith(("{", "[")):
        return value
    try:
        found: JSON = decode_json(value)
    except DecodeError:
        return value
    return found


def condition(text: str | bool, scope: Scope) -> bool:
    """Does the condition hold (PB-440..442)?

    Raises:
        TemplateError: a condition that cannot be parsed or evaluated.
        LimitExceededError: one that does too much.
    """
    if isinstance(text, bool):
        return text
    if not text.strip():
        raise blamed(text, "a condition is a boolean or an expression, not empty")
    compiled = condition_of_source(text)
    return guarded(text, lambda: truth(compiled.raw(scope)))


def check(text: str, *, is_condition: bool = False) -> str | None:
    """What is wrong with the syntax of a text, or None.

    Args:
        is_condition: the text may stand without braces, and not be empty (PB-442).
    """
    try:
        if is_condition:
            if not text.strip():
                return "the condition is empty"
            condition_of_source(text)
        elif is_template(text):
            text_of_source(text)
    except TemplateError as error:
        return error.detail
    except LimitExceededError as error:
        return str(error)
    return None
