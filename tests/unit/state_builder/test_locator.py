"""Names of stored values: what is read is what was written, and nothing else passes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from state_builder.errors import InvalidError
from state_builder.ids import snowflake
from state_builder.locator import (
    KeyRoot,
    LegacyLocator,
    Locator,
    ResultPlace,
    data_locator,
    key_shard,
    object_key,
    parse,
    place_of,
    result_locator,
    result_place,
)

EID = str(snowflake(1_790_000_000_000, 1, 1))
SEGMENTS = st.text(min_size=1, max_size=12).filter(
    lambda text: (
        text not in (".", "..")
        and all(ord(letter) > 31 and ord(letter) != 127 for letter in text)
        and text.isprintable()
    )
)


@given(SEGMENTS, st.integers(0, 99), SEGMENTS)
def test_a_reference_survives_its_text(step: str, number: int, version: str) -> None:
    """TL-RR-10, TL-RR-11: parts are percent-encoded."""
    place = ResultPlace(EID, step, "1", str(number), "1")
    locator = result_locator(place, version)
    found = parse(str(locator))
    assert found == locator
    assert isinstance(found, Locator) and result_place(found) == place


def test_a_step_may_hold_a_slash() -> None:
    """TL-RR-10: attempt, row and frame are read from the right."""
    found = parse(f"noetl://acme/shop/results/{EID}/load/orders/2/7/1")
    assert isinstance(found, Locator)
    assert found.tenant == "acme" and found.project == "shop"
    assert result_place(found) == ResultPlace(EID, "load/orders", "2", "7", "1")


def test_the_older_form_is_read() -> None:
    """TL-RR-10, RT-RES-1: a name may hold slashes, the last part is the id."""
    text = f"noetl://execution/{EID}/result/a/b%20c/42"
    found = parse(text)
    assert found == LegacyLocator(EID, "a/b c", "42")
    assert str(found) == text


@pytest.mark.parametrize(
    "text",
    [
        *("", "s3://bucket/key", "noetl://", "noetl://a/b/c", "noetl://a//b/c/d"),
        *("noetl://a/b/results/../x", "noetl://a/b/results/%2E%2E/x/1/1/1"),
        *("noetl://a/b/c/d%00", "noetl://a/b/c/d%0A", "noetl://execution/1/result/x"),
        *("noetl://execution/abc/result/n/1", "noetl://execution/1/result/n/x"),
        "noetl://execution/1/results/n/1",
    ],
)
def test_what_names_nothing_is_refused(text: str) -> None:
    """TL-RR-10, TL-RR-11: and no tenant may be called ``execution``."""
    with pytest.raises(InvalidError):
        parse(text)


@pytest.mark.parametrize(
    ("iteration", "frame", "row"),
    [("", "3", "0"), ("17", "3", "17"), ("f2r5", "3-f2", "5"), ("f2", "3-f2", "claim")],
)
def test_every_command_has_a_place_of_its_own(
    iteration: str, frame: str, row: str
) -> None:
    """TL-RR-10: a step visited again does not overwrite what it gave before."""
    place = place_of(EID, "s", 3, iteration, 1)
    assert (place.frame, place.row, place.attempt) == (frame, row, "1")


def test_the_key_follows_from_the_reference_and_settings_alone() -> None:
    """TL-RR-12."""
    locator = result_locator(ResultPlace(EID, "load/x", "1", "0", "1"), "abc")
    key = object_key(locator, KeyRoot("prod", "eu", "c1"))
    shard = key_shard(locator)
    assert key == (
        f"noetl/env=prod/region=eu/cell=c1/shard={shard}/tenant=default/"
        f"project=default/date=2026-09-21/execution={EID}/results/load%2Fx/1/0/1@abc"
    )


def test_the_key_shard_is_fnv_1a() -> None:
    """TL-RR-12: 64 bits over tenant, project and execution, modulo 256."""
    found = 0xCBF29CE484222325
    for byte in b"default\x1fdefault\x1f7":
        found = (found ^ byte) * 0x100000001B3 % 2**64
    assert key_shard(Locator("results", ("7", "s", "1", "0", "1"))) == (
        f"s{found % 256:04d}"
    )


@given(st.text(max_size=10))
def test_any_step_name_gives_a_name_that_can_be_read(step: str) -> None:
    """TL-RR-11: what may not stand in a reference is replaced by its digest."""
    if any(0xD800 <= ord(letter) < 0xE000 for letter in step):
        return
    locator = data_locator("contexts", EID, step, b"x")
    assert parse(str(locator)) == locator


def test_only_the_result_of_a_step_has_a_place() -> None:
    """TL-RR-10: and a value of no execution has no day."""
    other = data_locator("collections", EID, "a.1", b"[]")
    with pytest.raises(InvalidError, match="names no result of a step"):
        result_place(other)
    nobodys = data_locator("collections", "", "a.1", b"[]")
    assert "/date=none/" in object_key(nobodys, KeyRoot("prod", "eu", "c1"))
