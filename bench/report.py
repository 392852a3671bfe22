"""Figures beside what they should be."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from rich.console import Console
from rich.table import Table

_UNDER = "≤"
_OVER = "≥"


class Target(NamedTuple):
    """What a figure should be; ``figure`` is its path in the results."""

    figure: str
    says: str
    sign: str
    value: float
    unit: str


TARGETS: Final = tuple(
    Target(*row)
    for row in (
        ("start.first_s", "noetl dev in an empty folder", _UNDER, 10, "s"),
        ("start.second_s", "noetl dev again", _UNDER, 5, "s"),
        (
            "w1.p50_ms",
            "10 chained steps, one execution at a time, p50",
            _UNDER,
            12,
            "ms",
        ),
        ("w1.p99_ms", "the same, p99", _UNDER, 30, "ms"),
        ("w2.steps_per_s", "500 such executions at once", _OVER, 4000, "steps/s"),
        ("w2.messages_per_step", "messages in the log", _UNDER, 2.3, "per step"),
        ("w2_python.steps_per_s", "the same with python", _OVER, 2000, "steps/s"),
        ("w2_http.steps_per_s", "the same with http", _OVER, 800, "calls/s"),
        ("w3.seconds", "parallel loop of 1,000 and a reduce", _UNDER, 0.4, "s"),
        ("w4.seconds", "owner starts on 100,000 events", _UNDER, 3, "s"),
        ("w4.rss_mb", "its memory", _UNDER, 200, "MB"),
        ("result.put_get_mb_per_s", "100 MiB stored and read", _OVER, 150, "MB/s"),
        ("transfer.rows_per_s", "postgres to postgres", _OVER, 150000, "rows/s"),
        ("w5.rows_per_s", "materializer starts on them", _OVER, 15000, "rows/s"),
        ("w6.seconds", "parallel loop of 10,000, 500 at once", _UNDER, 8, "s"),
        ("w7.rows_per_s", "cursor loop with an http call a row", _OVER, 600, "rows/s"),
        ("timers.waiting_mb", "1,000 executions waiting an hour", _UNDER, 20, "MB"),
        ("timers.idle_cpu_percent", "their owner's CPU", _UNDER, 2, "%"),
        ("timers.late_ms", "timer of a second, latest of 20", _UNDER, 100, "ms"),
        ("always.w1.p50_ms", "w1, every append on disk", _UNDER, 20, "ms"),
        ("always.w2.steps_per_s", "w2, every append on disk", _OVER, 1400, "steps/s"),
        ("worker.python_call_us", "a call of python", _UNDER, 1000, "µs"),
        ("worker.us_per_command", "worker without the bus", _UNDER, 80, "µs"),
        ("core.us_per_step", "decide and fold a step", _UNDER, 120, "µs"),
        (
            "core.steps_10000_vs_10",
            "a step after 10,000 and after 10",
            _UNDER,
            1.3,
            "x",
        ),
        (
            "core.iterations_100000_vs_1000",
            "an iteration of 100,000 and of 1,000",
            *(_UNDER, 1.3, "x"),
        ),
        ("core.bytes_per_iteration", "owner keeps of an iteration", _UNDER, 200, "B"),
        ("core.parse_ms", "a playbook of 200 lines parsed", _UNDER, 250, "ms"),
    )
)


def show(results: dict[str, Any]) -> None:
    """Print a table of figures, then CPU by process."""
    console = Console()
    table = Table("figure", "what", "measured", "target", "", box=None)
    for target in TARGETS:
        value = _find(results, target.figure)
        if value is None:
            continue
        met = value <= target.value if target.sign == _UNDER else value >= target.value
        table.add_row(
            target.figure,
            target.says,
            f"{value:,.{_digits(value)}f} {target.unit}",
            f"{target.sign} {target.value:,g}",
            "[green]yes" if met else f"[red]{_ratio(value, target):.2f}x",
        )
    console.print(table)
    for name, figures in results.items():
        if isinstance(figures, dict):
            _show_cpu(console, name, figures)


def _show_cpu(console: Console, name: str, figures: dict[str, Any]) -> None:
    for key, used in figures.items():
        if key.startswith("cpu_us_per_"):
            parts = ", ".join(f"{process} {us:g}" for process, us in used.items())
            console.print(
                f"{name}: CPU µs a {key.removeprefix('cpu_us_per_')}: {parts}"
            )
        elif isinstance(used, dict):
            _show_cpu(console, f"{name}.{key}", used)


def _find(results: dict[str, Any], path: str) -> float | None:
    found: Any = results
    for key in path.split("."):
        found = found.get(key) if isinstance(found, dict) else None
    return float(found) if found is not None else None


def _digits(value: float) -> int:
    return 0 if value >= 100 else 2


def _ratio(value: float, target: Target) -> float:
    """How many times the work it should be."""
    worse = value / target.value
    return worse if target.sign == _UNDER else 1 / worse
