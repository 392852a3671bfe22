"""From the text of a playbook to the one form everybody else works with (§1, §18).

Total: :func:`parse` gives a playbook or at least one error, and all findings at once in
document order. It renders no template and looks nothing up.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from state_builder.errors import InvalidError
from state_builder.playbook.findings import (
    Block,
    CheckText,
    FieldsOf,
    Report,
    as_number,
)
from state_builder.playbook.graph import warn_graph
from state_builder.playbook.model import Finding, Playbook, Step
from state_builder.playbook.pipelines import read_workbook
from state_builder.playbook.source import Document, SourceError, read, type_name
from state_builder.playbook.steps import Surroundings, step_of
from state_builder.playbook.texts import warn_texts
from state_builder.records import JSON

API_VERSIONS: Final = ("noetl.io/v2", "noetl.io/v10")
KINDS: Final = ("playbook", "agent", "notebook")

TOOLS_BYTES_MAX: Final = 8 << 20
"""All commands of a playbook together, workbook actions written out."""

_ROOT_KEYS = frozenset(
    {
        "apiVersion",
        "kind",
        "metadata",
        "workload",
        "vars",
        "workflow",
        "workbook",
        "keychain",
        "executor",
        "spec",
        "execution_pool",
    }
)
_EXECUTOR_KEYS = frozenset({"profile", "kind", "version", "requires", "spec"})
_EXECUTOR_SPEC_KEYS = frozenset(
    {"entry_step", "final_step", "no_next_is_error", "policy"}
)


class ParseResult(Struct, frozen=True, kw_only=True):
    """What parsing gave.

    Attributes:
        playbook: None exactly when there are errors.
        errors, warnings: in document order (PB-700).
        document: the plain JSON document; None when the text could not be read.
    """

    playbook: Playbook | None = None
    errors: tuple[Finding, ...] = ()
    warnings: tuple[Finding, ...] = ()
    document: dict[str, JSON] | None = None


class PlaybookError(InvalidError):
    """A document that may not be executed; the message lists all errors.

    Attributes:
        findings: the errors, in document order.
    """

    code = "playbook"

    def __init__(self, findings: tuple[Finding, ...]) -> None:
        lines = [f"line {found.line}: {found.message}" for found in findings]
        super().__init__("\n".join(lines))
        self.findings = findings


def parse(
    text: str | bytes,
    *,
    check_text: CheckText | None = None,
    fields_of: FieldsOf | None = None,
) -> ParseResult:
    """Read, check and resolve a playbook.

    Args:
        text: YAML or JSON.
        check_text: syntax of a template text, or None when it is well formed; only
            for the warnings of PB-750.
        fields_of: fields a tool of a kind may carry, None where nobody knows; only for
            the warnings of TL-SPC-07.
    """
    try:
        document = read(text)
    except SourceError as error:
        found = Finding(id="PB-702", path="", line=error.line, message=str(error))
        return ParseResult(errors=(found,))
    report = Report(document, check_text, fields_of)
    playbook = _playbook(document, report)
    errors = _in_order(report.errors)
    return ParseResult(
        playbook=None if errors else playbook,
        errors=errors,
        warnings=_in_order(report.warnings),
        document=document.value,
    )


def load(text: str | bytes) -> Playbook:
    """The playbook of a text. Raises PlaybookError."""
    result = parse(text)
    if result.playbook is None:
        raise PlaybookError(result.errors)
    return result.playbook


def _in_order(findings: list[Finding]) -> tuple[Finding, ...]:
    return tuple(sorted(findings, key=lambda finding: finding.line))


def _playbook(document: Document, report: Report) -> Playbook | None:
    root = Block(report, (), document.value)
    if not _is_playbook(root):
        return None
    root.warn_ignored(_ROOT_KEYS)
    root.items("keychain")
    metadata = _metadata(root)
    workload = {**root.block("vars").value, **root.block("workload").value}
    executor = root.block("executor")
    executor.warn_ignored(_EXECUTOR_KEYS)
    spec = executor.block("spec")
    spec.warn_ignored(_EXECUTOR_SPEC_KEYS)
    policy = spec.block("policy")
    policy.warn_ignored({"defaults", "results", "limits"})
    limits = policy.block("limits")
    steps = _steps(root, spec, policy.block("defaults").seconds("timeout_s"))
    pool = metadata.get("execution_pool") or root.text("execution_pool")
    playbook = Playbook(
        name=str(metadata.get("name", "")),
        path=str(metadata.get("path", "")),
        kind=str(root.get("kind")).lower(),
        workload=workload,
        spec=root.block("spec").value or None,
        steps=steps,
        entry=spec.text("entry_step") or "start",
        final_step=spec.text("final_step"),
        no_next_is_error=spec.flag("no_next_is_error"),
        reference_first=policy.block("results").flag("reference_first"),
        steps_max=_steps_max(limits),
        duration_max_s=limits.seconds("max_duration_s"),
        pool=str(pool),
        metadata=metadata,
    )
    _check_entry(spec, playbook, root)
    warn_graph(report, playbook)
    for key in ("workload", "vars", "workflow", "workbook"):
        if key in document.value:
            warn_texts(report, document.value[key], (key,))
    return playbook


def _is_playbook(root: Block) -> bool:
    """PB-003, PB-004; a subscription gets one finding, not twenty."""
    kind, version = root.get("kind"), root.get("apiVersion")
    if not isinstance(kind, str) or kind.lower() not in KINDS:
        text = f"Invalid kind: {_shown(kind)}. Expected Playbook"
        root.report.error("PB-703", root.at("kind"), text)
        if isinstance(kind, str) and kind.lower() == "subscription":
            return False
    if version not in API_VERSIONS:
        text = f"Unsupported API version: {_shown(version)}. Expected {API_VERSIONS[0]}"
        root.report.error("PB-703", root.at("apiVersion"), text)
    return True


def _shown(value: JSON) -> str:
    return "(missing)" if value is None else str(value)[:80]


def _metadata(root: Block) -> dict[str, JSON]:
    """``metadata`` with the types of PB-006; further keys are kept."""
    report = root.report
    if root.get("metadata") is None:
        report.error("PB-704", root.path, "Missing 'metadata' section")
        return {}
    block = root.block("metadata")
    found: dict[str, JSON] = {
        key: value for key, value in block.value.items() if value is not None
    }
    if isinstance(root.get("metadata"), dict) and not found.get("name"):
        report.error("PB-704", block.path, "Missing 'path' or 'name' in metadata")
    for key in ("name", "path", "execution_pool"):
        if key in found:
            found[key] = block.text(key)
    for key in ("description", "version", "title"):
        if key in found:
            found[key] = block.name(key)
    if "labels" in found:
        labels = block.block("labels").value
        found["labels"] = {key: _label(value) for key, value in labels.items()}
    if isinstance(found.get("tags"), str):
        found["tags"] = [found["tags"]]
    elif "tags" in found:
        found["tags"] = block.items("tags")
    block.flag("exposes_as_mcp")
    found["path"] = found.get("path") or found.get("name", "")
    return found


def _label(value: JSON) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)


def _steps_max(limits: Block) -> int:
    limits.warn_ignored({"max_steps", "max_duration_s"})
    value = limits.get("max_steps")
    number = as_number(value)
    if number is not None and number >= 1 and number == int(number):
        return int(number)
    if value is not None:
        limits.report.wrong(limits.at("max_steps"), value, "a whole number from 1")
    return 0


def _steps(root: Block, spec: Block, timeout_s: float) -> dict[str, Step]:
    blocks = _step_blocks(root)
    workbook = read_workbook(root)
    around = Surroundings(
        names=set(blocks),
        workbook=workbook,
        timeout_s=timeout_s,
        final_step=spec.text("final_step"),
    )
    steps: dict[str, Step] = {}
    size = 0
    for name, block in blocks.items():
        step = step_of(block, len(steps), around)
        size += len(bytes(step.tool))
        if size > TOOLS_BYTES_MAX:
            text = f"tools of all steps are longer than {TOOLS_BYTES_MAX} bytes"
            block.report.error("PB-724", block.at("tool"), text)
            break
        steps[name] = step
    for name in workbook.actions.keys() - workbook.used:
        action = workbook.actions[name]
        root.report.warning(action.path, f"workbook action '{name}' is never used")
    return steps


def _step_blocks(root: Block) -> dict[str, Block]:
    """Every step that has a usable name, in document order."""
    report = root.report
    workflow = root.get("workflow")
    if not isinstance(workflow, list) or not workflow:
        text = "workflow must be a non-empty list of steps"
        report.error("PB-705", root.at("workflow"), text)
        return {}
    blocks: dict[str, Block] = {}
    for index, item in enumerate(workflow):
        path = ("workflow", index)
        if not isinstance(item, dict):
            text = "workflow must be a non-empty list of steps"
            text = f"{text}: workflow[{index}] is a {type_name(item)}"
            report.error("PB-705", path, text)
            continue
        name = item.get("step")
        problem = _name_problem(name)
        if problem:
            report.error("PB-707", (*path, "step"), f"workflow[{index}]: {problem}")
        elif isinstance(name, str) and name in blocks:
            text = f"Duplicate step name: {name}"
            report.error("PB-707", (*path, "step"), text)
        else:
            assert isinstance(name, str)
            blocks[name] = Block(report.of_step(name), path, item)
    return blocks


def _name_problem(name: JSON) -> str:
    if name is None or name == "":
        return "'step' is required"
    if not isinstance(name, str):
        return f"'step' is required as a text, got {type_name(name)}"
    if name.startswith("__"):
        return f"step name '{name}' is reserved"
    if any(ord(character) < 32 or 127 <= ord(character) < 160 for character in name):
        return "step name must not contain control characters"
    return ""


def _check_entry(spec: Block, playbook: Playbook, root: Block) -> None:
    """PB-706; says nothing when there are no steps at all."""
    if not playbook.steps:
        return
    for key in ("entry_step", "final_step"):
        name = spec.get(key)
        if isinstance(name, str) and name and name not in playbook.steps:
            text = f"executor.spec.{key} references unknown step '{name}'"
            root.report.error("PB-706", spec.at(key), text)
    if not spec.get("entry_step") and "start" not in playbook.steps:
        text = "Workflow must have a step named 'start'"
        root.report.error("PB-706", root.at("workflow"), text)
