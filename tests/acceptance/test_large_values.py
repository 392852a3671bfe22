"""Large values on a whole fleet: by reference, whatever their size, and never lost."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from fleet_client import Fleet, fleet, playbook

from state_builder.errors import NotFoundError

pytestmark = [pytest.mark.slow, pytest.mark.anyio]


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Fleet]:
    folder: Path = tmp_path_factory.mktemp("large")
    async with fleet(folder / "data") as found:
        yield found


async def run(found: Fleet, path: str, steps: str, **workload: Any) -> dict[str, Any]:
    """Run a playbook to its end; its execution row."""
    await found.client.register(playbook(path, steps))
    execution_id = await found.start(path, **workload)
    await found.ended([execution_id])
    rows = await found.rows(
        "SELECT status, error, result::text, workload::text FROM noetl.execution "
        "WHERE execution_id = $1",
        int(execution_id),
    )
    row = dict(rows[0])
    row["id"] = execution_id
    for name in ("result", "workload"):
        row[name] = json.loads(row[name]) if row[name] else None
    return row


async def largest_message(found: Fleet) -> int:
    """Bytes of the largest event any table holds."""
    rows = await found.rows(
        "SELECT max(length(coalesce(context::text, '')) + "
        "length(coalesce(result::text, ''))) FROM noetl.event"
    )
    return int(rows[0][0])


ROWS_5_MB = (
    "{kind: python, code: \"result = {'rows': [{'id': i, 'text': 'x' * 90} "
    "for i in range(45000)], 'n': 45000}\"}"
)


async def test_a_result_of_5_mb_is_read_like_any_other(running: Fleet) -> None:
    """PB-341, PB-344, RT-EVT-16, RT-EVT-17: in conditions, inputs, sets and results."""
    row = await run(
        running,
        "large/result",
        f"""
  - step: start
    tool: {ROWS_5_MB}
    set: {{last: "{{{{ start.rows[-1].id }}}}", n: "{{{{ start.n }}}}"}}
    next:
      arcs:
        - {{step: wrong, when: "{{{{ start.rows | length < 45000 }}}}"}}
        - {{step: use, when: "{{{{ start.rows[44999].text | length == 90 }}}}"}}
  - {{step: wrong, tool: {{kind: noop}}}}
  - step: use
    tool:
      kind: python
      input:
        rows: "{{{{ start.rows }}}}"
        first: "{{{{ start.rows[0].id }}}}"
        ref: "{{{{ start._ref }}}}"
      code: "result = [len(rows), sum(r['id'] for r in rows), first, ref[:8]]"
    next: end
  - step: end
    tool:
      kind: noop
      result: ["{{{{ use }}}}", "{{{{ ctx.last }}}}", "{{{{ ctx.n }}}}"]
""",
    )
    assert row["status"] == "COMPLETED", row["error"]
    assert row["result"] == [[45000, 1012477500, 0, "noetl://"], 44999, 45000]
    assert await largest_message(running) < 700_000


async def test_a_workload_of_5_mb_starts_and_is_read(running: Fleet) -> None:
    """RT-LIM-2, RT-LIM-1: stored before the genesis, whole for whoever reads it."""
    items = [{"id": number, "pad": "y" * 100} for number in range(40_000)]
    row = await run(
        running,
        "large/workload",
        """
  - step: start
    tool: {kind: noop, result: "{{ workload['items'] | length }}"}
    next: code
  - step: code
    tool:
      kind: python
      code: "result = [len(workload['items']), workload['items'][-1]['id']]"
    next: end
  - {step: end, tool: {kind: noop, result: ["{{ start }}", "{{ code }}", "{{ workload.n }}"]}}
""",
        items=items,
    )
    assert row["status"] == "COMPLETED", row["error"]
    assert row["result"] == [40_000, [40_000, 39_999], 3]
    assert row["workload"]["kind"] == "result_ref"
    assert await largest_message(running) < 700_000


async def test_a_loop_over_10_000_large_items_stays_small(running: Fleet) -> None:
    """RT-LIM-4, TL-OS-06: collection, items and aggregate by reference."""
    row = await run(
        running,
        "large/loop",
        """
  - step: start
    tool:
      kind: python
      code: "result = [{'id': i, 'pad': 'z' * 1000} for i in range(workload['count'])]"
    next: each
  - step: each
    loop: {in: "{{ start }}", iterator: item, spec: {mode: parallel, max_in_flight: 200}}
    tool: {kind: noop, result: {id: "{{ item.id }}", pad: "{{ item.pad }}"}}
    next: end
  - step: end
    tool:
      kind: python
      input: {found: "{{ each.results }}", total: "{{ each.stats.completed }}"}
      code: "result = [len(found), sum(r['id'] for r in found), total]"
""",
        count=10_000,
    )
    assert row["status"] == "COMPLETED", row["error"]
    assert row["result"] == [10_000, 49_995_000, 10_000]
    assert await largest_message(running) < 700_000


async def test_large_elements_are_stored_one_by_one(running: Fleet) -> None:
    """TL-OS-06: the aggregate is a manifest; its elements are found again."""
    row = await run(
        running,
        "large/elements",
        """
  - step: start
    loop: {in: [1, 2, 3], iterator: i, spec: {mode: parallel}}
    tool: {kind: python, input: {i: "{{ i }}"}, code: "result = {'i': i, 'pad': 'p' * 300000}"}
    next:
      arcs: [{step: end, when: "{{ start.stats.completed == 3 }}"}]
  - step: end
    tool:
      kind: noop
      result: ["{{ start.results[2].i }}", "{{ start.results | map(attribute='pad') | map('length') | list }}"]
""",
    )
    assert row["status"] == "COMPLETED", row["error"]
    assert row["result"] == [3, [300_000] * 3]
    assert await largest_message(running) < 700_000


async def test_a_large_end_is_told_by_reference(running: Fleet) -> None:
    """RT-EVT-16: the execution's own result, and a child's for its parent."""
    await running.client.register(
        playbook("large/child", f"  - {{step: start, tool: {ROWS_5_MB}}}\n")
    )
    row = await run(
        running,
        "large/parent",
        """
  - step: start
    tool: {kind: playbook, path: large/child}
    next: end
  - step: end
    tool: {kind: noop, result: ["{{ start.n }}", "{{ start.rows | length }}", "{{ start.status }}"]}
""",
    )
    assert row["status"] == "COMPLETED", row["error"]
    assert row["result"] == [45000, 45000, "COMPLETED"]
    rows = await running.rows(
        "SELECT result::text FROM noetl.execution WHERE path = 'large/child'"
    )
    assert json.loads(rows[0][0])["n"] == 45000
    assert await largest_message(running) < 700_000


async def test_what_a_step_stored_is_listed_and_read_over_http(running: Fleet) -> None:
    """RT-RES-2, RT-RES-3, RT-RES-5: the rows of the log are the list."""
    row = await run(
        running, "large/listed", f"  - {{step: start, tool: {ROWS_5_MB}}}\n"
    )
    put: Any = await running.client.request(
        "PUT", f"/api/result/{row['id']}", {"name": "mine", "data": {"b": 1}}
    )
    listed: Any = await running.client.request("GET", f"/api/result/{row['id']}/list")
    refs = {one["name"]: one["ref"] for one in listed["refs"]}
    assert set(refs) == {"mine", "start"} and refs["mine"] == put["ref"]
    for ref, key in ((refs["start"], "n"), (refs["mine"], "b")):
        found: Any = await running.client.request(
            "GET", "/api/result/resolve", query={"ref": ref}
        )
        assert found[key] in (1, 45000)
    of_step: Any = await running.client.request("GET", f"/api/result/{row['id']}/start")
    assert len(of_step["rows"]) == 45000


async def test_a_reference_to_nothing_is_told_so(running: Fleet) -> None:
    """RT-RES-2, TL-RR-54: 404, and what is there is still read."""
    gone = "noetl://default/default/results/1/x/1/0/1@gone"
    row = await run(
        running,
        "large/gone",
        f"""
  - step: start
    tool: {ROWS_5_MB}
    next: use
  - step: use
    tool:
      kind: python
      input: {{rows: "{{{{ start.rows }}}}"}}
      code: "result = len(rows)"
    next:
      arcs: [{{step: end, when: "{{{{ use == 45000 }}}}"}}]
  - {{step: end, tool: {{kind: noop, result: "{{{{ start._ref }}}}"}}}}
""",
    )
    assert row["status"] == "COMPLETED", row["error"]
    with pytest.raises(NotFoundError, match="gone"):
        await running.client.request("GET", "/api/result/resolve", query={"ref": gone})


async def test_a_reference_to_nothing_fails_its_step(running: Fleet) -> None:
    """TL-AR-03: kind missing_reference."""
    ref = "noetl://default/default/artifacts/1/none@0"
    steps = f"  - step: start\n    tool: {{kind: artifact, uri: '{ref}'}}\n"
    row = await run(running, "t/artifact_gone", steps)
    assert row["status"] == "FAILED"
    assert "nothing is stored at" in str(row["error"])


async def test_what_was_got_by_reference_is_read_as_ever(running: Fleet) -> None:
    """TL-AR-02, TL-AR-03, TL-AR-04, TL-OS-05: through the fleet's own store."""
    row = await run(
        running,
        "t/artifacts_read",
        f"""\
  - step: start
    tool: {ROWS_5_MB}
    next: load
  - step: load
    tool: {{kind: artifact, result_ref: "{{{{ start._ref }}}}"}}
    next: keep
  - step: keep
    tool: {{kind: artifact, action: put, name: note, data: {{n: 7}}}}
    next: again
  - step: again
    tool: {{kind: result_fetch, ref: "{{{{ keep.ref }}}}"}}
    next: end
  - step: end
    tool: {{kind: noop, result: {{n: "{{{{ load.n }}}}", last: "{{{{ load.rows[44999].id }}}}", note: "{{{{ again.n }}}}"}}}}
""",
    )
    assert (row["status"], row["result"]) == (
        "COMPLETED",
        {"n": 45000, "last": 44999, "note": 7},
    )


TABLE = """
  - step: start
    tool:
      kind: postgres
      connection_string: "{{ workload.dsn }}"
      query: >-
        SELECT i AS id, (i / 3.0)::numeric(10, 4) AS amount, i / 2.0::float8 AS half,
        '2026-01-02 03:04:05.678+00'::timestamptz + i * interval '1 day' AS at,
        CASE WHEN i % 2 = 0 THEN 'even' END AS note,
        jsonb_build_object('k', i, 'l', jsonb_build_array(1, 2.5, null)) AS doc,
        to_jsonb(CASE WHEN i % 2 = 0 THEN i::text ELSE repeat('x', i % 5) END) AS some
        FROM generate_series(1, {{ workload.n }}) AS i
    next: code
  - step: code
    tool:
      kind: python
      input: {rows: "{{ start.rows }}"}
      code: "result = [rows[:3], [type(value).__name__ for value in rows[2].values()]]"
    next: end
  - step: end
    tool:
      kind: noop
      result: ["{{ start.rows[:3] }}", "{{ code }}", "{{ start.columns }}", "{{ start.rows[0].doc.l[1] }}", "{{ start.row_count }}", "{{ start._ref is defined }}"]
"""


async def test_rows_are_the_same_however_many_there_are(running: Fleet) -> None:
    """TL-RR-51, PB-344: stored by columns, and nobody sees a difference."""
    few = await run(running, "large/table", TABLE, n=3)
    many = await run(running, "large/table", TABLE, n=3000)
    assert (few["status"], many["status"]) == ("COMPLETED", "COMPLETED")
    *same, few_count, few_stored = few["result"]
    assert same == many["result"][:-2]
    assert same[1][1] == ["int", "str", "float", "str", "NoneType", "dict", "str"]
    assert (few_count, few_stored) == (3, False)
    assert many["result"][-2:] == [3000, True]
    kinds = await running.rows(
        "SELECT result #>> '{reference,meta,media_type}' FROM noetl.event "
        "WHERE execution_id = $1 AND event_type = 'call.done' AND node_name = 'start'",
        int(many["id"]),
    )
    assert [row[0] for row in kinds] == ["application/vnd.apache.arrow.file"]
    stored: Any = await running.client.request("GET", f"/api/result/{many['id']}/start")
    assert stored["rows"][:3] == same[0] and len(stored["rows"]) == 3000


async def test_a_run_with_stored_values_is_decided_again(running: Fleet) -> None:
    """RT-DRV-4, RT-EVT-17: `noetl replay` gets from the server what was fetched."""
    row = await run(
        running,
        "large/replayed",
        f"""
  - step: start
    tool: {ROWS_5_MB}
    next: {{arcs: [{{step: each, when: "{{{{ start.rows[44999].id == 44999 }}}}"}}]}}
  - step: each
    loop: {{in: "{{{{ start.rows[:300] }}}}", iterator: row, spec: {{mode: parallel}}}}
    tool: {{kind: noop, result: "{{{{ row }}}}"}}
""",
    )
    assert row["status"] == "COMPLETED", row["error"]
    command = [sys.executable, "-m", "noetl_worker", "replay", row["id"]]
    command += ["--server", running.stack.server_url]
    done = await anyio.run_process(command, check=False)
    told = done.stdout.decode()
    assert done.returncode == 0, told + done.stderr.decode()
    assert "DIFFERS" not in told and "need stored values" not in told
