"""Questions given ahead to warm children: none pays for another (TL-PY-03)."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from calls import call, failure

from tools.contract import ToolLimits, ToolResult
from tools.kinds.python import Python

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform != "linux", reason="nothing is given ahead there"),
]


@pytest.fixture
def limits(tmp_path: Path) -> ToolLimits:
    return ToolLimits(data_dir=str(tmp_path), python_children_max=1)


@pytest.fixture
async def python(limits: ToolLimits) -> AsyncIterator[Python]:
    tool = Python(limits)
    # One answer, and the child is known to be quick.
    await call(tool, limits, code="result = 1")
    yield tool
    await tool.close()


async def together(python: Python, limits: ToolLimits, codes: list[str]) -> list[Any]:
    """What each code gives, all of them asked at once: a result or a failure."""
    found: list[Any] = [None] * len(codes)

    async def ask(place: int, code: str) -> None:
        if code.startswith("# fails"):
            found[place] = await failure(python, limits, code=code)
        else:
            found[place] = await call(python, limits, code=code)

    async with anyio.create_task_group() as tasks:
        for place, code in enumerate(codes):
            tasks.start_soon(ask, place, code)
    return found


async def test_output_is_of_the_run_that_printed_it(
    python: Python, limits: ToolLimits
) -> None:
    """TL-PY-03, TL-PY-07: also from below Python, and more than a pipe holds."""
    codes = [
        f"import os, sys\nprint({number})\nos.write(2, b'{number}')\n"
        f"if {number} % 50 == 7: print('x' * 200_000)"
        for number in range(100)
    ]
    for number, given in enumerate(await together(python, limits, codes)):
        assert isinstance(given, ToolResult)
        more = "x" * 200_000 + "\n" if number % 50 == 7 else ""
        assert given.data == {"stdout": f"{number}\n{more}", "stderr": f"{number}"}


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("# fails\nimport os\nos._exit(3)", "process"),
        ("# fails\nraise ValueError", "exception"),
        ("import threading, time\nthreading.Thread(target=time.sleep, args=(60,))"
         ".start()\nresult = 1", ""),
    ],
    ids=["dies", "raises", "leaves a thread"],
)  # fmt: skip
async def test_those_behind_a_bad_run_are_run_once_by_others(
    python: Python, limits: ToolLimits, tmp_path: Path, code: str, kind: str
) -> None:
    """TL-PY-03: nothing is lost, nothing is done twice."""
    mark = "open({path!r}, 'a').write('{number} ')\nresult = {number}"
    path = str(tmp_path / "ran")
    codes = [mark.format(path=path, number=number) for number in range(12)]
    given = await together(python, limits, [*codes[:4], code, *codes[4:]])
    bad = given.pop(4)
    assert getattr(bad, "kind", "") == kind
    assert [one.data for one in given] == list(range(12))
    assert sorted(map(int, Path(path).read_text().split())) == list(range(12))


async def test_who_is_behind_a_slow_run_is_not_kept_by_it(limits: ToolLimits) -> None:
    """TL-LIM-05: a second child takes what the first was given ahead."""
    tool = Python(ToolLimits(data_dir=limits.data_dir, python_children_max=2))
    try:
        await together(tool, limits, ["result = 1"] * 8)
        slow = "import time\ntime.sleep(60)"
        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(lambda: call(tool, limits, code=slow))
                await anyio.lowlevel.checkpoint()
                given = await together(tool, limits, ["result = 1"] * 20)
                tasks.cancel_scope.cancel()
        assert [one.data for one in given] == [1] * 20
    finally:
        await tool.close()


async def test_cancelling_one_costs_the_others_nothing(
    python: Python, limits: ToolLimits
) -> None:
    """TL-LIM-02: one that waits is never begun; one that runs is ended alone."""
    async with anyio.create_task_group() as outer:
        for _ in range(10):
            outer.start_soon(
                lambda: call(python, limits, code="import time\nwhile 1:0")
            )
        await anyio.sleep(0)
        outer.cancel_scope.cancel()
    given = await together(python, limits, [f"result = {n}" for n in range(30)])
    assert [one.data for one in given] == list(range(30))
