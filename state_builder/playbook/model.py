"""The playbook as the drive sees it: frozen, checked, every older spelling resolved.

The parser turns any spelling of ``spec/playbook.md`` §1–4, §8–10 into these records;
nobody downstream knows that there ever was a choice. Texts that are templates stay
texts here: the template engine caches what it compiles by text.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

from msgspec import Raw, Struct, field

from state_builder.records import JSON, NOTHING

Condition: TypeAlias = "str | bool"
"""A boolean, or a text evaluated by PB-440."""


class Finding(Struct, frozen=True, kw_only=True):
    """One thing a validator has to say (PB-700).

    Attributes:
        id: the rule, ``PB-722``.
        path: where in the document, ``workflow[2].next.arcs[0].step``.
        line: 1-based line in the source; 0 when unknown.
        message: contractual text of PB-702 ff.
    """

    id: str
    path: str
    line: int
    message: str


class Arc(Struct, frozen=True, kw_only=True):
    """One way out of a step (PB-301); ``set`` as :attr:`Step.set`."""

    target: str
    when: Condition | None = None
    args: dict[str, JSON] = field(default_factory=dict)
    set: dict[str, JSON] = field(default_factory=dict)


class Router(Struct, frozen=True, kw_only=True):
    """A step's ``next`` in its one canonical form (PB-300, PB-302)."""

    arcs: tuple[Arc, ...] = ()
    inclusive: bool = False
    quiet: bool = False


class AdmitRule(Struct, frozen=True, kw_only=True):
    """One rule of ``spec.policy.admit`` (PB-047); ``when`` None is an else."""

    when: Condition | None
    allow: bool


class Cursor(Struct, frozen=True, kw_only=True):
    """Where a cursor loop claims its rows, and in what frames (PB-250, PB-251).

    Attributes:
        kind: tool kind of the claim command.
        claim: its tool configuration (``kind``, ``query``, ``auth`` …).
        max_rows, row_concurrency: numbers or templates.
        whole_frame: the body runs once per frame with the list of rows.
    """

    claim: Raw
    kind: str = "postgres"
    max_rows: JSON = 1
    row_concurrency: JSON = 1
    whole_frame: bool = False


class Loop(Struct, frozen=True, kw_only=True):
    """A step's ``loop`` (PB-220)."""

    iterator: str
    mode: Literal["sequential", "parallel", "cursor"] = "sequential"
    collection: JSON = None
    max_in_flight: JSON = None
    cursor: Cursor | None = None


class Call(Struct, frozen=True, kw_only=True):
    """A single ``playbook`` tool: the owner starts the child itself (PB-600 ff.).

    Attributes:
        wait: ``strict`` (default, ``return_result``), ``tolerant`` (``return_step``)
            or ``none`` (``async: true``, ``wait: false``).
        result_step: the child's step whose result is the value; empty for the child's
            own result.
        timeout_s: from the start of the child.
        policy, set, retry: of the tool, as a command would carry them; what they make
            of the answer is decided by the owner (PB-608).
        is_judged: the answer is looked at before it counts.
    """

    path: str = ""
    catalog_id: str = ""
    version: JSON = None
    payload: JSON = None
    input: dict[str, JSON] = field(default_factory=dict)
    wait: Literal["strict", "tolerant", "none"] = "strict"
    result_step: str = ""
    timeout_s: float = 300.0
    cancel_on_timeout: bool = False
    policy: tuple[JSON, ...] = ()
    set: dict[str, JSON] = field(default_factory=dict)
    retry: Raw = NOTHING
    is_judged: bool = False


class Step(Struct, frozen=True, kw_only=True):
    """One step.

    Attributes:
        index: place in the document, from 0.
        kind: the tool's kind, ``task_sequence`` for a pipeline; never ``workbook``.
        tool: what a command carries, encoded once:
            see the head of this module.
        labels: task labels of a pipeline, in order; empty for a single tool.
        input: the step's own ``input`` (PB-048), encoded once; NOTHING when empty.
            Of a pipeline it includes what a workbook reference gives.
        set: path of an execution variable (``x``, ``a.b``) → value or template.
        timeout_s: of the step, else of the playbook's defaults; 0 when neither.
        retry: ``step.spec.retry`` in the form above, else the defaults when
            ``on_error`` is ``retry``; NOTHING otherwise.
        on_error: PB-567.
        best_effort: ``policy.failure.mode: best_effort`` (PB-232, PB-567).
        output: ``output`` of the step, over that of a single tool; NOTHING when
            absent (PB-342).
        pool: ``spec.pool``; empty when the execution's pool serves.
        call: set when the only tool is ``playbook``.
        texts: every template a command of this step carries (tool, rules, input,
            cursor claim), for the minimal context (PB-346). Conditions without braces
            stand here with them.
        full_context: python code of the tool may look at any name (``context``,
            ``variables``, code that is not at hand), so the command needs them all.
        bare_noop: a single ``noop`` with nothing to return (PB-645).
    """

    name: str
    index: int
    kind: str
    tool: Raw
    labels: tuple[str, ...] = ()
    input: Raw = NOTHING
    when: Condition | None = None
    admit: tuple[AdmitRule, ...] = ()
    loop: Loop | None = None
    set: dict[str, JSON] = field(default_factory=dict)
    next: Router = Router()
    timeout_s: float = 0.0
    retry: Raw = NOTHING
    on_error: Literal["fail", "continue", "retry"] = "fail"
    best_effort: bool = False
    output: Raw = NOTHING
    pool: str = ""
    call: Call | None = None
    texts: tuple[str, ...] = ()
    full_context: bool = False
    bare_noop: bool = False


class Playbook(Struct, frozen=True, kw_only=True):
    """A document that may be executed: it has no errors.

    Attributes:
        workload: defaults, still templates (PB-021), ``vars`` merged in (PB-005).
        spec: root ``spec``, free data (PB-462).
        steps: by name, in document order; the implicit end of PB-043 is an arc.
        pool: ``metadata.execution_pool``/``execution_pool``, empty when not given.
        steps_max, duration_max_s: ``executor.spec.policy.limits``; 0 = platform limit.
    """

    name: str
    path: str
    kind: str = "playbook"
    workload: dict[str, JSON] = field(default_factory=dict)
    spec: JSON = None
    steps: dict[str, Step] = field(default_factory=dict)
    entry: str = "start"
    final_step: str = ""
    no_next_is_error: bool = False
    reference_first: bool = False
    steps_max: int = 0
    duration_max_s: float = 0.0
    pool: str = ""
    metadata: dict[str, JSON] = field(default_factory=dict)
