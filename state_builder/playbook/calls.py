"""A single ``playbook`` tool, as the owner that starts the child needs it (§16)."""

from __future__ import annotations

from typing import Final, Literal

from msgspec import Raw

from state_builder.playbook.findings import Block, is_template
from state_builder.playbook.model import Call
from state_builder.records import JSON, NOTHING, encode_json

WAIT_S: Final = 300.0
WAIT_RETURN_RESULT_S: Final = 180.0


def call_of(block: Block, timeout_s: float, *, retried: bool) -> Call:
    """The call of a canonical ``playbook`` tool (PB-600 to PB-607).

    Args:
        block: the configured tool at its place.
        timeout_s: of the step or the playbook, 0 when neither names one.
        retried: the step has a ``retry`` of its own.
    """
    own = block.block("input").value
    payload = block.get("payload")
    if (
        payload is not None
        and not isinstance(payload, dict)
        and not is_template(payload)
    ):
        block.report.wrong(block.at("payload"), payload, "a map or a template")
    wait = _wait(block)
    policy = tuple(block.items("policy"))
    values, retry = block.block("set").value, block.block("retry").value
    named = "return_step" if wait == "tolerant" else "result_step"
    return Call(
        path=block.text("path"),
        catalog_id=block.name("catalog_id"),
        version=_version(block),
        payload=payload,
        input=own,
        wait=wait,
        result_step="" if wait == "none" else block.text(named),
        timeout_s=_timeout(block, timeout_s),
        cancel_on_timeout=block.flag("cancel_on_timeout"),
        policy=policy,
        set=values,
        retry=Raw(encode_json(retry)) if retry else NOTHING,
        is_judged=bool(retried or policy or values or retry),
    )


def _wait(block: Block) -> Literal["strict", "tolerant", "none"]:
    if block.flag("async") or not block.flag("wait", default=True):
        return "none"
    return "tolerant" if block.get("return_step") is not None else "strict"


def _version(block: Block) -> JSON:
    version = block.get("version")
    if isinstance(version, dict | list | bool):
        block.report.wrong(block.at("version"), version, "a number or a text")
    return version


def _timeout(block: Block, timeout_s: float) -> float:
    own = block.get("timeout")
    if isinstance(own, str):
        # The owner starts its timer without rendering anything.
        block.report.wrong(block.at("timeout"), own, "a number of seconds, no template")
    elif isinstance(own, int | float):
        return float(own)
    if timeout_s:
        return timeout_s
    return WAIT_RETURN_RESULT_S if block.flag("return_result") else WAIT_S
