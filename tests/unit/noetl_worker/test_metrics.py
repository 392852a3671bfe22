"""Metrics are declared, start at zero, and are the only ones there are (RT-OBS-3)."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from noetl_worker.metrics import METRICS, Metric, PrometheusObserver

ROOT = Path(__file__).parents[3]
METHODS = {"count": {"counter"}, "gauge": {"gauge"}, "time": {"seconds", "sizes"}}


def uses() -> Iterator[tuple[str, str, set[str | None], str]]:
    """Every observer call in our code: method, metric, labels, where."""
    for package in ("noetl_worker", "materializer", "tools"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if not isinstance(node, ast.Call) or not node.args:
                    continue
                called, first = node.func, node.args[0]
                method = getattr(called, "attr", getattr(called, "id", ""))
                if (
                    method in METHODS
                    and isinstance(first, ast.Constant)
                    and isinstance(first.value, str)
                    and first.value.startswith("noetl_")
                ):
                    words = {word.arg for word in node.keywords} - {"amount"}
                    where = f"{path.relative_to(ROOT)}:{node.lineno}"
                    yield method, first.value, words, where


def test_every_metric_we_count_is_declared_with_its_labels() -> None:
    declared = {metric.name: metric for metric in METRICS}
    found = list(uses())
    assert len(found) > 20
    for method, name, labels, where in found:
        assert name in declared, f"{where}: {name} is not declared"
        metric = declared[name]
        assert metric.kind in METHODS[method], f"{where}: {name} is a {metric.kind}"
        known = {label.partition("=")[0] for label in metric.labels}
        # ``**labels`` cannot be read here; the observer checks them when counting.
        assert None in labels or labels == known, f"{where}: {name} takes {known}"


def test_no_metric_is_declared_that_nobody_counts() -> None:
    """RT-OBS-3."""
    used = {name for _, name, _, _ in uses()}
    assert {metric.name for metric in METRICS} - used == set()


def test_no_label_is_an_id() -> None:
    """RT-OBS-1."""
    names = {label.partition("=")[0] for metric in METRICS for label in metric.labels}
    assert not {name for name in names if name.endswith("_id")}


def test_known_series_start_at_zero() -> None:
    page = PrometheusObserver().page().decode()
    assert 'noetl_execute_outcomes_total{entry="batch",outcome="started"} 0.0' in page
    assert "noetl_bus_reconnects_total 0.0" in page


def test_counting_setting_and_timing_show_on_the_page() -> None:
    observer = PrometheusObserver(
        (
            Metric("hits_total", "counter", "hits", ("kind=a,b",)),
            Metric("level", "gauge", "level"),
            Metric("wait_seconds", "seconds", "wait"),
        ),
        version="1.2.3",
    )
    for _ in range(3):
        observer.count("hits_total", kind="a")
    observer.count("hits_total", 2.5, kind="b")
    observer.gauge("level", 4.0)
    observer.time("wait_seconds", 0.02)
    page = observer.page().decode()
    assert 'hits_total{kind="a"} 3.0' in page
    assert 'hits_total{kind="b"} 2.5' in page
    assert "level 4.0" in page
    assert 'wait_seconds_bucket{le="0.025"} 1.0' in page
    assert 'noetl_build_info{version="1.2.3"} 1.0' in page


def test_a_metric_nobody_declared_is_an_error_with_its_name() -> None:
    observer = PrometheusObserver()
    with pytest.raises(KeyError, match="noetl_typo_total"):
        observer.count("noetl_typo_total")
    with pytest.raises(ValueError, match="declared twice"):
        PrometheusObserver((Metric("a", "gauge", "a"), Metric("a", "gauge", "a")))
