"""What a name stands for: a record, an entry of the playbook's keychain, a variable.

The order is SC-AL-02. An entry may read the entries before it in its own playbook, so
there are no cycles; a child may read its ancestors' (SC-AL-03).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final, cast

from noetl_worker.wallet.circumstances import Ancestor, Circumstances, Executions
from noetl_worker.wallet.credentials import Records
from noetl_worker.wallet.entries import Entries, Wanted
from noetl_worker.wallet.keychain import SCOPES, Definition, cache_key
from noetl_worker.wallet.minting import Grant, Mint, Minted, bearer, grant_of
from noetl_worker.wallet.providers import Providers, SecretRef, SecretValue
from noetl_worker.wallet.residency import denied, residency_decision
from state_builder.credentials import Asker, Credential, Keychain, Place, Want
from state_builder.errors import InvalidError, NotFoundError, TemplateError
from state_builder.ports import Clock, Observer
from state_builder.records import JSON
from state_builder.sealed import KeychainRow
from state_builder.template import Scope, render

PROVIDER_KEEP_S: Final = 600.0
"""Most a provider's value is kept (SC-CA-01)."""

ENTRIES_READ_MAX: Final = 64
"""Other entries one entry may read."""

_UNKNOWN_TIME: Final = datetime.fromtimestamp(0, UTC)


@dataclass(frozen=True, kw_only=True)
class Found:
    """A credential, and how the trail calls the way it was found."""

    credential: Credential
    operation: str = "get_credential"
    notes: str = ""


@dataclass(frozen=True, kw_only=True)
class Sources:
    """Where values come from.

    Attributes:
        seeded: variables of NOETL_KEYCHAIN_ENV_VARS (SC-AL-04).
        region: where this server stands.
    """

    records: Records
    entries: Entries
    executions: Executions
    providers: Providers
    mint: Mint
    clock: Clock
    observer: Observer
    seeded: Mapping[str, str]
    region: str = ""


@dataclass(frozen=True)
class _Run:
    """The playbook an entry belongs to, and the execution that runs it."""

    asker: Asker
    about: Circumstances
    owner: Ancestor
    section: dict[str, Definition]


class Resolver:
    """Finds what a name stands for."""

    def __init__(self, sources: Sources) -> None:
        self._from = sources

    async def find(self, name: str, asker: Asker, want: Want) -> Found:
        """Raises as :class:`state_builder.credentials.Wallet` does."""
        if want == "token":
            return await self._token(name, asker)
        found = None
        if want == "entry":
            found = await self._entry(name, asker)
        found = found or await self._record(name)
        if found is None and want == "credential":
            found = await self._entry(name, asker)
        found = found or await self._given(name, asker) or self._seed(name)
        if found is None:
            raise NotFoundError(
                f"'{name[:128]}' is neither a stored credential nor an entry of the "
                "playbook's keychain; add it with noetl credential add"
            )
        return found

    async def _token(self, name: str, asker: Asker) -> Found:
        """A bearer token got with what the name stands for, kept until its end."""
        found = await self.find(name, asker, "credential")
        credential = found.credential
        token = credential.reveal().get("access_token")
        if isinstance(token, str):
            return found
        minted = await self._from.mint.token(credential, fresh=asker.fresh)
        return replace(found, credential=_credential(name, "bearer", minted))

    async def _record(self, name: str) -> Found | None:
        try:
            row = await self._from.records.find(name)
        except NotFoundError:
            return None
        return Found(credential=await self._from.records.open(row))

    def _seed(self, name: str) -> Found | None:
        value = self._from.seeded.get(name)
        if value is None:
            return None
        fields: dict[str, JSON] = {"secret": value, "value": value}
        return Found(credential=Credential(name, "secret", fields), notes="environment")

    async def _entry(self, name: str, asker: Asker) -> Found | None:
        """An entry of the executing playbook, or of those that called it."""
        if not asker.execution_id:
            return None
        about = await self._from.executions.about(asker)
        for depth, owner in enumerate(about.lineage):
            section = await self._from.executions.keychain(owner.catalog_id)
            if name not in section:
                continue
            if depth:
                above = Asker(owner.execution_id)
                about = await self._from.executions.about(above)
            return await self._resolve(
                section[name], _Run(asker, about, owner, section)
            )
        return None

    async def _given(self, name: str, asker: Asker) -> Found | None:
        """A value somebody stored for the playbook under a name it does not define,
        the nearest scope first (SC-AL-02, SC-KC-12)."""
        if not asker.execution_id:
            return None
        about = await self._from.executions.about(asker)
        for owner in about.lineage:
            for scope in SCOPES:
                eid = about.root if scope == "shared" else owner.execution_id
                key = cache_key(Place(owner.catalog_id, name, eid, scope))
                row = await self._from.entries.known(key)
                if row is not None:
                    return await self._stored(row, asker)
        return None

    async def _stored(self, row: KeychainRow, asker: Asker) -> Found:
        name, operation = row.keychain_name, "resolve_keychain"
        kept = await self._from.entries.open(row)
        if row.renew_config is None:
            assert kept is not None
            return Found(credential=kept, operation=operation, notes="cache")

        async def gone() -> Credential:
            raise NotFoundError(f"keychain '{name}' was deleted meanwhile")

        wanted = Wanted(
            row=row,
            fetch=gone,
            renew=lambda given: self._renewed(name, given),
            ttl_s=0.0,
            fresh=asker.fresh,
        )
        credential, where = await self._from.entries.get(wanted)
        return Found(credential=credential, operation=operation, notes=where)

    async def _renewed(self, name: str, given: dict[str, JSON]) -> Credential:
        """A token by the call a value was stored with (SC-KC-13)."""
        minted = await self._from.mint.grant(name, grant_of(given))
        return _credential(name, "bearer", minted)

    async def _resolve(self, entry: Definition, run: _Run) -> Found:
        """The value, cached or fetched, where it may be seen at all (SC-FL-01)."""
        sources = self._from
        decision = residency_decision(entry, sources.region)
        sources.observer.count(
            "noetl_secret_residency_check_total",
            policy=entry.residency,
            decision=decision,
        )
        if decision == "denied":
            raise denied(entry, sources.region)
        wanted = Wanted(
            row=_row(entry, run),
            fetch=lambda: self._fetch(entry, run),
            ttl_s=entry.ttl_s,
            keep_s=PROVIDER_KEEP_S if entry.kind == "secrets" else None,
            renew=lambda given: self._renewed(entry.name, given),
            auto_renew=entry.auto_renew,
            fresh=run.asker.fresh,
        )
        credential, where = await sources.entries.get(wanted)
        notes = where if decision != "violation_allowed" else f"{where}; advisory"
        return Found(credential=credential, operation="resolve_keychain", notes=notes)

    async def _fetch(self, entry: Definition, run: _Run) -> Credential:
        if entry.kind == "secrets":
            return await self._from_provider(entry, run)
        if entry.kind == "credential":
            name = str(await self._rendered(entry.credential or entry.ref, entry, run))
            found = await self._record(name)
            if found is None:
                raise NotFoundError(
                    f"keychain '{entry.name}': credential '{name[:128]}' is not known"
                )
            return _renamed(entry, found.credential)
        if entry.kind == "static":
            values = await self._rendered(dict(entry.map), entry, run)
            fields = cast("dict[str, JSON]", values)
            return Credential(entry.name, entry.type or "secret", fields)
        return _credential(entry.name, "bearer", await self._minted(entry, run))

    async def _minted(self, entry: Definition, run: _Run) -> Minted:
        if entry.kind == "bearer":
            return bearer(str(await self._rendered(entry.token, entry, run) or ""))
        if entry.kind == "oauth2":
            texts: dict[str, JSON] = {
                "endpoint": entry.endpoint,
                "headers": dict(entry.headers),
                "data": dict(entry.data),
            }
            given = cast("dict[str, JSON]", await self._rendered(texts, entry, run))
            headers = cast("dict[str, JSON]", given["headers"])
            grant = Grant(
                str(given["endpoint"]),
                cast("dict[str, JSON]", given["data"]),
                entry.method.upper(),
                {name: str(value) for name, value in headers.items()},
                entry.token_field,
                entry.ttl_field,
            )
            return await self._from.mint.grant(entry.name, grant)
        audience = str(await self._rendered(entry.target_audience, entry, run))
        account = await self._service_account(entry, run)
        return await self._from.mint.google(entry.name, account, audience=audience)

    async def _service_account(self, entry: Definition, run: _Run) -> dict[str, JSON]:
        """Of a google_id_token: stored here, or at a provider (SC-KC-05)."""
        if entry.service_account_credential:
            name = entry.service_account_credential
            found = await self._record(str(await self._rendered(name, entry, run)))
            if found is None:
                raise NotFoundError(
                    f"keychain '{entry.name}': its service account is not known"
                )
            return found.credential.reveal()
        ref = await self._rendered(entry.service_account_secret, entry, run)
        if not ref:
            raise InvalidError(
                f"keychain '{entry.name}': give service_account_credential or "
                "service_account_secret"
            )
        value = await self._ask(entry, str(ref))
        return {"service_account_json": value.value}

    async def _from_provider(self, entry: Definition, run: _Run) -> Credential:
        """All refs of the bundle; its end is the earliest (SC-KC-02)."""
        refs: dict[str, JSON] = dict(entry.map) or {"value": entry.key or entry.name}
        rendered = cast("dict[str, JSON]", await self._rendered(refs, entry, run))
        fields: dict[str, JSON] = {}
        ends: list[float] = []
        for name, ref in rendered.items():
            value = await self._ask(entry, str(ref))
            fields[name] = value.value
            if value.expires_at is not None:
                ends.append(value.expires_at)
        end = min(ends, default=None)
        if end is not None:
            self._from.observer.time(
                "noetl_secret_dynamic_ttl_seconds", end - self._from.clock.now()
            )
        return Credential(entry.name, entry.type or "secret", fields, expires_at=end)

    async def _ask(self, entry: Definition, ref: str) -> SecretValue:
        token = version = ""
        if entry.auth:
            row = await self._from.records.find(entry.auth)
            credential = await self._from.records.open(row)
            minted = await self._from.mint.token(credential)
            token, version = str(minted.fields["token"]), credential.version
        version_text = "" if entry.version is None else str(entry.version)
        return await self._from.providers.fetch(
            entry.provider,
            SecretRef(ref, entry.project, version_text, entry.region),
            token=token,
            version=version,
        )

    async def _rendered(self, value: JSON, entry: Definition, run: _Run) -> JSON:
        """Texts of a definition against the workload and the entries before it."""
        keychain = Keychain()
        scope = Scope(
            execution_id=run.about.lineage[0].execution_id,
            workload=run.about.workload,
            keychain=keychain,
        )
        for _ in range(ENTRIES_READ_MAX):
            try:
                return render(value, scope)
            except TemplateError as error:
                name, keychain.wanted = keychain.wanted, None
                if name is None:
                    raise TemplateError(f"keychain '{entry.name}': {error}") from error
            earlier = run.section.get(name)
            if earlier is None or earlier.order >= entry.order:
                raise InvalidError(
                    f"keychain '{entry.name}' reads '{name}', which is not an entry "
                    "before it"
                )
            found = await self._resolve(earlier, run)
            keychain.put(name, found.credential.reveal())
        raise InvalidError(f"keychain '{entry.name}' reads too many other entries")


def _row(entry: Definition, run: _Run) -> KeychainRow:
    """Where the entry's value is kept."""
    eid = run.owner.execution_id
    if entry.scope == "shared":
        eid = run.about.root
    place = Place(run.owner.catalog_id, entry.name, eid, entry.scope)
    return KeychainRow(
        cache_key=cache_key(place),
        keychain_name=entry.name,
        catalog_id=run.owner.catalog_id,
        scope_type=entry.scope,
        data_encrypted="",
        created_at=_UNKNOWN_TIME,
        cache_type="token" if entry.kind in ("oauth2", "google_id_token") else "secret",
        execution_id="" if entry.scope == "global" else eid,
    )


def _credential(name: str, kind: str, minted: Minted) -> Credential:
    return Credential(name, kind, minted.fields, expires_at=minted.expires_at)


def _renamed(entry: Definition, credential: Credential) -> Credential:
    return Credential(
        entry.name,
        entry.type or credential.type,
        credential.reveal(),
        version=credential.version,
    )
