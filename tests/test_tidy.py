"""House rules no linter knows: budgets, reachability, words, changelog.

Each rule looks at every file and reports all offenders at once. An exemption is a line
in ``EXEMPT`` with its reason; one that is no longer needed fails, too.
"""

from __future__ import annotations

import ast
import functools
import io
import re
import tokenize
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from noetl_worker.cli.main import COMMANDS
from noetl_worker.cli.settings import as_markdown
from noetl_worker.settings import Settings

ROOT = Path(__file__).parents[1]
PACKAGES = ("noetl_worker", "tools", "state_builder", "materializer")
EVERYWHERE = (*PACKAGES, "bench", "examples", "tests")

FILE_LINES_MAX = 500
FUNCTION_LINES_MAX = 60
NESTING_MAX = 4
PARAMETERS_MAX = 6
PUBLIC_NAMES_MAX = 16
BANNED_NAMES = {"util", "utils", "helper", "helpers", "common", "misc"}

EXEMPT: dict[tuple[str, str], str] = {
    ("public names", "state_builder/records.py"): "the wire format is one file",
    ("public names", "noetl_worker/server/bodies.py"): "request bodies are one table",
    ("public names", "noetl_worker/server/routes/catalog.py"): "routes are one table",
    ("public names", "noetl_worker/server/routes/system.py"): "routes are one table",
    ("words", "state_builder/playbook/flow.py"): "HTML entities, as Mermaid wants them",
    ("words", "state_builder/template/operators.py"): "flags of printf",
    ("words", "tests/test_tidy.py"): "it names what it looks for",
}
"""(rule, file) → why the rule does not hold there."""

BLOCKS = (
    ast.If, ast.For, ast.AsyncFor, ast.While, ast.With, ast.AsyncWith, ast.Try,
    ast.TryStar, ast.Match,
)  # fmt: skip
Function = ast.FunctionDef | ast.AsyncFunctionDef
BROAD = {"Exception", "BaseException"}


class Source(NamedTuple):
    """One Python file: its path below the root, text and syntax tree."""

    name: str
    text: str
    tree: ast.Module

    @property
    def lines(self) -> list[str]:
        return self.text.splitlines()

    def functions(self) -> Iterator[Function]:
        for node in ast.walk(self.tree):
            if isinstance(node, Function):
                yield node


@functools.cache
def sources(*folders: str) -> tuple[Source, ...]:
    """Every Python file of some folders."""
    found = []
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            text = path.read_text(encoding="utf-8")
            name = path.relative_to(ROOT).as_posix()
            found.append(Source(name, text, ast.parse(text, name)))
    return tuple(found)


def comments(source: Source) -> dict[int, str]:
    """Comments by line number."""
    tokens = tokenize.generate_tokens(io.StringIO(source.text).readline)
    return {t.start[0]: t.string for t in tokens if t.type == tokenize.COMMENT}


def code_lines(source: Source, node: Function) -> int:
    """Lines of a function without blanks, comments and its docstring."""
    body = node.body[1:] if ast.get_docstring(node) else node.body
    if not body:
        return 0
    inside = source.lines[body[0].lineno - 1 : node.end_lineno]
    texts = [line.strip() for line in inside]
    head = body[0].lineno - node.lineno if body is node.body else 1
    return head + sum(1 for text in texts if text and not text.startswith("#"))


def nesting(statements: list[ast.stmt]) -> int:
    """How deep blocks stand inside each other; ``elif`` is no deeper than ``if``."""
    deepest = 0
    for one in statements:
        if not isinstance(one, BLOCKS):
            continue
        inside: list[list[ast.stmt]] = []
        for part in ("body", "orelse", "finalbody"):
            inside.append(getattr(one, part, []))
        inside += [handler.body for handler in getattr(one, "handlers", [])]
        inside += [case.body for case in getattr(one, "cases", [])]
        chained = isinstance(one, ast.If) and [*map(type, one.orelse)] == [ast.If]
        if chained:
            inside.remove(one.orelse)
            deepest = max(deepest, nesting(one.orelse))
        deepest = max(deepest, 1 + max(map(nesting, inside)))
    return deepest


def parameters(node: Function) -> int:
    """Parameters but for ``self`` and ``cls``; ``*`` and ``**`` count as one each."""
    listed = [*node.args.posonlyargs, *node.args.args]
    own = 1 if listed and listed[0].arg in ("self", "cls") else 0
    stars = sum(star is not None for star in (node.args.vararg, node.args.kwarg))
    return len(listed) - own + len(node.args.kwonlyargs) + stars


def public_names(source: Source) -> set[str]:
    """What a module defines for others, ``__all__`` and re-exports left out."""
    names: set[str] = set()
    for node in source.tree.body:
        if isinstance(node, Function | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
        elif isinstance(node, ast.Assign):
            names |= {one.id for one in node.targets if isinstance(one, ast.Name)}
    return {name for name in names if not name.startswith("_") and len(name) > 1}


def rule_file_length() -> Iterator[tuple[str, str]]:
    for source in sources(*EVERYWHERE):
        if len(source.lines) > FILE_LINES_MAX:
            yield source.name, f"{len(source.lines)} lines"


def rule_function_length() -> Iterator[tuple[str, str]]:
    for source in sources(*EVERYWHERE):
        for node in source.functions():
            if code_lines(source, node) > FUNCTION_LINES_MAX:
                yield source.name, f"{node.name} has {code_lines(source, node)} lines"


def rule_nesting() -> Iterator[tuple[str, str]]:
    for source in sources(*EVERYWHERE):
        for node in source.functions():
            if nesting(node.body) > NESTING_MAX:
                yield source.name, f"{node.name} nests {nesting(node.body)} deep"


def rule_parameters() -> Iterator[tuple[str, str]]:
    for source in sources(*PACKAGES):
        for node in source.functions():
            if parameters(node) > PARAMETERS_MAX:
                yield source.name, f"{node.name} has {parameters(node)} parameters"


def rule_public_names() -> Iterator[tuple[str, str]]:
    for source in sources(*PACKAGES):
        found = public_names(source)
        if len(found) > PUBLIC_NAMES_MAX:
            yield source.name, f"{len(found)} public names: {', '.join(sorted(found))}"


def rule_docstring() -> Iterator[tuple[str, str]]:
    for source in sources(*EVERYWHERE):
        if not ast.get_docstring(source.tree):
            yield source.name, "no module docstring"


def rule_file_name() -> Iterator[tuple[str, str]]:
    for source in sources(*EVERYWHERE):
        if BANNED_NAMES & set(Path(source.name).with_suffix("").parts):
            yield source.name, "name it after what is in it"


def rule_open() -> Iterator[tuple[str, str]]:
    for source in sources("state_builder"):
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "open":
                yield source.name, f"line {node.lineno} opens a file in the core"


def rule_broad_except() -> Iterator[tuple[str, str]]:
    for source in sources(*PACKAGES):
        said = comments(source)
        for node in ast.walk(source.tree):
            if not isinstance(node, ast.ExceptHandler) or not _is_broad(node):
                continue
            last = node.body[-1]
            if isinstance(last, ast.Raise) and last.exc is None:
                continue  # cleaning up on the way out swallows nothing
            around = range(node.lineno, node.body[0].lineno + 1)
            text = " ".join(said.get(line, "") for line in around)
            if not re.sub(r"#|noqa:?|BLE001|[-\s]", "", text):
                yield source.name, f"line {node.lineno}: broad except without a reason"


def _is_broad(node: ast.ExceptHandler) -> bool:
    if node.type is None:
        return True
    kinds = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
    return bool(BROAD & {ast.unparse(kind) for kind in kinds})


def rule_ignores() -> Iterator[tuple[str, str]]:
    for source in sources(*EVERYWHERE):
        for number, text in comments(source).items():
            bare_type = re.search(r"type:\s*ignore(?!\[)", text)
            bare_noqa = re.search(r"noqa(?!:\s*[A-Z]+[0-9]+)", text)
            if bare_type or (bare_noqa and "ruff: noqa" not in text):
                yield source.name, f"line {number}: an ignore names its code"


def rule_free_tasks() -> Iterator[tuple[str, str]]:
    for source in sources(*PACKAGES):
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                if called == "tasks.create_task":
                    continue  # what a group of tasks is called in this house
                if called.endswith((".create_task", ".ensure_future")):
                    yield source.name, f"line {node.lineno}: {called} outside a group"


def rule_words() -> Iterator[tuple[str, str]]:
    wrong = re.compile(
        r"\b(TODO|FIXME|XXX|HACK)\b"
        r"|(?<![\w&])#\d+\b"
        r"|\b(?:issue|ticket|bug) \d+\b"
        r"|/(?:home|root|Users|work)/\w"
    )
    texts = [(s.name, s.text) for s in sources(*EVERYWHERE)]
    for pattern in ("*.md", "*.toml", "Makefile", "Dockerfile", "charts/**/*.yaml"):
        for path in ROOT.glob(pattern):
            texts.append((path.relative_to(ROOT).as_posix(), path.read_text()))
    for name, text in texts:
        for number, line in enumerate(text.splitlines(), 1):
            if found := wrong.search(line):
                yield name, f"line {number}: {found.group()!r}"


def rule_reachable() -> Iterator[tuple[str, str]]:
    known = {_module(source.name): source for source in sources(*PACKAGES)}
    roots = [
        f"noetl_worker.cli.{where.partition(':')[0]}" for _, _, where, _ in COMMANDS
    ]
    # A program of its own: the door starts it by path.
    roots += ["tools.kinds.python.child.__main__", "tools.kinds.python.child.service"]
    roots += ["noetl_worker.__main__", "noetl_worker.cli", "noetl_worker.roles"]
    waiting = [name for root in roots for name in _with_parents(root)]
    for source in sources("tests", "bench"):
        waiting += _imported(source, known)
    reached: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in known and name not in reached:
            reached.add(name)
            waiting += _imported(known[name], known)
    for name in sorted(known.keys() - reached):
        yield known[name].name, "no role and no test imports it"


def _module(name: str) -> str:
    return name.removesuffix(".py").replace("/", ".").removesuffix(".__init__")


def _with_parents(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts) + 1)]


def _imported(source: Source, known: dict[str, Source]) -> list[str]:
    """Modules a file names: in imports, and in texts that are a module's full name."""
    names: list[str] = []
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            base = f"{_module(source.name).rpartition('.')[0]}." if node.level else ""
            names.append(f"{base}{node.module}")
            names += [f"{base}{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            name = node.value.partition(":")[0]
            names += [name] if name in known else []
    return [parent for name in names for parent in _with_parents(name)]


RULES: dict[str, Callable[[], Iterator[tuple[str, str]]]] = {
    "file length": rule_file_length,
    "function length": rule_function_length,
    "nesting": rule_nesting,
    "parameters": rule_parameters,
    "public names": rule_public_names,
    "docstring": rule_docstring,
    "file name": rule_file_name,
    "open": rule_open,
    "broad except": rule_broad_except,
    "ignores": rule_ignores,
    "free tasks": rule_free_tasks,
    "words": rule_words,
    "reachable": rule_reachable,
}


@pytest.mark.parametrize("rule", RULES)
def test_every_file_keeps_the_rule(rule: str) -> None:
    found = [one for one in RULES[rule]() if (rule, one[0]) not in EXEMPT]
    told = "\n".join(f"  {name}: {what}" for name, what in found)
    assert not found, f"{rule}:\n{told}"


@pytest.mark.parametrize(("rule", "name"), EXEMPT)
def test_every_exemption_is_needed(rule: str, name: str) -> None:
    assert name in {one[0] for one in RULES[rule]()}, "remove it from EXEMPT"


def changelog_releases(text: str) -> list[tuple[str, str]]:
    """Version and date of every release, newest first; complains about odd headings."""
    releases = []
    for line in text.splitlines():
        if line.startswith("## ") and line != "## [Unreleased]":
            release = re.fullmatch(r"## \[(\d+\.\d+\.\d+)\] - (\d{4}-\d\d-\d\d)", line)
            assert release, f"no release heading: {line}"
            releases.append((release[1], release[2]))
        elif line.startswith("### "):
            sections = [
                "Added",
                "Changed",
                "Deprecated",
                "Removed",
                "Fixed",
                "Security",
            ]
            assert line.removeprefix("### ") in sections, f"no section: {line}"
    return releases


def test_the_changelog_parses_and_knows_this_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    releases = changelog_releases(text)
    assert "## [Unreleased]" in text.splitlines()
    assert releases == sorted(releases, key=lambda one: one[1], reverse=True)
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert releases[0][0] == version, "changelog and pyproject name one version"


def test_every_setting_is_read_by_somebody() -> None:
    """A variable that changes nothing is a lie to whoever sets it."""
    read = {
        node.attr
        for source in sources(*PACKAGES)
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Attribute)
        # What the settings room relates to others is not used by that.
        and source.name != "noetl_worker/settings/loading.py"
    }
    declared = [one.attribute for one in Settings.variables()]
    assert [name for name in declared if name not in read] == []


def test_every_setting_is_documented_beside_the_chart() -> None:
    """``make format`` writes the page anew."""
    page = (ROOT / "charts/noetl-worker/SETTINGS.md").read_text()
    assert page == as_markdown(Settings.variables())


@pytest.mark.parametrize(
    ("body", "depth"),
    [
        ("x = 1", 0),
        ("if a:\n  x = 1\nelif b:\n  x = 2\nelif c:\n  x = 3", 1),
        ("for a in b:\n  if a:\n    with c:\n      x = 1", 3),
        ("try:\n  x = 1\nexcept E:\n  if a:\n    x = 2", 2),
        ("match a:\n  case 1:\n    if b:\n      x = 1", 2),
        ("if a:\n  x = 1\nelse:\n  if b:\n    x = 2\n  y = 3", 2),
    ],
)
def test_nesting_is_counted_as_people_see_it(body: str, depth: int) -> None:
    assert nesting(ast.parse(body).body) == depth


def test_only_code_counts_as_lines_of_a_function() -> None:
    text = 'def f(a):\n    """Doc.\n\n    More.\n    """\n    # why\n\n    return a\n'
    source = Source("x.py", text, ast.parse(text))
    assert code_lines(source, next(source.functions())) == 2
