"""What to do after a run: policy rules, older ``eval``, the ``retry`` shorthand (§5).

Every spelling becomes one list of rules, in the form that
:mod:`state_builder.playbook.model` describes. Numbers written as texts become numbers;
templates stay, the worker renders and checks them (PB-751).
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from state_builder.playbook.findings import (
    Block,
    Report,
    as_number,
    as_seconds,
    is_template,
    shortened,
)
from state_builder.playbook.source import Path
from state_builder.playbook.texts import condition_of, refuse_durable_secrets
from state_builder.playbook.variables import SET_KEYS, rule_variables
from state_builder.records import JSON

ACTIONS: Final = ("continue", "retry", "jump", "break", "fail")

ERROR_KINDS: Final = {
    "connection_error": ("connection",),
    "http_error": (
        "rate_limit",
        "auth",
        "not_found",
        "timeout",
        "client_error",
        "server_error",
    ),
}
"""Older names in ``retry_on`` and the error kinds they stand for (TL-ERR-02)."""

RETRY_DEFAULT: Final[dict[str, JSON]] = {
    "max_attempts": 3,
    "delay_s": 1.0,
    "backoff": "fixed",
    "max_delay_s": 60.0,
}

_PREVIOUS = frozenset({"previous", "prev", "_previous", "@previous"})
_BACKOFF = {
    "none": "fixed",
    "fixed": "fixed",
    "constant": "fixed",
    "linear": "linear",
    "exponential": "exponential",
}
_BODY_KEYS = frozenset(
    {"do", "attempts", "backoff", "delay", "max_delay", "to", "message", *SET_KEYS}
)
_RETRY_KEYS = frozenset(
    {
        "max_attempts",
        "max_retries",
        "retry_on",
        "retry_on_status",
        "backoff",
        "backoff_seconds",
        "delay",
        "initial_delay",
        "initial_delay_ms",
        "backoff_multiplier",
        "max_delay",
        "max_delay_ms",
    }
)


class Standing(Struct, frozen=True):
    """A tool's place in its pipeline; ``labels`` is None for a single tool."""

    labels: tuple[str, ...] | None = None
    position: int = 0


def rules_of(block: Block, standing: Standing) -> list[JSON]:
    """The rules of a tool's ``policy`` (a block of it), canonical (PB-110 ff.)."""
    block.warn_ignored({"rules"})
    rules = block.get("rules")
    if rules is None:
        return []
    if not isinstance(rules, list):
        block.report.error("PB-714", block.at("rules"), "policy.rules must be a list")
        return []
    reader = _Rules(block.report, "PB-714", "policy.rules", standing)
    return reader.read(rules, block.at("rules"))


def eval_rules(
    report: Report, entries: JSON, path: Path, standing: Standing
) -> list[JSON]:
    """Older ``eval`` read as rules (PB-157)."""
    if not isinstance(entries, list):
        report.error("PB-715", path, "eval must be a list")
        return []
    return _Rules(report, "PB-715", "eval", standing).read(entries, path)


class _Rules:
    """Reads one list of rules; what it cannot use it reports and leaves out."""

    def __init__(
        self, report: Report, rule_id: str, name: str, standing: Standing
    ) -> None:
        self._report = report
        self._id = rule_id
        self._name = name
        self._standing = standing

    def read(self, entries: list[JSON], path: Path) -> list[JSON]:
        found: list[JSON] = []
        after_else = False
        for index, entry in enumerate(entries):
            at = (*path, index)
            if after_else:
                text = f"{self._name}[{index}] comes after an else and never applies"
                self._report.warning(at, text)
            if not isinstance(entry, dict):
                self._refuse(at, index, "must be a map")
                continue
            rule = self._rule(Block(self._report, at, entry), index)
            after_else = after_else or "when" not in rule
            found.append(rule)
        return found

    def _refuse(self, path: Path, index: int, problem: str) -> None:
        self._report.error(self._id, path, f"{self._name}[{index}] {problem}")

    def _rule(self, block: Block, index: int) -> dict[str, JSON]:
        keys = ("when", "expr") if self._id == "PB-715" else ("when",)
        guards = [key for key in keys if key in block.value]
        rule: dict[str, JSON] = {}
        if guards and "else" in block.value:
            self._refuse(block.path, index, "has both when and else; write two rules")
        elif guards:
            rule["when"] = condition_of(
                self._report,
                block.value[guards[0]],
                block.at(guards[0]),
                on_worker=True,
            )
        elif "else" not in block.value:
            self._refuse(block.path, index, "must have 'when' or 'else'")
        rule.update(self._body(self._body_block(block, index), index))
        return rule

    def _body_block(self, block: Block, index: int) -> Block:
        """Where ``do`` stands: in ``then``, in ``else``, or in the rule itself."""
        holder = block
        if isinstance(block.get("else"), dict):
            holder = block.block("else")
        elif block.get("else") not in (None, True):
            self._refuse(block.at("else"), index, "'else' must be a map")
        if "then" not in holder.value:
            return holder
        if not isinstance(holder.get("then"), dict):
            self._refuse(holder.at("then"), index, "'then' must be a map")
        elif "do" in holder.value:
            self._refuse(holder.at("do"), index, "has 'do' beside 'then'")
        return Block(
            self._report,
            holder.at("then"),
            then if isinstance(then := holder.get("then"), dict) else {},
        )

    def _body(self, block: Block, index: int) -> dict[str, JSON]:
        block.warn_ignored(
            _BODY_KEYS | {"when", "else", "then", "expr", "set_vars", "target"}
        )
        action = block.get("do")
        if action is None:
            action = "continue"
        if action not in ACTIONS and not is_template(action):
            shown = action if isinstance(action, str) else shortened(action)
            expected = ", ".join(ACTIONS)
            problem = f"has invalid action '{shown}' (expected {expected})"
            self._refuse(block.at("do"), index, problem)
        body: dict[str, JSON] = {"do": action}
        values = rule_variables(block, "set_vars", *SET_KEYS)
        if values:
            refuse_durable_secrets(self._report, values, block.at("set"))
            body["set"] = dict(values)
        if action == "retry" or is_template(action):
            body.update(self._waits(block, index))
        if action == "jump" or is_template(action):
            target = self._target(block, index, required=action == "jump")
            if target:
                body["to"] = target
        if block.get("message") is not None:
            body["message"] = block.get("message")
        return body

    def _waits(self, block: Block, index: int) -> dict[str, JSON]:
        """Numbers of a ``retry``, with the defaults of PB-117 and PB-151."""
        backoff = block.get("backoff")
        if isinstance(backoff, int | float) and not isinstance(backoff, bool):
            # Older texts give the seconds here.
            delay: JSON = float(backoff)
            backoff = "fixed"
        else:
            delay = 1.0
        word = "fixed" if backoff is None else backoff
        if not is_template(word):
            known = _BACKOFF.get(word) if isinstance(word, str) else None
            if known is None:
                problem = f"has invalid backoff {shortened(word)}"
                self._refuse(block.at("backoff"), index, problem)
            word = known or "fixed"
        return {
            "attempts": self._count(block, index),
            "backoff": word,
            "delay": self._seconds(block, "delay", delay, index),
            "max_delay": self._seconds(block, "max_delay", 60.0, index),
        }

    def _count(self, block: Block, index: int) -> JSON:
        value = block.get("attempts")
        if value is None:
            return 3
        number = as_number(value)
        if number is not None and number >= 1 and number == int(number):
            return int(number)
        if not is_template(value):
            problem = f"has invalid attempts {shortened(value)}"
            self._refuse(block.at("attempts"), index, problem)
        return value

    def _seconds(self, block: Block, key: str, default: JSON, index: int) -> JSON:
        value = block.get(key)
        if value is None:
            return default
        found = as_seconds(value)
        if found is not None and found >= 0:
            return found
        if not is_template(value):
            self._refuse(block.at(key), index, f"has invalid {key} {shortened(value)}")
        return value

    def _target(self, block: Block, index: int, *, required: bool) -> JSON:
        """The label to jump to; ``previous`` becomes the label it means (PB-153)."""
        key = "to" if block.get("to") is not None else "target"
        target, labels = block.get(key), self._standing.labels
        if labels is None:
            if required:
                self._refuse(block.path, index, "jump needs a pipeline")
            return None
        if is_template(target) or (target is None and not required):
            return target
        if target is None:
            self._refuse(block.path, index, "jump needs 'to'")
            return None
        if target in labels:
            return target
        if target in _PREVIOUS and self._standing.position > 0:
            return labels[self._standing.position - 1]
        shown = target if isinstance(target, str) else shortened(target)
        self._refuse(block.at(key), index, f"jump target '{shown}' not found")
        return None


def retry_of(block: Block) -> dict[str, JSON]:
    """The ``retry`` shorthand in its one form (PB-156).

    ``{"max_attempts": n, "retry_on"?: [kind…], "retry_on_status"?: [status…],
    "delay_s", "backoff": "fixed|linear|exponential", "max_delay_s", "multiplier"?}``
    """
    block.warn_ignored(_RETRY_KEYS)
    result: dict[str, JSON] = {"max_attempts": _attempts(block)}
    kinds = _listed(block, "retry_on")
    if kinds is not None:
        result["retry_on"] = _kinds(block, kinds)
    statuses = _listed(block, "retry_on_status")
    if statuses is not None:
        result["retry_on_status"] = _statuses(block, statuses)
    result.update(_retry_waits(block))
    return result


def _attempts(block: Block) -> int:
    for key, extra in (("max_attempts", 0), ("max_retries", 1)):
        if block.get(key) is not None:
            number = _not_negative(block, key, 3)
            if number == int(number) and number + extra >= 1:
                return int(number) + extra
            block.report.wrong(block.at(key), block.get(key), "a whole number from 1")
    return 3


def _listed(block: Block, key: str) -> list[JSON] | None:
    value = block.get(key)
    if value is None:
        return None
    return value if isinstance(value, list) else [value]


def _kinds(block: Block, kinds: list[JSON]) -> list[JSON]:
    found: dict[str, None] = {}
    for kind in kinds:
        if isinstance(kind, str) and not is_template(kind):
            found.update(dict.fromkeys(ERROR_KINDS.get(kind, (kind,))))
        else:
            block.report.wrong(block.at("retry_on"), kind, "a list of error kinds")
    return list(found)


def _statuses(block: Block, statuses: list[JSON]) -> list[JSON]:
    found: list[JSON] = []
    for status in statuses:
        number = as_number(status)
        if number is not None and number == int(number):
            found.append(int(number))
        else:
            at = block.at("retry_on_status")
            block.report.wrong(at, status, "a list of http statuses")
    return found


def _retry_waits(block: Block) -> dict[str, JSON]:
    """Three families: seconds, ``backoff`` word with ``delay``, milliseconds."""
    family_ms = ("initial_delay_ms", "backoff_multiplier", "max_delay_ms")
    in_ms = any(block.get(key) is not None for key in family_ms)
    delay_s, max_delay_s = (0.5, 10.0) if in_ms else (1.0, 60.0)
    result: dict[str, JSON] = {"backoff": "exponential" if in_ms else "fixed"}
    backoff = block.get("backoff")
    if isinstance(backoff, str) and backoff in _BACKOFF:
        result["backoff"] = _BACKOFF[backoff]
    elif backoff is not None:
        delay_s = _not_negative(block, "backoff", delay_s)
        result["backoff"] = "fixed"
    if block.get("backoff_seconds") is not None:
        delay_s = _not_negative(block, "backoff_seconds", delay_s)
        result["backoff"] = "fixed"
    for key in ("initial_delay", "delay"):
        delay_s = _not_negative(block, key, delay_s)
    delay_s = _not_negative(block, "initial_delay_ms", delay_s * 1000) / 1000
    max_delay_s = _not_negative(block, "max_delay", max_delay_s)
    max_delay_s = _not_negative(block, "max_delay_ms", max_delay_s * 1000) / 1000
    result["delay_s"], result["max_delay_s"] = delay_s, max_delay_s
    if block.get("backoff_multiplier") is not None:
        result["multiplier"] = _not_negative(block, "backoff_multiplier", 2.0)
    return result


def _not_negative(block: Block, key: str, default: float) -> float:
    value = block.get(key)
    if value is None:
        return default
    found = as_number(value) if key.endswith("_ms") else as_seconds(value)
    if found is not None and found >= 0:
        return float(found)
    # Never rendered (PB-070), so a template is as wrong here as any other text.
    block.report.wrong(block.at(key), value, "a number")
    return default
