"""What is known of one execution, as plain structs.

Results stay raw JSON: a worker needs them as bytes, and most are never looked into.
A snapshot is the encoding of these structs; nothing else is kept anywhere.
"""

from __future__ import annotations

from msgspec import Struct, field

from state_builder.chain import ChainHead
from state_builder.records import JSON, Genesis, ToolFailure
from state_builder.values import Part

STATE_VERSION = 2
"""Version of everything a snapshot holds; another one is not read (RT-IDX-4)."""


class Token(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A claim on a step to run (PB-500).

    Attributes:
        order: event id that delivered it; older tokens enter first.
        over: steps stepped over since the last command on the way here (PB-046).
    """

    origin: str
    order: int
    event_name: str = ""
    args: dict[str, JSON] = field(default_factory=dict)
    set: dict[str, JSON] = field(default_factory=dict)
    over: tuple[str, ...] = ()


class Outcome(Struct, kw_only=True, omit_defaults=True, gc=False):
    """What a command, a loop or a child ended with; ``data`` is raw JSON.

    Attributes:
        reference: stands for the data where they are stored outside the log.
    """

    ok: bool = True
    form: str = "plain"
    data: bytes = b"null"
    error: ToolFailure | None = None
    updates: dict[str, JSON] = field(default_factory=dict)
    helpers: bytes = b""
    event: int = 0
    reference: bytes = b""


class OpenCommand(Struct, kw_only=True, omit_defaults=True, gc=False):
    """A command that was issued and has no result yet.

    Attributes:
        event: id of its ``command.issued``.
        starts: ``command.started`` seen without a result (poison, design §5).
        outcome: data of a ``call.done``/``call.error`` before the command's own end.
        worker: who is at it; of a parked one, who watches its job, if anybody does.
        parked: the worker is free, an outside call-back ends it (RT-DRV-19).
        job: what a parked one waits for.
        child: execution id of the child it waits for.
        path: the playbook a call names.
        judged: the answer of a call is looked at by the owner before it counts.
        asked: keys of the children its pipeline asked for.
    """

    step: str
    visit: int
    event: int
    iteration: str = ""
    attempt: int = 1
    kind: str = ""
    pool: str = ""
    issued_at: str = ""
    starts: int = 0
    started_at: str = ""
    worker: str = ""
    outcome: Outcome | None = None
    parked: bool = False
    job: str = ""
    child: str = ""
    path: str = ""
    judged: bool = False
    asked: list[str] = field(default_factory=list)


class Asked(Struct, kw_only=True, omit_defaults=True, gc=False):
    """A child that a running pipeline asked for (PB-185).

    Attributes:
        request: raw :class:`state_builder.records.ChildRequest`.
        task: the pipeline's own name for it.
        child: its execution, once started.
        answer: the result envelope, once there is one.
    """

    command_id: str
    step: str
    task: str
    request: bytes
    child: str = ""
    answer: bytes = b""


class Repeat(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """An attempt that is due, or will be when its timer fires."""

    step: str
    visit: int
    attempt: int
    iteration: str = ""


class LoopRun(Struct, kw_only=True, omit_defaults=True, gc=False):
    """One generation of a loop (PB-233).

    Attributes:
        items: the collection, fixed at entry; empty for a cursor.
        window: most iterations at once; 0 = all.
        issued: the next index to issue.
        results: by index: raw JSON, None while unknown or failed.
        form: form of the elements.
        errors: index → first failure of it.
        updates: variable changes not yet written as ``ctx.updated``, by event id.
        size: bytes of the results so far.
        items_ref: stands for ``items`` that are stored outside the log (RT-LIM-4).
        references: by index: what stands for a result that is stored.
        last_event: newest completion counted.
        slots, frames, rows: of a cursor loop, see :mod:`state_builder.iteration`.
    """

    iterator: str = ""
    items: list[JSON] = field(default_factory=list)
    total: int = 0
    window: int = 0
    issued: int = 0
    open: int = 0
    completed: int = 0
    failed: int = 0
    results: list[bytes | None] = field(default_factory=list)
    size: int = 0
    items_ref: bytes = b""
    references: dict[int, Part] = field(default_factory=dict)
    form: str = "plain"
    errors: dict[str, ToolFailure] = field(default_factory=dict)
    updates: dict[int, dict[str, JSON]] = field(default_factory=dict)
    last_event: int = 0
    cursor: CursorRun | None = None


class Frame(Struct, kw_only=True, omit_defaults=True, gc=False):
    """One claimed batch of rows (PB-252): raw rows, next row to issue, bodies open."""

    rows: list[JSON] = field(default_factory=list)
    next_row: int = 0
    open: int = 0


class CursorRun(Struct, kw_only=True, omit_defaults=True, gc=False):
    """The frames of a cursor loop.

    Attributes:
        max_rows, row_concurrency, slots: evaluated at entry.
        claiming: claim commands without a result.
        next_frame: number of the next claim.
        retired: slots whose claim gave nothing.
        frames: frames with bodies open or rows left, by number.
        claimed, rows: frames and rows so far.
    """

    max_rows: int = 1
    row_concurrency: int = 1
    whole_frame: bool = False
    slots: int = 1
    claiming: int = 0
    next_frame: int = 0
    retired: int = 0
    frames: dict[int, Frame] = field(default_factory=dict)
    claimed: int = 0
    rows: int = 0


class Pass(Struct, kw_only=True, omit_defaults=True, gc=False):
    """A step from entry until its completion is consumed (PB-500 *active*).

    Attributes:
        entered: id of the ``step.enter``.
        issued: commands issued so far (plain steps: 0 or 1).
        over: steps stepped over on the way here, as :attr:`Token.over`.
    """

    visit: int
    entered: int
    origin: str = ""
    event_name: str = ""
    args: dict[str, JSON] = field(default_factory=dict)
    overlay: dict[str, JSON] = field(default_factory=dict)
    issued: int = 0
    outcome: Outcome | None = None
    loop: LoopRun | None = None
    over: tuple[str, ...] = ()


class StepState(Struct, kw_only=True, omit_defaults=True, gc=False):
    """All that is known of one step.

    Attributes:
        status: RT-EVT-2: pending, entered, command_issued, command_started, parked,
            completed, failed, skipped.
        result: of the last completion (PB-453); kept while the step runs again.
        exited: id of the last ``step.exit``.
        bare: the last completion was a bare noop (PB-645).
    """

    visit: int = 0
    status: str = "pending"
    tokens: list[Token] = field(default_factory=list)
    active: Pass | None = None
    result: Outcome | None = None
    exited: int = 0
    bare: bool = False
    entered_at: str = ""
    exited_at: str = ""


class Request(Struct, kw_only=True, omit_defaults=True, gc=False):
    """A cancel or finalize request that waits for its answer (RT-DRV-17)."""

    event: int
    kind: str
    status: str = ""
    reason: str = ""


class State(Struct, kw_only=True, omit_defaults=True):
    """One execution.

    Attributes:
        head: chain position, also the terminal status once there is one.
        live: steps that are active or hold a token, in the order they became so.
        failing: failed steps nobody handled, in order.
        entries: step entries so far (limit of PB-541).
        answered: calls whose answer waits for the owner's judgement, by command id.
        repeats: attempts to come, by command id; ``ripe`` those whose time has come.
        asked: children of running pipelines, by command and task; ``wanting`` those
            that are not started yet.
        timers: name → due time, Unix seconds.
        due: the same as a heap of (due time, name), the first one always valid.
        tasks_open: open commands a worker runs (parked ones not counted).
        damaged: which event could not be folded, and why; nothing is decided any more.
    """

    execution_id: str
    head: ChainHead = field(default_factory=ChainHead)
    genesis: Genesis | None = None
    started_at: str = ""
    ended_at: str = ""
    last_type: str = ""
    last_step: str = ""
    error: str = ""
    steps: dict[str, StepState] = field(default_factory=dict)
    live: dict[str, None] = field(default_factory=dict)
    commands: dict[str, OpenCommand] = field(default_factory=dict)
    ctx: dict[str, JSON] = field(default_factory=dict)
    failing: list[str] = field(default_factory=list)
    entries: int = 0
    answered: dict[str, None] = field(default_factory=dict)
    repeats: dict[str, Repeat] = field(default_factory=dict)
    ripe: dict[str, None] = field(default_factory=dict)
    asked: dict[str, Asked] = field(default_factory=dict)
    wanting: dict[str, None] = field(default_factory=dict)
    timers: dict[str, float] = field(default_factory=dict)
    due: list[tuple[float, str]] = field(default_factory=list)
    request: Request | None = None
    tasks_open: int = 0
    ignored: int = 0
    final_entered: bool = False
    damaged: str = ""

    @property
    def terminal(self) -> str:
        """Status of the terminal event, empty while the execution is open."""
        return self.head.terminal

    def step(self, name: str) -> StepState:
        """The state of a step, made on first mention."""
        found = self.steps.get(name)
        if found is None:
            found = self.steps[name] = StepState()
        return found
