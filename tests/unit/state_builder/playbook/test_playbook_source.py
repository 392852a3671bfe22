"""Reading YAML and JSON: what scalars mean, where things stand, what is refused."""

from __future__ import annotations

import time

import pytest

from state_builder.playbook.source import (
    DEPTH_MAX,
    DIGITS_MAX,
    NODES_MAX,
    SOURCE_BYTES_MAX,
    SourceError,
    read,
)


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("true", True),
        ("True", True),
        ("TRUE", True),
        ("false", False),
        ("tRue", "tRue"),
        ("yes", "yes"),
        ("no", "no"),
        ("on", "on"),
        ("off", "off"),
        ("y", "y"),
        ("2024-05-01", "2024-05-01"),
        ("2024-05-01T10:00:00Z", "2024-05-01T10:00:00Z"),
        ("12:30:00", "12:30:00"),
        ("0o17", 15),
        ("017", 17),
        ("0x1F", 31),
        ("-12", -12),
        ("+12", 12),
        ("1_000", "1_000"),
        ("0b11", "0b11"),
        ("1.5", 1.5),
        ("-.5", -0.5),
        ("1e3", 1000.0),
        ("1.e2", 100.0),
        (".", "."),
        ("-", "-"),
        ("", None),
        ("~", None),
        ("null", None),
        ("nULL", "nULL"),
        ("'12'", "12"),
        ('"true"', "true"),
        ("!!str 12", "12"),
        ("! 12", "12"),
        ('!!int "12"', 12),
        ('!!float "1.5"', 1.5),
        ('!!bool "true"', True),
        ('!!null ""', None),
        ("!!seq [1]", [1]),
        ("!!map {a: 1}", {"a": 1}),
        ("18446744073709551616", 2**64),
        ("|\n  a\n  b\n", "a\nb\n"),
    ],
)
def test_pb_002_scalars_follow_yaml_1_2_core(written: str, value: object) -> None:
    """PB-002."""
    found = read(f"k: {written}" if written != "-" else "k: '-'").value["k"]
    assert found == value
    assert type(found) is type(value)


def test_pb_002_map_keys_are_texts() -> None:
    """PB-002."""
    text = "{1: a, true: b, null: c, 2024-05-01: d, 1.50: e, 'x y': f, &k g: h}"
    assert list(read(text).value) == [
        *("1", "true", "null", "2024-05-01", "1.50", "x y", "g"),
    ]


def test_pb_001_json_is_read_as_well() -> None:
    """PB-001."""
    text = '{"a":\n\t"\\ud83d\\ude00\\/", "b": [1, 2.5, null, true], "c": {}}'
    assert read(text).value == {"a": "😀/", "b": [1, 2.5, None, True], "c": {}}


def test_pb_001_bytes_are_utf_8_with_or_without_mark() -> None:
    """PB-001."""
    assert read(b"\xef\xbb\xbfa: \xc3\xa4").value == {"a": "ä"}
    assert read("\ufeffa: ä").value == {"a": "ä"}


def test_pb_001_anchors_aliases_and_merge_keys() -> None:
    """PB-001."""
    text = """
base: &base {kind: http, timeout: 3}
other: &other {timeout: 5, verify: true}
same: *base
one: {<<: *base, timeout: 7}
many: {<<: [*base, *other], url: x}
inline: {<<: {a: 1}, b: 2}
quoted: {"<<": 1}
again: &base {kind: noop}
last: *base
*other : "not a key"
"""
    text = text.replace('*other : "not a key"\n', "")
    assert read(text).value == {
        "base": {"kind": "http", "timeout": 3},
        "other": {"timeout": 5, "verify": True},
        "same": {"kind": "http", "timeout": 3},
        "one": {"kind": "http", "timeout": 7},
        "many": {"kind": "http", "timeout": 3, "verify": True, "url": "x"},
        "inline": {"a": 1, "b": 2},
        "quoted": {"<<": 1},
        "again": {"kind": "noop"},
        "last": {"kind": "noop"},
    }


def test_an_alias_may_be_a_key() -> None:
    assert read("a: &x name\n*x : 1").value == {"a": "name", "name": 1}


def test_pb_700_every_place_has_its_line() -> None:
    """PB-700."""
    document = read("a:\n  b:\n    - x\n    - {c: 1,\n       d: 2}\nm: {<<: {z: 1}}\n")
    assert document.line_of(()) == 1
    assert document.line_of(("a",)) == 1
    assert document.line_of(("a", "b", 0)) == 3
    assert document.line_of(("a", "b", 1, "c")) == 4
    assert document.line_of(("a", "b", 1, "d")) == 5
    assert document.line_of(("m", "z")) == 6
    assert document.line_of(("a", "b", 7, "gone")) == 2


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: 1\nb: 2\na: 3", "repeated key 'a', line 3 column 1"),
        ("{1: a, '1': b}", "repeated key '1', line 1 column 8"),
        ('{"a": {"x": 1,\n "x": 2}}', "repeated key 'x', line 2 column 2"),
        ("a: {<<: {b: 1}, <<: {c: 1}}", "repeated key '<<', line 1 column 17"),
        ("a: 1\n---\nb: 1\n", "several documents in one file, line 2 column 1"),
        ("a: 1\n---\n", "several documents in one file, line 2 column 1"),
        ("- a", "the root must be a map, got list, line 1 column 1"),
        ("just text", "the root must be a map, got text, line 1 column 1"),
        ("5", "the root must be a map, got number, line 1 column 1"),
        ("true", "the root must be a map, got boolean, line 1 column 1"),
        ("", "the root must be a map, got null, line 1 column 1"),
        ("# nothing", "the root must be a map, got null, line 1 column 1"),
        ("a: *b", "alias 'b' names nothing above, line 1 column 4"),
        ("a: &a [*a]", "alias 'a' stands inside what it names, line 1 column 8"),
        ("a: {<<: 3}", "'<<' takes a map or a list of maps, line 1 column 9"),
        ("a: {<<: [{}, 3]}", "'<<' takes a map or a list of maps, line 1 column 9"),
        ("? [a]\n: 1", "a map key must be one plain value, line 1 column 3"),
        ("a: !mine 1", "tag '!mine' is not supported here, line 1 column 4"),
        ("a: !!timestamp 2024-05-01", "tag '!!timestamp' is not supported here, li"),
        ("a: !!int x", "tag '!!int' is not supported here, line 1 column 4"),
        ("a: !!set {b}", "tag '!!set' is not supported here, line 1 column 4"),
        ("a: !!omap [b]", "tag '!!omap' is not supported here, line 1 column 4"),
        ("a: .inf", "'.inf' is no JSON number; quote it, line 1 column 4"),
        ("a: .NaN", "'.NaN' is no JSON number; quote it, line 1 column 4"),
        ("a: -1e999", "number '-1e999' is too large; quote it, line 1 column 4"),
        ("a: " + "1" * (DIGITS_MAX + 1), "a number of more than 64 digits; quote it"),
        ('a: "\\ud83d"', "half of a surrogate pair, line 1 column 4"),
        ("a: 1\nb: \x07", "character 7 is not allowed, line 2 column 4"),
        (b"a: 1\nb: \xff", "not UTF-8 text, line 2 column 4"),
        ("a: [1,\n b", "while parsing a flow sequence"),
        ("a:\n\t- b", "cannot start any token, line 2 column 1"),
        ('a: "\\UFFFFFFFF"', "line 1 column"),
        ('a: "\\U00200000"', "line 1 column"),
        ("a: 'open", "found unexpected end of stream, line 1 column 9"),
        ("#" * (SOURCE_BYTES_MAX + 1), f"longer than {SOURCE_BYTES_MAX} bytes"),
        ("#" + "ä" * (SOURCE_BYTES_MAX // 2), f"longer than {SOURCE_BYTES_MAX} bytes"),
        ("a: " + "[" * (DEPTH_MAX + 1), f"nested more than {DEPTH_MAX} deep, line 1"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_pb_001_one_error_with_line_and_column(text: str | bytes, problem: str) -> None:
    """PB-001."""
    with pytest.raises(SourceError) as caught:
        read(text)
    message = str(caught.value)
    assert message.startswith("Invalid YAML: ")
    assert problem in message
    assert " line " in message
    assert " column " in message
    assert caught.value.code == "playbook"


def test_nesting_up_to_the_limit_is_read() -> None:
    inner = DEPTH_MAX - 1
    assert read("a: " + "[" * inner + "]" * inner).value["a"] is not None


@pytest.mark.parametrize("merge", [False, True], ids=["aliases", "merge keys"])
def test_an_alias_bomb_is_refused_at_once(merge: bool) -> None:
    """Nine levels of nine aliases would be 387 million values."""
    lines = ["a: &a {x: lol}" if merge else "a: &a [lol, lol]"]
    for before, name in zip("abcdefgh", "bcdefghi", strict=True):
        if merge:
            members = ", ".join(f"{key}: *{before}" for key in "rstuvwxyz")
            lines.append(f"{name}: &{name} {{<<: *{before}, {members}}}")
        else:
            lines.append(f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]")
    began = time.perf_counter()
    with pytest.raises(SourceError, match="too large when written out"):
        read("\n".join(lines))
    assert time.perf_counter() - began < 1.0


def test_a_long_text_aliased_often_is_refused() -> None:
    text = f"a: &a {'x' * 100_000}\nb: [{', '.join(['*a'] * 100)}]"
    with pytest.raises(SourceError, match="too large when written out"):
        read(text)


def test_too_many_values_are_refused() -> None:
    with pytest.raises(SourceError, match=f"more than {NODES_MAX} values"):
        read("a: [" + "1," * NODES_MAX + "]")
