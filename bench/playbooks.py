"""The playbooks the workloads run, as text."""

from __future__ import annotations

CHAIN = 10
"""Steps of the usual chain."""

_TOOLS = {
    "noop": "{kind: noop}",
    "python": '{kind: python, code: "result = 1"}',
    "http": '{kind: http, url: "{{ workload.url }}"}',
}


def chain(kind: str, length: int = CHAIN, *, name: str = "", pool: str = "") -> str:
    """Chained steps that all run the same tool."""
    steps = []
    for number in range(length):
        step = "start" if number == 0 else f"s{number}"
        following = f", next: s{number + 1}" if number < length - 1 else ""
        steps.append(f"  - {{step: {step}, tool: {_TOOLS[kind]}{following}}}")
    return _document(name or f"chain_{kind}", steps, pool=pool)


def fan(width: int, window: int | None = None) -> str:
    """A parallel loop and a reduce step."""
    spec = "mode: parallel" + (f", max_in_flight: {window}" if window else "")
    return _document(
        f"fan_{width}",
        [
            "  - step: start",
            f"    loop: {{in: '{{{{ range({width}) }}}}', iterator: n, spec: {{{spec}}}}}",
            "    tool: {kind: noop, result: '{{ n }}'}",
            "    next: reduce",
            "  - {step: reduce, tool: {kind: noop, result: '{{ start.results | sum }}'}}",
        ],
    )


def long() -> str:
    """Two hundred lines with pipelines, rules, variables and guarded arcs."""
    steps = [
        f"""  - step: {"start" if number == 0 else f"s{number}"}
    tool:
      - name: get
        kind: http
        url: "{{{{ api }}}}/items"
        params: {{offset: "{{{{ ctx.offset }}}}", limit: "{{{{ size }}}}"}}
        spec:
          policy:
            rules:
              - {{when: "{{{{ output.error.retryable }}}}", then: {{do: retry}}}}
              - {{when: "{{{{ output.status == 'error' }}}}", then: {{do: fail}}}}
    set: {{ctx.total: "{{{{ (ctx.total | int) + 1 }}}}"}}
    next:
      spec: {{mode: exclusive}}
      arcs:
        - {{step: s{number + 1}, when: "{{{{ ctx.total < 5 }}}}"}}
"""
        for number in range(13)
    ]
    return _document("long", [*steps, "  - {step: s13, tool: {kind: noop}}"])


def waiting(name: str, seconds: float) -> str:
    """One step of a pool nobody serves, until the execution's own time is over."""
    head = (
        f"executor: {{spec: {{policy: {{limits: {{max_duration_s: {seconds:g}}}}}}}}}\n"
    )
    steps = ["  - {step: start, tool: {kind: noop}, spec: {pool: nobody}}"]
    return _document(name, steps, head=head)


def pipe() -> str:
    """Claim 20 rows a frame, four frames at once; an HTTP call and a row for each."""
    return _document(
        "pipe",
        [
            "  - step: start",
            "    loop:",
            "      iterator: row",
            "      cursor:",
            "        kind: postgres",
            '        connection_string: "{{ workload.database }}"',
            "        claim: |",
            "          UPDATE pipe_in SET taken = true WHERE id IN (",
            "            SELECT id FROM pipe_in WHERE NOT taken ORDER BY id",
            "            LIMIT {{ __frame_max_rows }} FOR UPDATE SKIP LOCKED",
            "          ) RETURNING id",
            "      spec:",
            "        mode: cursor",
            "        max_in_flight: 4",
            "        frame: {max_rows: 20, row_concurrency: 20}",
            "    tool:",
            '      - {name: get, kind: http, url: "{{ workload.url }}"}',
            "      - name: put",
            "        kind: postgres",
            '        connection_string: "{{ workload.database }}"',
            '        params: ["{{ row.id }}", "{{ get.body.value }}"]',
            "        query: INSERT INTO pipe_out (id, value) VALUES ($1, $2)",
        ],
    )


def _document(name: str, steps: list[str], *, pool: str = "", head: str = "") -> str:
    where = f", execution_pool: {pool}" if pool else ""
    return (
        "apiVersion: noetl.io/v2\nkind: Playbook\n"
        f"metadata: {{name: bench_{name}, path: bench/{name}{where}}}\n{head}workflow:\n"
        + "\n".join(steps)
        + "\n"
    )
