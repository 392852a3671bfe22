"""The document around the workflow: root keys, metadata, workload, executor."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from playbook_documents import HEAD, book, errors, warnings, whole

from state_builder.playbook import load, parse
from state_builder.playbook.model import Arc

STEP = "- {step: start, tool: {kind: noop}}"


@pytest.mark.parametrize("version", ["noetl.io/v2", "noetl.io/v10"])
def test_pb_003_both_versions_are_the_same_language(version: str) -> None:
    """PB-003."""
    assert errors(book(STEP).replace("noetl.io/v2", version)) == []


@pytest.mark.parametrize(
    ("written", "kind"),
    [
        ("Playbook", "playbook"),
        ("PLAYBOOK", "playbook"),
        ("agent", "agent"),
        ("Notebook", "notebook"),
    ],
)
def test_pb_004_kind_in_any_case(written: str, kind: str) -> None:
    """PB-004."""
    text = book(STEP).replace("kind: Playbook", f"kind: {written}")
    assert load(text).kind == kind


def test_pb_004_a_kind_of_another_type_is_an_error() -> None:
    """PB-004."""
    text = book(STEP).replace("kind: Playbook", "kind: [x]")
    assert errors(text) == [("PB-703", "Invalid kind: ['x']. Expected Playbook")]


def test_pb_005_json_documents_are_playbooks_too() -> None:
    """PB-005."""
    document = parse(book(STEP)).document
    again = parse(msgspec.json.encode(document))
    assert again.playbook == load(book(STEP))


def test_pb_005_vars_are_older_workload_defaults() -> None:
    """PB-005."""
    text = book(STEP, "workload: {a: 1, b: '{{ a }}'}\nvars: {a: 9, c: 3}")
    playbook = load(text)
    assert playbook.workload == {"a": 1, "b": "{{ a }}", "c": 3}


def test_pb_005_spec_is_free_data() -> None:
    """PB-005."""
    assert load(book(STEP, "spec: {x: [1]}")).spec == {"x": [1]}
    assert load(book(STEP)).spec is None


def test_pb_008_comments_mean_nothing() -> None:
    """PB-008."""
    text = book(STEP, "workload: # ui:note\n  a: x # ui:secret")
    assert load(text).workload == {"a": "x"}


def test_pb_009_the_keychain_is_not_part_of_the_model() -> None:
    """PB-009."""
    text = book(STEP, "keychain: [{name: api, kind: bearer, token: '{{ env.T }}'}]")
    assert b"bearer" not in msgspec.json.encode(load(text))


@pytest.mark.parametrize("root", ["workload:", "vars:", "executor:", "keychain:"])
def test_a_key_with_nothing_behind_it_counts_as_absent(root: str) -> None:
    assert load(book(STEP, root)) == load(book(STEP))


def test_pb_006_metadata() -> None:
    """PB-006."""
    text = book(STEP).replace(
        "{name: shop/sync}",
        "{name: sync, path: shop/sync, version: 3, title: null, "
        "description: d, tags: daily, exposes_as_mcp: true, agent: true, "
        "labels: {team: 7, hot: true, cold: false, none: }, execution_pool: gpu}",
    )
    playbook = load(text)
    assert (playbook.name, playbook.path, playbook.pool) == ("sync", "shop/sync", "gpu")
    assert playbook.metadata == {
        "name": "sync",
        "path": "shop/sync",
        "version": "3",
        "description": "d",
        "tags": ["daily"],
        "exposes_as_mcp": True,
        "agent": True,
        "labels": {"team": "7", "hot": "true", "cold": "false", "none": ""},
        "execution_pool": "gpu",
    }


def test_pb_006_path_defaults_to_the_name_and_tags_may_be_a_list() -> None:
    """PB-006."""
    playbook = load(book(STEP).replace("sync}", "sync, tags: [a, b]}"))
    assert playbook.path == "shop/sync"
    assert playbook.metadata["tags"] == ["a", "b"]


def test_pb_006_metadata_of_a_wrong_type_is_one_finding() -> None:
    """PB-006."""
    text = book(STEP).replace("{name: shop/sync}", "text")
    assert errors(text) == [("PB-727", "metadata must be a map, got text 'text'")]


def test_the_pool_of_a_playbook_may_stand_at_the_root() -> None:
    assert load(book(STEP, "execution_pool: gpu")).pool == "gpu"


def test_pb_007_executor() -> None:
    """PB-007."""
    root = """
    executor:
      profile: local
      version: 1
      requires: {tools: [http], features: [x]}
      spec:
        entry_step: first
        final_step: tidy
        no_next_is_error: true
        policy:
          defaults: {timeout_s: 90}
          results: {reference_first: true}
          limits: {max_steps: "50", max_duration_s: 1h}
    """
    text = book(
        "- {step: tidy, tool: {kind: noop}}\n- {step: first, tool: {kind: noop}}", root
    )
    playbook = load(text)
    assert playbook.entry == "first"
    assert playbook.final_step == "tidy"
    assert playbook.no_next_is_error
    assert playbook.reference_first
    assert playbook.steps_max == 50
    assert playbook.duration_max_s == 3600.0
    assert [step.timeout_s for step in playbook.steps.values()] == [90.0, 90.0]
    assert warnings(text) == []


def test_pb_007_defaults() -> None:
    """PB-007."""
    playbook = load(book(STEP))
    assert playbook.entry == "start"
    assert playbook.final_step == ""
    assert not playbook.no_next_is_error
    assert not playbook.reference_first
    assert (playbook.steps_max, playbook.duration_max_s) == (0, 0.0)


def test_pb_021_defaults_stay_templates_in_document_order() -> None:
    """PB-021."""
    playbook = load(book(STEP, "workload: {z: '{{ env.Z }}', a: '{{ z }}'}"))
    assert list(playbook.workload.items()) == [("z", "{{ env.Z }}"), ("a", "{{ z }}")]


def test_pb_040_steps_keep_the_order_of_the_document() -> None:
    """PB-040."""
    playbook = whole(
        "- {step: z, tool: {kind: noop}}\n- {step: start, tool: {kind: noop}}\n"
        "- {step: a/b.c-d e, tool: {kind: noop}}"
    )
    assert [(step.name, step.index) for step in playbook.steps.values()] == [
        ("z", 0),
        ("start", 1),
        ("a/b.c-d e", 2),
    ]


def test_pb_041_an_entry_step_makes_start_unnecessary() -> None:
    """PB-041."""
    text = f"{HEAD}executor: {{spec: {{entry_step: go}}}}\nworkflow:\n- {{step: go, tool: {{kind: noop}}}}"
    assert load(text).entry == "go"


def test_the_worked_example_of_the_language_is_parsed_without_findings() -> None:
    text = (Path(__file__).parent / "stock_sync.yaml").read_bytes()
    result = parse(text)
    assert result.errors == ()
    assert result.warnings == ()
    assert result.playbook is not None
    steps = result.playbook.steps
    assert list(steps) == ["start", "ping", "page", "report", "alarm", "end"]
    assert steps["page"].labels == ("get", "tally")
    assert steps["alarm"].next.arcs == (Arc(target="end"),)
    assert steps["start"].next.inclusive
