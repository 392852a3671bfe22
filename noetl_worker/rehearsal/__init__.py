"""Executions without a fleet: playbooks rehearsed before, runs replayed after.

``world`` runs playbooks in memory on the shipped parser, fold, drive and pipeline;
``rehearse`` runs the cases of a file on it; ``replay`` folds a transcript again and
holds every recorded decision against what this build decides. Nothing here touches a
broker, a database, a socket or a clock; who calls it reads the files.

May import: the core, ``tools.pipeline`` and the noop kind. Files, terminals and servers
are the command line's.
"""

from __future__ import annotations

from noetl_worker.rehearsal.cases import (
    CASES_SUFFIX,
    Case,
    CaseError,
    cases_file,
    read_cases,
)
from noetl_worker.rehearsal.rehearse import Rehearsal, rehearse
from noetl_worker.rehearsal.replay import Checked, Folded, Replay
from noetl_worker.rehearsal.trace import plain_words
from noetl_worker.rehearsal.transcribe import transcribe
from noetl_worker.rehearsal.view import arcs_view, event_view, pass_view, state_view
from noetl_worker.rehearsal.world import World

__all__ = [
    "CASES_SUFFIX",
    "Case",
    "CaseError",
    "Checked",
    "Folded",
    "Rehearsal",
    "Replay",
    "World",
    "arcs_view",
    "cases_file",
    "event_view",
    "pass_view",
    "plain_words",
    "read_cases",
    "rehearse",
    "state_view",
    "transcribe",
]
