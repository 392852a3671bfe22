"""The tree of errors every room raises, each with a stable code.

    NoetlError
    ├── InvalidError        what was given is wrong; the same call fails again
    │   ├── RecordError         bytes in the log that are no valid append
    │   ├── PlaybookError       a document with findings
    │   ├── TemplateError       a text that cannot be evaluated
    │   ├── SettingsError       environment or options
    │   └── NotFoundError       an entity that does not exist
    │       └── ReferenceMissingError   a stored value that is gone
    ├── ConflictError       somebody else got there first
    │   └── FencedError         the lease of the shard has moved on
    ├── LostDataError       the log no longer has what it once confirmed
    ├── DamagedError        stored, but it cannot be read any more
    ├── UnavailableError    a dependency is away; the same call may succeed later
    │   ├── LogFullError        the log refuses appends until it is trimmed
    │   └── UpstreamError       a third party is away or overloaded
    ├── RefusedError        not allowed
    ├── LimitExceededError  a named limit was hit
    └── ToolError           what a tool says went wrong

Callers branch on the class, operators search for the code, and whether to retry is
read from ``retryable``, never from the text.
"""

from __future__ import annotations

from typing import ClassVar


class NoetlError(Exception):
    """Root of all errors of this product."""

    code: ClassVar[str] = "error"
    retryable: ClassVar[bool] = False


class InvalidError(NoetlError):
    """What was given is wrong; the same call fails again."""

    code = "invalid"


class RecordError(InvalidError):
    """Bytes that are no valid append; the message names the field."""

    code = "record"


class SettingsError(InvalidError):
    """Settings that cannot be used; the message names every variable at fault."""

    code = "settings"


class NotFoundError(InvalidError):
    """An entity that does not exist."""

    code = "not_found"


class ReferenceMissingError(NotFoundError):
    """A reference whose value is gone: expired, or removed with its execution."""

    code = "missing_reference"


class TemplateError(InvalidError):
    """A text that cannot be parsed or evaluated.

    Attributes:
        text: the text at fault, where one is known.
        detail: what is wrong with it.
        path: keys and indexes that lead to it in what was rendered, dotted.
    """

    code = "template"

    def __init__(self, message: str, *, text: str = "", detail: str = "") -> None:
        super().__init__(message)
        self.text = text
        self.detail = detail or message
        self.path = ""

    def __str__(self) -> str:
        message = super().__str__()
        return f"{self.path}: {message}" if self.path else message

    def under(self, key: str | int) -> None:
        """The text was found below this key or index of something larger."""
        self.path = f"{key}.{self.path}" if self.path else str(key)


class ConflictError(NoetlError):
    """Somebody else got there first."""

    code = "conflict"


class FencedError(ConflictError):
    """The lease of the shard has moved on: this owner may say nothing more."""

    code = "fenced"


class LostDataError(NoetlError):
    """The log no longer has what it once confirmed: repair it before going on."""

    code = "lost_data"


class DamagedError(NoetlError):
    """Stored, but it cannot be read any more: with another key, or not at all."""

    code = "damaged"


class UnavailableError(NoetlError):
    """A dependency is away; the same call may succeed later."""

    code = "unavailable"
    retryable = True


class LogFullError(UnavailableError):
    """The log refuses appends until it is trimmed."""

    code = "log_full"


class UpstreamError(UnavailableError):
    """A third party is away or overloaded; the same call may succeed later."""

    code = "upstream"


class RefusedError(NoetlError):
    """Not allowed."""

    code = "refused"


class LimitExceededError(NoetlError):
    """A named limit was hit.

    Attributes:
        limit: the setting's name, also the label of ``noetl_limit_hits_total``.
    """

    code = "limit"

    def __init__(self, limit: str, message: str) -> None:
        super().__init__(message)
        self.limit = limit
