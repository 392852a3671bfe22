"""One step of the workflow (§3)."""

from __future__ import annotations

from typing import Final, Literal

from msgspec import Raw, Struct

from state_builder.playbook.calls import call_of
from state_builder.playbook.findings import Block, is_template
from state_builder.playbook.loops import loop_of
from state_builder.playbook.model import AdmitRule, Call, Loop, Step
from state_builder.playbook.pipelines import Work, Workbook, read_work
from state_builder.playbook.policy import RETRY_DEFAULT, retry_of
from state_builder.playbook.reads import command_texts, reads_everything
from state_builder.playbook.routes import router_of
from state_builder.playbook.texts import condition_of, refuse_secrets
from state_builder.playbook.toolspec import SEQUENCE, Field, Fields, output_of
from state_builder.playbook.variables import step_variables
from state_builder.records import JSON, NOTHING, encode_json

_STEP_KEYS: Final = frozenset(
    {
        "step",
        "desc",
        "description",
        "tool",
        "when",
        "input",
        "args",
        "loop",
        "set",
        "set_ctx",
        "vars",
        "next",
        "output",
        "spec",
        "case",
        "retry",
    }
)
_SPEC_KEYS: Final = frozenset(
    {"policy", "timeout", "retry", "next_mode", "on_error", "pool", "result"}
)
_POLICY_KEYS: Final = frozenset({"admit", "failure", "lifecycle", "on_error"})


class Surroundings(Struct, frozen=True, kw_only=True):
    """What a step needs to know of its playbook."""

    names: set[str]
    workbook: Workbook
    timeout_s: float = 0.0
    final_step: str = ""


def step_of(block: Block, index: int, around: Surroundings) -> Step:
    """A step of the document, checked; after findings, as good as it can be told."""
    report = block.report
    block.warn_ignored(_STEP_KEYS)
    if "case" in block.value:
        text = "'case' blocks are not allowed in canonical format: write next.arcs"
        report.error("PB-709", block.at("case"), text)
    spec = block.block("spec")
    spec.warn_ignored(_SPEC_KEYS)
    policy = spec.block("policy")
    policy.warn_ignored(_POLICY_KEYS)
    work = _work(block, around)
    given = {**block.block("args").value, **block.block("input").value, **work.input}
    loop = loop_of(block)
    timeout_s = _timeout(spec, work) or around.timeout_s
    values = step_variables(block, "vars", "set_ctx", "set")
    refuse_secrets(report, values, block.at("set"), "set")
    name = block.value["step"]
    assert isinstance(name, str)
    kind = str(work.config["kind"])
    claim = _claim_texts(loop)
    on_error = _on_error(spec, policy)
    retry = _retry(block, spec, on_error)
    return Step(
        name=name,
        index=index,
        kind=kind,
        tool=Raw(encode_json(work.config)),
        labels=work.labels,
        input=_raw(given),
        when=_when(block),
        admit=_admit(policy.block("admit")),
        loop=loop,
        set=values,
        next=router_of(block, around.names, final=name == around.final_step),
        timeout_s=timeout_s,
        retry=retry,
        on_error=on_error,
        best_effort=_best_effort(policy),
        output=_output(block, work),
        pool=spec.text("pool") or work.pool,
        call=_call(block, work, timeout_s, retried=bool(retry)),
        texts=command_texts(work.config, given, claim),
        full_context=reads_everything(work.config, given, loop),
        bare_noop=kind == "noop" and not {"result", "message"} & work.config.keys(),
    )


def _raw(value: dict[str, JSON]) -> Raw:
    return Raw(encode_json(value)) if value else NOTHING


def _work(block: Block, around: Surroundings) -> Work:
    nothing = Work(config={"kind": "noop"}, path=block.at("tool"))
    tool = block.get("tool")
    if tool is None:
        text = "tool is required (use kind: noop for a step without work)"
        block.report.error("PB-708", block.path, text)
        return nothing
    work = read_work(block.report, tool, block.at("tool"), around.workbook)
    return nothing if work is None else work


def _claim_texts(loop: Loop | None) -> JSON:
    if loop is None or loop.cursor is None:
        return None
    return bytes(loop.cursor.claim).decode()


def _when(block: Block) -> str | bool | None:
    if "when" not in block.value:
        return None
    return condition_of(block.report, block.value["when"], block.at("when"))


def _timeout(spec: Block, work: Work) -> float:
    """``spec.timeout`` in seconds; a template becomes the timeout of each tool."""
    value = spec.get("timeout")
    if not is_template(value):
        return spec.seconds("timeout")
    tasks = work.config.get("tasks")
    for tool in tasks if isinstance(tasks, list) else [work.config]:
        assert isinstance(tool, dict)
        tool.setdefault("timeout", value)
    return 0.0


def _on_error(spec: Block, policy: Block) -> Literal["fail", "continue", "retry"]:
    holder = spec if spec.get("on_error") is not None else policy
    match holder.choice("on_error", ("fail", "continue", "retry"), "fail"):
        case "continue":
            return "continue"
        case "retry":
            return "retry"
        case _:
            return "fail"


def _best_effort(policy: Block) -> bool:
    failure = policy.block("failure")
    failure.warn_ignored({"mode"})
    return failure.choice("mode", ("fail_fast", "best_effort"), "") == "best_effort"


def _retry(block: Block, spec: Block, on_error: str) -> Raw:
    """``spec.retry``, or the older ``retry`` beside the tool (PB-051, PB-156)."""
    holder = spec if spec.get("retry") is not None else block
    if holder.get("retry") is None:
        return _raw(RETRY_DEFAULT) if on_error == "retry" else NOTHING
    return _raw(retry_of(holder.block("retry")))


def _admit(block: Block) -> tuple[AdmitRule, ...]:
    """Rules of ``spec.policy.admit`` (PB-047)."""
    block.warn_ignored({"mode", "rules"})
    block.choice("mode", ("exclusive",), "exclusive")
    rules: list[AdmitRule] = []
    for index, entry in enumerate(block.items("rules")):
        path = (*block.at("rules"), index)
        if not isinstance(entry, dict):
            block.report.wrong(path, entry, "a map")
            continue
        rule = Block(block.report, path, entry)
        rule.warn_ignored({"when", "then", "else"})
        when = None
        if "when" in entry:
            when = condition_of(block.report, entry["when"], rule.at("when"))
        elif "else" not in entry:
            text = f"spec.policy.admit.rules[{index}] must have 'when' or 'else'"
            block.report.error("PB-714", path, text)
        holder = rule.block("else") if isinstance(entry.get("else"), dict) else rule
        body = holder.block("then") if "then" in holder.value else holder
        rules.append(AdmitRule(when=when, allow=body.flag("allow", default=True)))
    return tuple(rules)


def _output(block: Block, work: Work) -> Raw:
    """The step's ``output``, over what its tools ask for their data (PB-342)."""
    if work.config["kind"] == SEQUENCE:
        below = _output_of_tasks(work.config["tasks"])
    else:
        below = work.config.get("output", {})
    fields: Fields = {}
    if block.get("output") is not None:
        fields["output"] = Field(block.get("output"), block.at("output"))
    spec = block.value.get("spec")
    if isinstance(spec, dict) and spec.get("result") is not None:
        path = (*block.at("spec"), "result")
        fields["spec.result"] = Field(spec["result"], path)
    own = output_of(block.report, fields)
    assert isinstance(below, dict)
    return _raw({**below, **own})


def _output_of_tasks(tasks: JSON) -> JSON:
    """Data of tasks are stored with the result that holds them: what one asks for its
    own is done for all, what it selects is selected below its label."""
    assert isinstance(tasks, list)
    found: dict[str, JSON] = {}
    selected: list[JSON] = []
    for task in tasks:
        asked = task.get("output") if isinstance(task, dict) else None
        if not isinstance(task, dict) or not isinstance(asked, dict):
            continue
        if "store" in asked:
            found.setdefault("store", asked["store"])
        budget = asked.get("inline_max_bytes")
        if isinstance(budget, int):
            least = found.get("inline_max_bytes", budget)
            assert isinstance(least, int)
            found["inline_max_bytes"] = min(budget, least)
        paths = asked.get("output_select")
        for path in paths if isinstance(paths, list) else []:
            entry = {"path": path} if isinstance(path, str) else path
            if isinstance(entry, dict):
                below = f"{task['label']}.{entry['path']}"
                selected.append({**entry, "path": below})
    return {**found, "output_select": selected} if selected else found


def _call(block: Block, work: Work, timeout_s: float, *, retried: bool) -> Call | None:
    if work.config["kind"] != "playbook":
        return None
    tool = Block(block.report, work.path, work.config)
    return call_of(tool, timeout_s, retried=retried)
