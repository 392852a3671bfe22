"""``next`` in all its spellings, as one router (§10)."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct

from state_builder.playbook.findings import Block, Report, shortened
from state_builder.playbook.model import Arc, Condition, Router
from state_builder.playbook.source import Path
from state_builder.playbook.texts import condition_of, refuse_secrets
from state_builder.playbook.variables import step_variables
from state_builder.records import JSON

_ARC_KEYS = frozenset({"step", "when", "cond", "args", "input", "set", "set_ctx"})


class _Way(Struct, frozen=True):
    """One arc as spelled; ``guard`` is what a list item says for all its targets."""

    block: Block
    guard: Condition | None = None


def router_of(step: Block, names: set[str], *, final: bool = False) -> Router:
    """Where a step leads.

    Args:
        names: all steps of the playbook.
        final: the playbook's final step, which never gets the implicit end of PB-043.
    """
    reader = _Routes(step.report, names)
    router = reader.read(step)
    own_end = "end" in names and step.get("step") != "end" and not final
    if own_end and not router.arcs and not reader.failed:
        return Router(arcs=(Arc(target="end"),))
    return router


class _Routes:
    def __init__(self, report: Report, names: set[str]) -> None:
        self._report = report
        self._names = names
        self._place = "next.arcs"
        self.failed = False

    def read(self, step: Block) -> Router:
        value, path = step.get("next"), step.at("next")
        if isinstance(value, dict) and not {"step", "then"} & value.keys():
            return self._router(step.block("next"))
        self._place = "next"
        items = value if isinstance(value, list) else [value]
        ways: list[_Way] = []
        if value is not None:
            for index, item in enumerate(items):
                at = (*path, index) if isinstance(value, list) else path
                ways.extend(self._listed(item, at))
        names_only = bool(ways) and all(isinstance(item, str) for item in items)
        mode = self._inclusive(step.block("spec"), "next_mode")
        inclusive = names_only if mode is None else mode
        return Router(arcs=self._arcs(ways, inclusive=inclusive), inclusive=inclusive)

    def _router(self, block: Block) -> Router:
        block.warn_ignored({"spec", "arcs"})
        if "arcs" not in block.value and "spec" not in block.value and block.value:
            self._wrong(block.path, block.value)
            return Router()
        spec = block.block("spec")
        spec.warn_ignored({"mode", "on_no_match"})
        quiet = spec.get("on_no_match")
        if quiet not in (None, "complete", "quiet"):
            text = "next.spec.on_no_match must be complete or quiet"
            self._report.error("PB-723", spec.at("on_no_match"), text)
        ways: list[_Way] = []
        for index, item in enumerate(block.items("arcs")):
            at = (*block.at("arcs"), index)
            if isinstance(item, dict):
                ways.append(_Way(Block(self._report, at, item)))
            else:
                self._report.wrong(at, item, "a map with 'step'")
        inclusive = self._inclusive(spec, "mode") or False
        return Router(
            arcs=self._arcs(ways, inclusive=inclusive),
            inclusive=inclusive,
            quiet=quiet == "quiet",
        )

    def _inclusive(self, block: Block, key: str) -> bool | None:
        mode = block.get(key)
        if mode in (None, "exclusive", "inclusive"):
            return None if mode is None else mode == "inclusive"
        text = "next.spec.mode must be exclusive or inclusive"
        self._report.error("PB-723", block.at(key), f"{text}, got {shortened(mode)}")
        return None

    def _listed(self, item: JSON, path: Path) -> Iterator[_Way]:
        """Arcs of one item of the list forms (PB-300 b–f)."""
        if isinstance(item, str):
            yield _Way(Block(self._report, path, {"step": item}))
        elif not isinstance(item, dict):
            self._wrong(path, item)
        elif "then" not in item:
            yield _Way(Block(self._report, path, item))
        else:
            block = Block(self._report, path, item)
            block.warn_ignored({"when", "cond", "else", "then"})
            guard = self._guard(block, 0)
            then = item["then"]
            for index, entry in enumerate(then if isinstance(then, list) else [then]):
                at = (
                    (*path, "then", index)
                    if isinstance(then, list)
                    else (*path, "then")
                )
                if isinstance(entry, str):
                    entry = {"step": entry}
                if isinstance(entry, dict):
                    yield _Way(Block(self._report, at, entry), guard)
                else:
                    self._wrong(at, entry)

    def _wrong(self, path: Path, value: JSON) -> None:
        self.failed = True
        text = (
            f"next must be a router map, a step name or a list, got {shortened(value)}"
        )
        self._report.error("PB-723", path, text)

    def _arcs(self, ways: list[_Way], *, inclusive: bool) -> tuple[Arc, ...]:
        arcs = tuple(self._arc(way, index) for index, way in enumerate(ways))
        if not inclusive:
            self._warn_never_taken(ways, arcs)
        return arcs

    def _arc(self, way: _Way, index: int) -> Arc:
        block = way.block
        block.warn_ignored(_ARC_KEYS)
        when = self._guard(block, index)
        if when is not None and way.guard is not None:
            text = "the condition stands at the list item already"
            text = f"next.arcs[{index}] has invalid 'when' expression: {text}"
            self._report.error("PB-721", block.path, text)
        args = {**block.block("args").value, **block.block("input").value}
        refuse_secrets(self._report, args, block.at("args"), "next.arcs.args")
        values = step_variables(block, "set_ctx", "set")
        refuse_secrets(self._report, values, block.at("set"), "next.arcs.set")
        return Arc(
            target=self._target(block, index),
            when=way.guard if when is None else when,
            args=args,
            set=values,
        )

    def _guard(self, block: Block, index: int) -> Condition | None:
        key = "when" if "when" in block.value else "cond"
        if key not in block.value:
            return None
        prefix = f"next.arcs[{index}] has invalid 'when' expression"
        return condition_of(self._report, block.value[key], block.at(key), prefix)

    def _target(self, block: Block, index: int) -> str:
        target = block.get("step")
        if not isinstance(target, str) or not target:
            self.failed = True
            text = f"{self._place}[{index}] requires 'step', the name of a step"
            self._report.error("PB-722", block.path, text)
            return ""
        if target not in self._names and target != "end":
            text = f"references unknown step '{target}' in {self._place}"
            self._report.error("PB-722", block.at("step"), text, joint=" ")
        return target

    def _warn_never_taken(self, ways: list[_Way], arcs: tuple[Arc, ...]) -> None:
        always = next(
            (i for i, arc in enumerate(arcs) if arc.when in (None, True)), None
        )
        if always is not None and always + 1 < len(arcs):
            text = (
                f"next.arcs[{always + 1}] is never taken: "
                f"next.arcs[{always}] before it always holds"
            )
            self._report.warning(ways[always + 1].block.path, text)
