"""Tokens got with a credential: OAuth 2 grants and Google's assertions (SC-TY-03)."""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as Base64Error
from collections import OrderedDict
from typing import Final, NamedTuple

import anyio
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from msgspec import DecodeError
from msgspec.json import decode as decode_json

from noetl_worker.wallet.providers import Web, WebCall
from state_builder.credentials import Credential
from state_builder.errors import InvalidError
from state_builder.ports import Clock
from state_builder.records import JSON, encode_json

Fields = dict[str, JSON]

GOOGLE_TOKEN_URI: Final = "https://oauth2.googleapis.com/token"
GOOGLE_SCOPE: Final = "https://www.googleapis.com/auth/cloud-platform"
ASSERTION_S: Final = 3600
MARGIN_S: Final = 60.0
"""A token is not used closer to its end (SC-TY-03)."""

TOKENS_MAX: Final = 1_000
LIFETIME_S: Final = 3600.0
"""Of a token whose answer gives none (SC-KC-04)."""

_JWT_GRANT: Final = "urn:ietf:params:oauth:grant-type:jwt-bearer"


class Grant(NamedTuple):
    """One call of a token endpoint (SC-KC-04)."""

    endpoint: str
    data: Fields
    method: str = "POST"
    headers: dict[str, str] = {}  # noqa: RUF012 - never written to
    token_field: str = "access_token"
    ttl_field: str = "expires_in"


class Minted(NamedTuple):
    """Fields of a token, and until when it is good (Unix seconds)."""

    fields: Fields
    expires_at: float | None


class Mint:
    """Gets tokens."""

    def __init__(self, web: Web, clock: Clock) -> None:
        self._web = web
        self._clock = clock
        self._kept: OrderedDict[str, Minted] = OrderedDict()
        self._minting: dict[str, anyio.Lock] = {}

    async def token(self, credential: Credential, *, fresh: bool = False) -> Minted:
        """A bearer token for a credential, minted once and kept in memory until a
        minute before its end; minted anew where it is to be ``fresh``.

        Raises InvalidError where the credential gives none.
        """
        key = f"{credential.alias}@{credential.version}"
        lock = self._minting.setdefault(key, anyio.Lock())
        try:
            async with lock:
                kept = self._kept.get(key)
                if fresh or kept is None or not self._is_good(kept):
                    kept = await self._token(credential)
                    self._keep(key, kept)
                return kept
        finally:
            if not lock.statistics().tasks_waiting:
                self._minting.pop(key, None)

    def _is_good(self, minted: Minted) -> bool:
        end = minted.expires_at
        return end is not None and end - MARGIN_S > self._clock.now()

    def _keep(self, key: str, minted: Minted) -> None:
        if not self._is_good(minted):
            return
        self._kept[key] = minted
        if len(self._kept) > TOKENS_MAX:
            self._kept.popitem(last=False)

    async def _token(self, credential: Credential) -> Minted:
        fields = credential.reveal()
        kind = credential.type
        if kind == "bearer":
            return bearer(text_in(fields, "token", "access_token", "bearer_token"))
        if kind in ("google_oauth", "gcs"):
            return await self.google(credential.alias, fields)
        if kind == "oauth2":
            return await self.grant(credential.alias, grant_of(fields))
        raise InvalidError(
            f"credential '{credential.alias}' of type {kind} gives no token "
            "(use bearer, oauth2, google_oauth or gcs)"
        )

    async def grant(self, who: str, grant: Grant) -> Minted:
        """What a token endpoint answers."""
        if not grant.endpoint:
            raise InvalidError(f"'{who}': endpoint is required")
        lowered = {name.lower(): value for name, value in grant.headers.items()}
        urlencoded = "urlencoded" in lowered.get("content-type", "urlencoded")
        form = {name: _plain(value) for name, value in grant.data.items()}
        answer = await self._web.object(
            WebCall(
                who=f"token endpoint of '{who}'",
                url=grant.endpoint,
                method=grant.method,
                headers=grant.headers,
                form=form if urlencoded else None,
                json=None if urlencoded else grant.data,
            )
        )
        token = answer.get(grant.token_field)
        if not isinstance(token, str) or not token:
            raise InvalidError(
                f"token endpoint of '{who}': the answer has no '{grant.token_field}'"
            )
        lifetime = _seconds(answer.get(grant.ttl_field))
        expires_at = self._clock.now() + lifetime
        kind = answer.get("token_type")
        return Minted(
            {
                "access_token": token,
                "token": token,
                "token_type": kind if isinstance(kind, str) else "Bearer",
                "expires_at": expires_at,
                "expires_in": int(lifetime),
            },
            expires_at,
        )

    async def google(self, who: str, fields: Fields, *, audience: str = "") -> Minted:
        """An access token, or with ``audience`` an id token (SC-TY-03, SC-KC-05)."""
        account = _account(who, fields)
        uri = text_in(account, "token_uri") or GOOGLE_TOKEN_URI
        if "impersonate_service_account" in account:
            raise InvalidError(
                f"'{who}': impersonating a service account is not available in this "
                "build; store the service account itself"
            )
        if account.get("refresh_token"):
            data: Fields = {
                name: text_in(account, name)
                for name in ("client_id", "client_secret", "refresh_token")
            }
            return await self.grant(
                who, Grant(uri, {"grant_type": "refresh_token", **data})
            )
        claim: Fields = {"scope": text_in(fields, "scope") or GOOGLE_SCOPE}
        if audience:
            claim = {"target_audience": audience}
        assertion = self._assertion(who, account, uri, claim)
        data = {"grant_type": _JWT_GRANT, "assertion": assertion}
        if not audience:
            return await self.grant(who, Grant(uri, data))
        minted = await self.grant(who, Grant(uri, data, token_field="id_token"))
        return _id_token(who, minted)

    def _assertion(self, who: str, account: Fields, uri: str, claim: Fields) -> str:
        issued = int(self._clock.now())
        email = text_in(account, "client_email")
        payload = {
            "iss": email,
            "sub": email,
            "aud": uri,
            "iat": issued,
            "exp": issued + ASSERTION_S,
            **claim,
        }
        header = {"alg": "RS256", "typ": "JWT", "kid": account.get("private_key_id")}
        text = f"{_part(encode_json(header))}.{_part(encode_json(payload))}"
        key = _private_key(who, text_in(account, "private_key"))
        return f"{text}.{_part(key.sign(text.encode(), PKCS1v15(), SHA256()))}"


def bearer(token: str) -> Minted:
    """A token as it stands."""
    if not token:
        raise InvalidError("the credential has no token")
    return Minted({"token": token, "access_token": token}, None)


def text_in(fields: Fields, *names: str) -> str:
    """The first of these fields that is a text, or empty."""
    for name in names:
        value = fields.get(name)
        if isinstance(value, str) and value:
            return value
    return ""


def grant_of(fields: Fields) -> Grant:
    """A stored oauth2 credential as a call; client credentials by default."""
    data = fields.get("data")
    if not isinstance(data, dict) or not data:
        data = {"grant_type": "client_credentials"}
        for name in ("client_id", "client_secret", "scope", "audience"):
            if fields.get(name):
                data[name] = fields[name]
    headers = fields.get("headers")
    return Grant(
        text_in(fields, "endpoint", "token_url"),
        data,
        text_in(fields, "method") or "POST",
        {name: str(value) for name, value in headers.items()}
        if isinstance(headers, dict)
        else {},
        text_in(fields, "token_field") or "access_token",
        text_in(fields, "ttl_field") or "expires_in",
    )


def _account(who: str, fields: Fields) -> Fields:
    """The service account's JSON: the fields themselves, or one of them (SC-TY-04)."""
    for name in ("service_account_json", "service_account", "authorized_user"):
        inner = fields.get(name)
        if isinstance(inner, str):
            try:
                inner = decode_json(inner)
            except DecodeError as error:
                raise InvalidError(f"'{who}': {name} is no JSON") from error
        if isinstance(inner, dict):
            return inner
    return fields


def _private_key(who: str, pem: str) -> RSAPrivateKey:
    """A PEM key; ``\\n`` may be written out (SC-TY-04)."""
    try:
        key = load_pem_private_key(pem.replace("\\n", "\n").encode(), None)
    except (ValueError, TypeError) as error:
        raise InvalidError(f"'{who}': private_key is no PEM key") from error
    if not isinstance(key, RSAPrivateKey):
        raise InvalidError(f"'{who}': private_key must be an RSA key")
    return key


def _id_token(who: str, minted: Minted) -> Minted:
    token = str(minted.fields["token"])
    try:
        payload = token.split(".")[1]
        claims = decode_json(urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        expires_at = float(claims["exp"])
    except (IndexError, KeyError, TypeError, ValueError, Base64Error) as error:
        raise InvalidError(f"'{who}': the id token has no readable exp") from error
    fields: Fields = {"id_token": token, "token": token, "access_token": token}
    return Minted({**fields, "expires_at": expires_at}, expires_at)


def _seconds(value: JSON) -> float:
    try:
        return float(value) if isinstance(value, int | float | str) else LIFETIME_S
    except ValueError:
        return LIFETIME_S


def _plain(value: JSON) -> str:
    return value if isinstance(value, str) else encode_json(value).decode()


def _part(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()
