"""Runs one case of a playbook to its end, in this process and in no time."""

from __future__ import annotations

from anyio.lowlevel import checkpoint
from msgspec import Struct, field

from noetl_worker.rehearsal.answers import Answers
from noetl_worker.rehearsal.cases import Case
from noetl_worker.rehearsal.checks import Difference, differences
from noetl_worker.rehearsal.tools import Tools, UnansweredError
from noetl_worker.rehearsal.trace import trace_line
from noetl_worker.rehearsal.world import EXECUTION, World
from state_builder.errors import TemplateError
from state_builder.waiting import waits


class Rehearsal(Struct, kw_only=True):
    """What came of a case.

    Attributes:
        problem: why it could not be run to its end; empty when it was.
        trace: what happened, in the lines of PB Appendix C.
    """

    case: str
    problem: str = ""
    differences: list[Difference] = field(default_factory=list)
    trace: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Everything was as expected."""
        return not self.problem and not self.differences


async def rehearse(text: str, case: Case) -> Rehearsal:
    """Run a playbook under a case; never raises for what playbook or case do.

    Args:
        text: a playbook without errors.
    """
    world = World(text, children=case.children, workload=case.workload)
    answers = Answers(case.scripts)
    problem = ""
    try:
        world.start()
        problem = await _run(world, case, answers)
    except TemplateError as error:
        problem = f"the execution cannot be started: {error}"
    except UnansweredError as error:
        problem = str(error)
    lines = (trace_line(event) for _, event in world.of(EXECUTION))
    return Rehearsal(
        case=case.name,
        problem=problem,
        differences=[] if problem else differences(case.expected, world, answers),
        trace=[line for line in lines if line],
    )


async def _run(world: World, case: Case, answers: Answers) -> str:
    """To the end; or why there is none."""
    tools = Tools(world, answers)
    while True:
        world.settle()
        if world.terminal is not None:
            return ""
        ready = world.ready()
        due = world.next_timer()
        if ready:
            chosen = ready[0] if case.order == "first" else ready[-1]
            world.report(*chosen, await tools.run(chosen))
        elif due is not None:
            # Nothing runs: the next thing to happen is the timer.
            world.pass_time(max(0.0, due - world.now))
        else:
            await checkpoint()
            state = world.state()
            plan = world.plans["1"]
            reasons = "; ".join(wait.text for wait in waits(state, plan, world.now))
            return f"the execution does not end: {reasons}"
