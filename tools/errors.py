"""What a tool says went wrong, by the taxonomy of TL-ERR-01."""

from __future__ import annotations

from state_builder.errors import NoetlError
from state_builder.records import JSON, ToolFailure

KINDS = frozenset(
    (
        *("not_found", "configuration", "template", "auth", "rate_limit"),
        *("client_error", "server_error", "timeout", "connection", "db_error"),
        *("db_connection", "db_deadlock", "db_constraint", "db_timeout", "process"),
        *("exception", "script", "io", "json", "missing_reference", "limit"),
        *("cancelled", "max_iterations", "child_failed", "unknown"),
    )
)
"""Every kind of tool error there is (TL-ERR-01)."""


class ToolCallError(NoetlError):
    """A call that failed; policies decide by its ``failure``.

    Attributes:
        failure: the error object of TL-OUT-02.
        data: what there is of a result (an http response, the output of a process).
        form: how later texts read ``data``.
        helpers: as of :class:`tools.contract.ToolResult`.
    """

    code = "tool"

    def __init__(
        self,
        failure: ToolFailure,
        *,
        data: JSON = None,
        form: str = "plain",
        helpers: dict[str, JSON] | None = None,
    ) -> None:
        super().__init__(failure.message)
        assert failure.kind in KINDS, failure.kind
        self.failure = failure
        self.data = data
        self.form = form
        self.helpers = helpers or {}


def configuration(message: str) -> ToolCallError:
    """A configuration that cannot run, whatever is tried (TL-ERR-01)."""
    return ToolCallError(ToolFailure(kind="configuration", message=message))
