"""A command's tool configuration, taken apart once and kept by its text.

Commands of one step carry the same bytes, so what can be known without names is found
once: which fields hold templates, the rules, the waits. A plan is never written to.
"""

from __future__ import annotations

from typing import Final

from msgspec import Raw, Struct, ValidationError, convert, field
from msgspec.json import decode as decode_json

from state_builder.policy import Rule
from state_builder.records import JSON
from state_builder.retry import RetryRule
from state_builder.template import is_template
from tools.auth import names_credentials
from tools.errors import configuration

SEQUENCE: Final = "task_sequence"

SEQUENCES_MAX: Final = 3
"""Pipelines inside each other (TL-TS-32)."""

PLANS_MAX: Final = 1_000

_OWNED: Final = frozenset(
    (
        *("kind", "label", "input", "set", "policy", "retry", "timeout"),
        *("timeout_seconds", "output", "output_select", "sink", "tasks"),
    )
)
"""Keys the runner uses itself; everything else belongs to the kind (PB-065)."""

_DATA_FIELDS: Final = frozenset(
    {"json", "payload", "data", "params", "form", "headers", "env"}
)
"""Fields that want a map or a list; as one text they are data positions (PB-413)."""

_DATA_THROUGHOUT: Final = frozenset({("noop", "result"), ("playbook", "payload")})


class Text(Struct, frozen=True):
    """A field that holds templates; ``data`` marks a data position."""

    key: str
    value: JSON
    data: bool


class Plan(Struct, kw_only=True):
    """One tool, ready to run.

    Attributes:
        label: the task's name in its pipeline; empty for a single tool.
        fields: the kind's own fields without templates.
        texts: the fields with templates, rendered for every run.
        input: the tool's own ``input``.
        set: ``ctx.x``, ``iter.x`` or bare ``x`` → value or template.
        tasks: members of a ``task_sequence``, in order.
        places: label → place in ``tasks``.
        credentials: it names some, or may when it is rendered.
        validated: the kind's canonical configuration, kept when nothing is rendered
            and nothing is secret.
    """

    kind: str
    label: str = ""
    fields: dict[str, JSON] = field(default_factory=dict)
    texts: tuple[Text, ...] = ()
    input: dict[str, JSON] = field(default_factory=dict)
    set: dict[str, JSON] = field(default_factory=dict)
    policy: tuple[Rule, ...] = ()
    retry: RetryRule | None = None
    timeout: JSON = None
    tasks: tuple[Plan, ...] = ()
    places: dict[str, int] = field(default_factory=dict)
    credentials: bool = False
    validated: dict[str, JSON] | None = None


class Plans:
    """Plans by the bytes of their configuration; the oldest go first."""

    def __init__(self) -> None:
        self._plans: dict[bytes, Plan] = {}

    def get(self, raw: Raw) -> Plan:
        """The plan of a ``tool_config``. Raises ToolCallError of ``configuration``."""
        key = bytes(raw)
        plan = self._plans.get(key)
        if plan is None:
            try:
                plan = plan_of(decode_json(key))
            except ValidationError as error:
                raise configuration(f"the tool is not usable: {error}") from error
            if len(self._plans) >= PLANS_MAX:
                del self._plans[next(iter(self._plans))]
            self._plans[key] = plan
        return plan


def plan_of(config: dict[str, JSON], depth: int = 0) -> Plan:
    """Take one tool apart. Raises ToolCallError and ValidationError."""
    kind = config.get("kind")
    if not isinstance(kind, str) or not kind:
        raise configuration("the tool has no kind")
    fields: dict[str, JSON] = {}
    texts: list[Text] = []
    for key, value in config.items():
        if key in _OWNED:
            continue
        if _has_template(key, value):
            data = _is_data(kind, key, value)
            texts.append(Text(key, _code(value) if key == "code" else value, data))
        else:
            fields[key] = value
    tasks = _tasks(config, depth) if kind == SEQUENCE else ()
    retry = config.get("retry")
    return Plan(
        kind=kind,
        label=convert(config.get("label", ""), str),
        fields=fields,
        texts=tuple(texts),
        input=_map(config, "input"),
        set=_map(config, "set"),
        policy=tuple(convert(config.get("policy", []), list[Rule])),
        retry=None if retry is None else convert(retry, RetryRule),
        timeout=config.get("timeout_seconds", config.get("timeout")),
        tasks=tasks,
        places={task.label: place for place, task in enumerate(tasks)},
        credentials=names_credentials(kind, config),
    )


def _map(config: dict[str, JSON], key: str) -> dict[str, JSON]:
    value = config.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise configuration(f"{key} must be a map")
    return value


def _tasks(config: dict[str, JSON], depth: int) -> tuple[Plan, ...]:
    """The members of a sequence, each with a label of its own (TL-TS-01)."""
    if depth >= SEQUENCES_MAX:
        raise configuration(f"task sequences nest more than {SEQUENCES_MAX} deep")
    items = config.get("tasks")
    if not isinstance(items, list) or not items:
        raise configuration("a task sequence needs a list of tasks")
    tasks: list[Plan] = []
    for index, item in enumerate(items):
        if not isinstance(item, dict) or not item.get("label"):
            raise configuration(f"tasks[{index}] has no label")
        if not item.get("kind"):
            raise configuration(f"tasks[{index}] '{item['label']}' has no kind")
        tasks.append(plan_of(item, depth + 1))
    if len({task.label for task in tasks}) < len(tasks):
        raise configuration("two tasks of a sequence have the same label")
    return tuple(tasks)


def _is_data(kind: str, key: str, value: JSON) -> bool:
    """A field is a data position with all its leaves, or as one text alone (PB-413)."""
    if (kind, key) in _DATA_THROUGHOUT:
        return True
    return key in _DATA_FIELDS and isinstance(value, str)


def _has_template(key: str, value: JSON) -> bool:
    if isinstance(value, str):
        return "{{" in value if key == "code" else is_template(value)
    if isinstance(value, dict):
        return any(_has_template("", member) for member in value.values())
    if isinstance(value, list):
        return any(_has_template("", member) for member in value)
    return False


def _code(value: JSON) -> JSON:
    """Code in which only expressions are templates; blocks are text (TL-PY-16)."""
    if isinstance(value, str) and "{%" in value:
        return value.replace("{%", "{{ '{%' }}")
    return value
