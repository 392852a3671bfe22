"""A wallet that holds what it was given: the twin of the real one, without a server."""

from __future__ import annotations

from collections.abc import Mapping

from state_builder.credentials import Asker, Credential, Want
from state_builder.errors import InvalidError, NotFoundError


class MemoryWallet:
    """The ``Wallet`` port on dictionaries.

    Attributes:
        asked: names in the order they were asked for.
    """

    def __init__(
        self,
        credentials: Mapping[str, Credential],
        entries: Mapping[str, Credential] | None = None,
    ) -> None:
        self._credentials = credentials
        self._entries = entries or {}
        self.asked: list[str] = []

    async def credential(
        self, alias: str, asker: Asker, want: Want = "credential"
    ) -> Credential:
        """The credential behind a name."""
        del asker
        self.asked.append(alias)
        first, second = self._credentials, self._entries
        if want == "entry":
            first, second = second, first
        found = first.get(alias) or second.get(alias)
        if found is None:
            raise NotFoundError(f"credential '{alias}' is not known")
        return found if want != "token" else _token(found)

    def forget(self, alias: str) -> None:
        """Nothing is kept beside what was given."""


def _token(credential: Credential) -> Credential:
    fields = credential.reveal()
    token = fields.get("access_token") or fields.get("token")
    if not isinstance(token, str):
        raise InvalidError(
            f"credential '{credential.alias}' of type {credential.type} gives no token"
        )
    return Credential(credential.alias, "bearer", {"access_token": token})
