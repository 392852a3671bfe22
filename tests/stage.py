"""A playbook on the drive, the fold and the pipeline that ship, with scripted tools.

Texts are rendered, rules and retries run; only what a tool would do outside is said by
the case. What the case says nothing about gives null, a ``noop`` runs as itself.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

from msgspec.json import decode as decode_json
from world import World

from noetl_worker.rehearsal.answers import Answers, Call, Data, Fail, read_script
from noetl_worker.rehearsal.tools import Tools
from noetl_worker.rehearsal.trace import trace_line
from noetl_worker.rehearsal.world import EXECUTION, OpenId
from state_builder.drive import DriveLimits
from state_builder.errors import InvalidError
from state_builder.records import JSON

Choose = Callable[[list[OpenId]], OpenId]

TURNS_MAX = 5_000
"""Completions after which a run is taken to be endless."""


def document(workflow: str, path: str, case: dict[str, Any]) -> str:
    """A playbook around a workflow, which is YAML text."""
    head = {
        "apiVersion": "noetl.io/v2",
        "kind": "Playbook",
        "metadata": {"name": path, "path": path},
        "workload": case.get("workload") or {},
        "executor": case.get("executor") or {},
        **case.get("root", {}),
    }
    indented = "\n".join("  " + line for line in workflow.splitlines())
    body = "\n".join(f"{key}: {json.dumps(value)}" for key, value in head.items())
    return f"{body}\nworkflow:\n{indented}\n"


class _Scripts(Answers):
    """Answers by step name, whatever the playbook; null where nothing is said."""

    def of(self, call: Call, config: dict[str, JSON]) -> Data | Fail | None:
        found = super().of(call._replace(path=""), config)
        silent = self.scripts["#silent"]
        return Data(None) if found is None and call.step in silent else found


def _refuse(place: object, text: str) -> InvalidError:
    return InvalidError(f"{place}: {text}")


def _spelled(answer: Any) -> Any:
    """A failure needs no message here."""
    if isinstance(answer, dict):
        found = {key: _spelled(value) for key, value in answer.items()}
        return {"message": "boom", **found} if "fail" in found else found
    return [_spelled(one) for one in answer] if isinstance(answer, list) else answer


class Stage:
    """One case, ready to run.

    Args:
        case: ``workflow`` (YAML text), ``workload``, ``request``, ``executor``, further
            root keys under ``root``, ``children`` by path, ``answers`` by step,
            ``limits`` by name, ``hold`` for steps whose commands never end.
    """

    def __init__(self, case: dict[str, Any]) -> None:
        self.text = document(case["workflow"], "main", case)
        self.world = World(
            self.text,
            children={
                path: document(
                    text,
                    path,
                    {
                        "executor": case.get("child_executor"),
                        "root": case.get("child_root", {}),
                    },
                )
                for path, text in case.get("children", {}).items()
            },
            workload=case.get("request", {}),
            limits=DriveLimits(**case.get("limits", {})),
        )
        self._held = set(case.get("hold", []))
        scripts = {
            step: read_script(_spelled(answer), (step,), _refuse)
            for step, answer in case.get("answers", {}).items()
        }
        kinds: dict[str, set[str]] = {}
        for plan in self.world.plans.values():
            for step in plan.playbook.steps.values():
                kinds.setdefault(step.name, set()).add(step.kind)
        silent = {
            name: Data(None)
            for name, found in kinds.items()
            if not found & {"noop", "task_sequence"}
        }
        self._scripts = _Scripts(scripts={"": scripts, "#silent": silent})
        self._tools = Tools(self.world, self._scripts)

    def finish(self, command: OpenId, *, times: int = 1) -> None:
        """A worker runs the command and reports, perhaps more than once."""
        outcome = asyncio.run(self._tools.run(command))
        self.world.report(*command, outcome, times=times)

    def run(
        self,
        choose: Choose = lambda ready: ready[0],
        between: Callable[[World], None] = lambda world: None,
        times: int = 1,
    ) -> None:
        """To the end, time passing where nothing else happens.

        Args:
            choose: which open command ends next.
            between: done before every look of the owner.
        """
        self.world.start()
        for _ in range(TURNS_MAX):
            between(self.world)
            self.world.settle()
            if self.world.terminal is not None:
                return
            ready, due = self._ready(), self.world.next_timer()
            if ready:
                self.finish(choose(ready), times=times)
            elif due is not None:
                self.world.pass_time(max(0.0, due - self.world.now))
            else:
                raise AssertionError(f"it hangs: {self.trace()}")
        raise AssertionError("it does not end")

    def _ready(self) -> list[OpenId]:
        """Commands that may end; those of held steps never do."""
        issued = self.world.issued
        return [
            one for one in self.world.ready() if issued[one[1]].step not in self._held
        ]

    def trace(self, execution_id: str = EXECUTION) -> list[str]:
        """The drive's events and the completions, short (PB Appendix C)."""
        lines = (trace_line(event) for _, event in self.world.of(execution_id))
        return [line for line in lines if line]

    @property
    def result(self) -> Any:
        """The execution's result."""
        terminal = self.world.terminal
        assert terminal is not None and terminal.result, terminal
        return decode_json(terminal.result)["context"]["data"]

    @property
    def variables(self) -> dict[str, Any]:
        """Execution variables at the end."""
        return self.world.state().ctx

    def asked(self) -> list[tuple[str, dict[str, JSON]]]:
        """Every run of a tool: label or step, and the configuration it got."""
        asked = self._scripts.asked
        return [(call.label or call.step, config) for call, config in asked]

    def entered(self) -> list[str]:
        """Steps in the order they were entered."""
        return [one[6:] for one in self.trace() if one.startswith("enter ")]
