"""State and event → state (RT-EVT §3.2, "effect on state").

One small function per event type that matters; any other event only joins the chain.
Folding an event twice, a fact about a command that is not open, or anything after the
terminal changes nothing but a counter (RT-EVT-3, RT-EVT-4).
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Final

from msgspec import Raw, Struct
from msgspec.json import Decoder
from msgspec.structs import replace

from state_builder.chain import join
from state_builder.policy import assign
from state_builder.records import (
    GENESIS,
    NOTHING,
    TERMINAL_STATUS,
    Event,
    Genesis,
)
from state_builder.state.loops import aggregate, count, issue_iteration
from state_builder.state.model import (
    Asked,
    LoopRun,
    OpenCommand,
    Outcome,
    Pass,
    Repeat,
    Request,
    State,
    StepState,
    Token,
)
from state_builder.state.outcomes import failure_of, outcome_of
from state_builder.state.payloads import Entered, Exited, Updated
from state_builder.values import Part

Handler = Callable[[State, Event, int], bool]
"""Changes the state; False when the event meant nothing to it."""

_genesis = Decoder(Genesis)
_entered = Decoder(Entered)
_exited = Decoder(Exited)
_updated = Decoder(Updated)


class _CallTool(Struct):
    path: str = ""


class _CallConfig(Struct):
    tool_config: _CallTool


_call_config = Decoder(_CallConfig)

TIMEOUT_TIMER: Final = "timeout:"
"""Before a command id: the time a waited child has."""

REPEAT_TIMER: Final = "repeat:"
"""Before a command id: when that attempt begins."""

_FAILED_WORDS: Final = frozenset({"error", "failed", "timeout"})


def fold(state: State, event: Event, event_id: int) -> str:
    """Fold the next event of the execution; empty, or why it was ignored."""
    if event_id <= state.head.event_id:
        return "repeated"
    verdict = join(state.head, event_id, event.type)
    if verdict:
        state.ignored += 1
        return verdict
    if state.damaged and not state.terminal:
        state.ignored += 1
        return "damaged"
    state.last_type = event.type
    if event.step:
        state.last_step = event.step
    try:
        counted = apply(state, event, event_id)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is in the log for good
        # Every reader meets it again, so it must end this execution and nothing else.
        state.damaged = (
            f"event {event_id} ({event.type}) cannot be read: "
            f"{type(error).__name__}: {error}"
        )
        return "damaged"
    if counted:
        return ""
    state.ignored += 1
    return "not_open"


def apply(state: State, event: Event, event_id: int) -> bool:
    """The effect of an event, apart from the chain; False when it has none."""
    handler = _HANDLERS.get(event.type)
    return handler(state, event, event_id) if handler else True


_GENESIS_PAYLOADS: Final = (
    *("workload", "trace", "payload", "env", "workload_ref", "payload_ref"),
)


def own_payloads(genesis: Genesis) -> Genesis:
    """Copies of the raw payloads: views would keep a whole message in memory."""
    for name in _GENESIS_PAYLOADS:
        payload = bytes(getattr(genesis, name))
        # An empty payload is only left out on the wire when it is the default itself.
        setattr(genesis, name, Raw(payload) if payload else NOTHING)
    return genesis


def _begin(state: State, event: Event, event_id: int) -> bool:
    state.genesis = own_payloads(_genesis.decode(event.context))
    state.started_at = event.at
    return True


def _end(state: State, event: Event, event_id: int) -> bool:
    state.ended_at = event.at
    state.error = event.error
    state.live.clear()
    state.commands.clear()
    state.answered.clear()
    state.asked.clear()
    state.wanting.clear()
    state.repeats.clear()
    state.ripe.clear()
    state.timers.clear()
    state.due.clear()
    state.tasks_open = 0
    return True


def _enter(state: State, event: Event, event_id: int) -> bool:
    step = state.step(event.step)
    entered = _entered.decode(event.context) if event.context else Entered()
    run = Pass(visit=event.visit, entered=event_id)
    for token in step.tokens:
        run.origin, run.event_name = token.origin, token.event_name
        run.args = {**run.args, **token.args}
        run.overlay = {**run.overlay, **token.set}
        run.over = (*run.over, *(name for name in token.over if name not in run.over))
    if entered.iterator_var:
        run.loop = LoopRun(
            iterator=entered.iterator_var,
            items=entered.items or [],
            items_ref=bytes(entered.items_ref),
            total=entered.iterations_expected or 0,
            window=entered.window,
            results=[None] * (entered.iterations_expected or 0),
            cursor=entered.cursor,
        )
    step.tokens = []
    step.active = run
    step.visit = event.visit
    step.status = "entered"
    step.entered_at = event.at
    state.live[event.step] = None
    state.entries += 1
    state.final_entered = state.final_entered or entered.final
    return True


def _exit(state: State, event: Event, event_id: int) -> bool:
    step = state.step(event.step)
    run = step.active
    if run is None or run.visit != event.visit:
        return False
    exited = _exited.decode(event.context) if event.context else Exited()
    failed = event.status == "FAILED"
    step.result = _result_of(run, exited, failed)
    step.active = None
    step.status = "failed" if failed else "completed"
    step.exited = event_id
    step.exited_at = event.at
    step.bare = exited.bare
    if failed and not exited.handled:
        state.failing.append(event.step)
    _settle(state, event.step, step)
    _deliver(state, event.step, exited, event_id)
    return True


def _result_of(run: Pass, exited: Exited, failed: bool) -> Outcome:
    failure = exited.failure
    if run.loop is not None and failure is None and not failed:
        return _loop_result(run.loop, exited.result)
    outcome = run.outcome or Outcome(ok=not failed)
    if failure is not None and outcome.error is None:
        outcome.error = failure
    outcome.updates = {}
    if run.loop is not None:
        failed_loop = _loop_result(run.loop, exited.result)
        failed_loop.error, failed_loop.ok = outcome.error, False
        return failed_loop
    outcome.ok = not failed and outcome.ok
    return outcome


def _loop_result(loop: LoopRun, stored: Part | None) -> Outcome:
    if stored is None:
        return aggregate(loop)
    return Outcome(form=stored.form, reference=bytes(stored.reference))


def _skip(state: State, event: Event, event_id: int) -> bool:
    step = state.step(event.step)
    exited = _exited.decode(event.context) if event.context else Exited()
    step.tokens = []
    step.status = "skipped"
    step.exited_at = event.at
    _settle(state, event.step, step)
    _deliver(state, event.step, exited, event_id)
    return True


def _settle(state: State, name: str, step: StepState) -> None:
    """A step that is neither active nor holds a token is not live any more."""
    if step.active is None and not step.tokens:
        state.live.pop(name, None)


def _deliver(state: State, origin: str, exited: Exited, event_id: int) -> None:
    for arc in exited.arcs:
        step = state.step(arc.step)
        token = Token(
            origin=origin,
            order=event_id,
            event_name=exited.event_name,
            args=arc.args,
            set=arc.set,
            over=exited.over,
        )
        step.tokens = [*step.tokens, token]
        state.live.setdefault(arc.step, None)


def _update(state: State, event: Event, event_id: int) -> bool:
    updated = _updated.decode(event.context)
    for key, value in updated.values.items():
        assign(state.ctx, key, value)
    run = state.step(event.step).active
    if run is not None and run.loop is not None and event.cause:
        run.loop.updates.pop(int(event.cause), None)
    return True


def _issue(state: State, event: Event, event_id: int) -> bool:
    step = state.step(event.step)
    run = step.active
    if run is None or run.visit != event.visit or event.command_id in state.commands:
        return False
    state.commands[event.command_id] = OpenCommand(
        step=event.step,
        visit=event.visit,
        event=event_id,
        iteration=event.iteration,
        attempt=event.attempt,
        kind=event.kind,
        pool=event.pool,
        issued_at=event.at,
        child=event.child,
        path=_called_path(event) if event.kind == "playbook" else "",
        judged=event.pending,
    )
    state.tasks_open += 1
    step.status = "command_issued"
    if state.repeats.pop(event.command_id, None) is not None:
        state.ripe.pop(event.command_id, None)
        return True
    run.issued += 1
    if run.loop is not None:
        issue_iteration(run.loop, event.iteration)
    return True


def _called_path(event: Event) -> str:
    return _call_config.decode(event.context).tool_config.path


def _started(state: State, event: Event, event_id: int) -> bool:
    command = state.commands.get(event.command_id)
    if command is None:
        return False
    command.starts += 1
    command.started_at = event.at
    command.worker = event.worker_id
    step = state.step(command.step)
    if step.active is not None and step.status == "command_issued":
        step.status = "command_started"
    return True


def _called(state: State, event: Event, event_id: int) -> bool:
    command = state.commands.get(event.command_id)
    if command is None:
        return False
    outcome = outcome_of(event, event_id)
    if command.parked and not command.judged:
        return _finish(state, event.command_id, command, outcome)
    command.outcome = outcome
    if command.parked:
        state.answered[event.command_id] = None
    return True


def _completed(state: State, event: Event, event_id: int) -> bool:
    command = state.commands.get(event.command_id)
    if command is None:
        return False
    if event.status in _FAILED_WORDS:
        return _failed(state, event, event_id)
    if not event.pending:
        outcome = command.outcome or Outcome()
        outcome.event = event_id
        return _finish(state, event.command_id, command, outcome)
    if command.parked:
        return False
    command.parked = True
    command.job, command.worker = event.task, event.worker_id
    state.tasks_open -= 1
    state.step(command.step).status = "parked"
    if command.outcome is not None:
        # The call-back overtook the report that the step is parked (RT-DRV-19).
        return _finish(state, event.command_id, command, command.outcome)
    return True


def _failed(state: State, event: Event, event_id: int) -> bool:
    command = state.commands.get(event.command_id)
    if command is None:
        return False
    if event.due:
        return _repeat(state, event, command)
    outcome = command.outcome or Outcome()
    outcome.ok = False
    outcome.event = event_id
    outcome.error = outcome.error or failure_of(event)
    return _finish(state, event.command_id, command, outcome)


def _repeat(state: State, event: Event, command: OpenCommand) -> bool:
    """The attempt failed and the next one is due later; the iteration stays open."""
    _close(state, event.command_id, command)
    attempt = command.attempt + 1
    name = f"{event.command_id.rpartition('.')[0]}.{attempt}"
    state.repeats[name] = Repeat(
        step=command.step,
        visit=command.visit,
        attempt=attempt,
        iteration=command.iteration,
    )
    _arm(state, f"{REPEAT_TIMER}{name}", event.due)
    return True


def _close(state: State, command_id: str, command: OpenCommand) -> None:
    """The command leaves the open ones, and what waited for it with it."""
    del state.commands[command_id]
    if not command.parked:
        state.tasks_open -= 1
    state.answered.pop(command_id, None)
    for key in command.asked:
        del state.asked[key]
        state.wanting.pop(key, None)
    _disarm(state, f"{TIMEOUT_TIMER}{command_id}")


def _finish(
    state: State, command_id: str, command: OpenCommand, outcome: Outcome
) -> bool:
    """First answer wins: the command leaves the open ones (RT-EVT-4)."""
    _close(state, command_id, command)
    run = state.step(command.step).active
    if run is None or run.visit != command.visit:
        return False
    if run.loop is None:
        run.outcome = outcome
        return True
    count(run.loop, command.iteration, outcome)
    return True


def asked_key(command_id: str, task: str) -> str:
    """The key of a child that a pipeline asked for."""
    return f"{command_id}#{task}"


def _ask(state: State, event: Event, event_id: int) -> bool:
    command = state.commands.get(event.command_id)
    key = asked_key(event.command_id, event.task)
    if command is None or key in state.asked:
        return False
    state.asked[key] = Asked(
        command_id=event.command_id,
        step=command.step,
        task=event.task,
        request=bytes(event.context),
    )
    state.wanting[key] = None
    command.asked.append(key)
    return True


def _start_asked(state: State, event: Event, event_id: int) -> bool:
    key = asked_key(event.command_id, event.task)
    found = state.asked.get(key)
    if found is None:
        return False
    state.asked[key] = replace(found, child=event.child)
    state.wanting.pop(key, None)
    return True


def _answer_asked(state: State, event: Event, event_id: int) -> bool:
    key = asked_key(event.command_id, event.task)
    found = state.asked.get(key)
    if found is None or found.answer:
        return False
    state.asked[key] = replace(found, answer=bytes(event.result))
    return True


def _set_timer(state: State, event: Event, event_id: int) -> bool:
    _arm(state, event.timer, event.due)
    return True


def _fired(state: State, event: Event, event_id: int) -> bool:
    prefix, name = event.timer[: len(REPEAT_TIMER)], event.timer[len(REPEAT_TIMER) :]
    if prefix == REPEAT_TIMER and name in state.repeats:
        state.ripe[name] = None
    return _disarm(state, event.timer)


def _arm(state: State, name: str, due: float) -> None:
    state.timers[name] = due
    heappush(state.due, (due, name))


def _disarm(state: State, name: str) -> bool:
    known = state.timers.pop(name, None) is not None
    while state.due and state.timers.get(state.due[0][1]) != state.due[0][0]:
        heappop(state.due)
    return known


def _requested(state: State, event: Event, event_id: int) -> bool:
    if state.request is not None:
        return False
    kind = "cancel" if event.type == "playbook.cancel_requested" else "finalize"
    state.request = Request(
        event=event_id, kind=kind, status=event.status, reason=event.error
    )
    return True


_HANDLERS: Final[dict[str, Handler]] = {
    GENESIS: _begin,
    "step.enter": _enter,
    "step.exit": _exit,
    "step.skipped": _skip,
    "ctx.updated": _update,
    "command.issued": _issue,
    "command.started": _started,
    "call.done": _called,
    "call.error": _called,
    "command.completed": _completed,
    "command.failed": _failed,
    "child.requested": _ask,
    "child.started": _start_asked,
    "child.done": _answer_asked,
    "timer.set": _set_timer,
    "timer.fired": _fired,
    "playbook.cancel_requested": _requested,
    "playbook.finalize_requested": _requested,
    **dict.fromkeys(TERMINAL_STATUS, _end),
}
