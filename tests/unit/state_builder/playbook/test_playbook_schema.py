"""The JSON Schema editors use: red where the parser is, never where it is not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator
from playbook_documents import HEAD, start
from ruamel.yaml import YAML

from state_builder.playbook import document_schema, parse
from state_builder.playbook.source import read
from state_builder.records import JSON

HERE = Path(__file__).parent
ROOT = HERE.parents[3]
SCHEMA = Draft202012Validator(document_schema())


def complaints(document: JSON) -> list[str]:
    """What the schema has against a document."""
    return [
        f"{'.'.join(map(str, error.path))}: {error.message}"
        for error in SCHEMA.iter_errors(document)
    ]


def cases(name: str) -> list[list[str]]:
    found: list[list[str]] = YAML(typ="safe").load((HERE / name).read_text())
    return found


def traced() -> list[JSON]:
    """Every document whose trace is known."""
    loader = YAML(typ="safe")
    found = []
    for file in sorted((ROOT / "tests" / "traces").glob("*.yaml")):
        for case in loader.load(file.read_text()):
            document = read(HEAD + "workflow:\n" + case["workflow"]).value
            found.append({**document, **case.get("root", {})})
    return found


def test_the_schema_is_one() -> None:
    Draft202012Validator.check_schema(document_schema())


@pytest.mark.parametrize(
    "file",
    [
        path
        for path in sorted((ROOT / "examples").rglob("*.yaml"))
        if not path.name.endswith(".test.yaml")
    ],
    ids=lambda path: path.name,
)
def test_every_example_is_valid(file: Path) -> None:
    assert complaints(read(file.read_text()).value) == []


@pytest.mark.slow
def test_what_the_parser_takes_the_schema_takes() -> None:
    """No editor marks what runs: traced workflows, and documents with warnings."""
    texts = [json.dumps(document) for document in traced()]
    texts += [start(body, more, root) for root, more, body, _ in cases("warnings.yaml")]
    taken = [text for text in texts if parse(text).playbook is not None]
    assert len(taken) > 100
    wrong = {text: found for text in taken if (found := complaints(read(text).value))}
    assert wrong == {}


SHAPES = frozenset(
    ("PB-703", "PB-704", "PB-705", "PB-708", "PB-710", "PB-713", "PB-718", "PB-720")
)
"""Rules about shapes alone; names, templates and rules across keys are the parser's."""


def broken() -> list[tuple[str, str]]:
    """Rule and text of every document with one error of shape."""
    found = [(rule, text) for rule, _, _, _, text in cases("document_errors.yaml")]
    found += [(rule, start(body)) for rule, _, _, _, body in cases("step_errors.yaml")]
    return [(rule, text) for rule, text in found if rule in SHAPES]


def test_what_has_no_valid_shape_is_marked() -> None:
    """An editor shows most mistakes while they are made; the validator shows all."""
    found = broken()
    assert len(found) > 30
    documents = {text: parse(text).document for _, text in found}
    missed = [text for text, document in documents.items() if not complaints(document)]
    assert missed == []
