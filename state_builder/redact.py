"""Secrets out of values and texts, before they reach a result, an event or a log.

Three ways to recognise one: the key it stands under (TL-SCR-02, TL-SCR-03), what it
looks like (TL-SCR-04), and that it is known (TL-SCR-05). Every function is pure, gives
back the same object where nothing was found, and takes time linear in its input.
"""

from __future__ import annotations

import re
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import lru_cache
from typing import Final
from urllib.parse import quote, quote_plus, unquote, urlsplit, urlunsplit

from msgspec import DecodeError
from msgspec.json import decode as decode_json

from state_builder.errors import LimitExceededError
from state_builder.records import JSON, encode_json

REDACTED: Final = "[REDACTED]"

DEPTH_MAX: Final = 128
"""Levels of nesting of a value (TL-SEC-07)."""

SECRET_LENGTH_MIN: Final = 6
"""Shorter known values would hit ordinary words."""

SECRET_LINE_MIN: Final = 16
"""Lines of a secret of many lines; shorter ones are its frame."""

_PUBLIC_TYPES: Final = frozenset(
    (
        *("postgres", "snowflake", "basic", "bearer", "api_key", "nats", "pubsub"),
        *("kafka", "gcs_hmac", "gcs", "google_oauth", "aws", "azure", "oauth2"),
        *("auth0",),
    )
)
"""Types whose fields are known, so that some of them may be seen."""

_PUBLIC_FIELDS: Final = frozenset(
    (
        *("host", "db_host", "port", "db_port", "database", "dbname", "db_name"),
        *("user", "username", "db_user", "sslmode", "sslrootcert", "schema", "type"),
        *("sf_account", "sf_user", "sf_warehouse", "sf_database", "sf_schema"),
        *("sf_role", "account", "warehouse", "role", "header", "endpoint", "brokers"),
        *("security_protocol", "sasl_mechanism", "service", "scope", "region"),
        *("project_id", "client_email", "auth_uri", "token_uri", "token_url"),
        *("universe_domain", "domain", "audience", "method", "token_field"),
        *("ttl_field", "token_type", "expires_at", "expires_in", "nats_user"),
        *("auth_provider_x509_cert_url", "client_x509_cert_url", "grant_type"),
    )
)
"""Fields of such types that say where and who, not how to get in."""

_NAMES: Final = frozenset(
    (
        *("password", "passwd", "pwd", "db_password", "passphrase", "secret"),
        *("token", "access_token", "refresh_token", "auth_token", "id_token"),
        *("idtoken", "oauth_token", "oauth", "jwt", "bearer", "authorization"),
        *("api_key", "apikey", "api_secret", "secret_key", "access_key"),
        *("private_key", "ssh_key", "gcp_key", "azure_key", "encryption_key"),
        *("decrypt_key", "master_key", "client_secret", "aws_secret", "pem"),
        *("certificate", "credential", "credentials", "connection_string"),
        *("keychain", "cookie"),
    )
)
_WHOLE_NAMES: Final = frozenset({"auth", "cert"})
_PREFIXES: Final = ("snowflake_", "auth0_")
_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")

_LOOKED_INTO: Final = frozenset({str, dict, list})
"""What can hold a secret where no value of a secret is known."""

_TOKEN: Final = r"[A-Za-z0-9._~+/-]"
_LOOKS: Final = re.compile(
    r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY-----(?s:.*?)"
    r"(?:-----END [A-Z0-9 ]{0,40}PRIVATE KEY-----|\Z)"
    rf"|(?<![A-Za-z0-9])Bearer {_TOKEN}+=*"
    # In lower case these are words, too: what follows has to look like no word.
    rf"|(?<![A-Za-z0-9])bearer (?=[A-Za-z~+/]{{0,64}}[0-9._-]){_TOKEN}{{6,}}=*"
    r"|(?<![A-Za-z0-9])[Bb]asic (?=[a-z]{0,64}[A-Z0-9+/=])"
    r"(?:[A-Za-z0-9+/]{4}){2,}(?:[A-Za-z0-9+/]{2,3}={1,2})?"
    r"(?![A-Za-z0-9+/=])"
    r"|(?<![A-Za-z0-9_-])eyJ[A-Za-z0-9_-]{2,}\.eyJ[A-Za-z0-9_-]{2,}\.[A-Za-z0-9_-]*"
    r"|(?<![A-Za-z0-9_-])(?:sk-(?:ant-)?|AIza|ya29\.|gh[psour]_|github_pat_|xox[baprs]-)"
    r"[A-Za-z0-9._-]{12,}"
)
_OPAQUE: Final = re.compile(
    r"(?<![A-Za-z0-9_-])(?=[A-Za-z_-]{0,64}[0-9])(?=[0-9_-]{0,64}[A-Za-z])"
    r"[A-Za-z0-9_-]{40,}={0,2}"
)
_URL: Final = re.compile(
    r"(?<![A-Za-z0-9])[a-z][a-z0-9+.-]{1,20}://[^\s/@:'\"]*:[^\s/@'\"]+@"
)


@lru_cache(maxsize=4096)
def is_secret_key(key: str) -> bool:
    """Whether whatever stands under this key is a secret, by the words of the key.

    ``api_key``, ``X-Api-Key``, ``dbPassword`` are; ``author``, ``token_count`` are not.
    """
    name = _HUMP.sub("_", key).lower().replace("-", "_")
    if name in _NAMES or name in _WHOLE_NAMES or name.startswith(_PREFIXES):
        return True
    return any(name.endswith(f"_{word}") for word in _NAMES)


def secret_texts(kind: str, fields: dict[str, JSON]) -> Iterator[str]:
    """What must not be seen of a credential of this type (TL-SCR-05).

    Of a type we do not know, every value; JSON within a text and the password within
    an address are looked into.
    """
    public = _PUBLIC_FIELDS if kind in _PUBLIC_TYPES else frozenset[str]()
    for name, value in fields.items():
        if name not in public:
            yield from _texts_of(value, public)


def _texts_of(value: JSON, public: frozenset[str]) -> Iterator[str]:
    if isinstance(value, str):
        yield value
        yield from _password_in(value)
        if value[:1] in ("{", "["):
            # What is no JSON is a text like any other.
            with suppress(DecodeError):
                yield from _texts_of(decode_json(value), public)
    elif isinstance(value, dict):
        for name, member in value.items():
            if name not in public:
                yield from _texts_of(member, public)
    elif isinstance(value, list):
        for member in value:
            yield from _texts_of(member, public)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield str(value)


def _password_in(address: str) -> Iterator[str]:
    if "://" in address and "@" in address:
        userinfo = address.split("://", 1)[1].rpartition("@")[0]
        password = userinfo.partition(":")[2]
        yield password
        yield unquote(password)


def forms_of(texts: Iterable[str]) -> frozenset[str]:
    """Known texts in every form they are masked in (SC-LG-03): as they are, in base64,
    in a URL, within JSON, and line by line."""
    found: set[str] = set()
    for text in texts:
        if len(text) < SECRET_LENGTH_MIN:
            continue
        data = text.encode("utf-8", "surrogatepass")
        encoded = b64encode(data).decode()
        found.update((text, encoded, encoded.rstrip("=")))
        found.add(urlsafe_b64encode(data).decode().rstrip("="))
        found.update((quote(data, safe=""), quote_plus(data)))
        found.add(encode_json(text)[1:-1].decode())
        if "\n" in text:
            lines = (line.strip() for line in text.splitlines())
            found.update(line for line in lines if len(line) >= SECRET_LINE_MIN)
    return frozenset(found)


def known(texts: Iterable[str]) -> tuple[str, ...]:
    """Texts in the order they are masked in: a longer one may hold a shorter one."""
    return tuple(sorted(texts, key=len, reverse=True))


def mask_text(text: str, secrets: tuple[str, ...] = ()) -> str:
    """A text without known secrets and without what looks like one."""
    for secret in secrets:
        if len(secret) >= SECRET_LENGTH_MIN and secret in text:
            text = text.replace(secret, REDACTED)
    if len(text) >= 8 and _is_marked(text):
        return _LOOKS.sub(REDACTED, text)
    return text


def _is_marked(text: str) -> bool:
    """Whether it may hold what looks like a secret; a text without any of these words
    does not. Written out: every text of every result passes here."""
    return (
        "earer " in text
        or "asic " in text
        or "eyJ" in text
        or "sk-" in text
        or "PRIVATE KEY-----" in text
        or "AIza" in text
        or "ya29." in text
        or "gh" in text
        or "xox" in text
    )


def mask_error(text: str, secrets: tuple[str, ...] = ()) -> str:
    """An error's text; also without passwords in URLs and opaque runs (RT-EVT-30)."""
    text = mask_text(text, secrets)
    if "://" in text:
        text = _URL.sub(_without_userinfo, text)
    return _OPAQUE.sub(REDACTED, text) if len(text) >= 40 else text


def _without_userinfo(match: re.Match[str]) -> str:
    return match[0][: match[0].index("://") + 3] + REDACTED + "@"


def mask(value: JSON, secrets: tuple[str, ...] = ()) -> JSON:
    """A value without secrets; the same object where there are none.

    Whole values under secret keys are replaced, null excepted. ``secrets`` are in the
    order of :func:`known`. Raises LimitExceededError when the value is nested deeper
    than :data:`DEPTH_MAX`.
    """
    if value is None or value is True or value is False:
        return value
    return _mask(value, secrets, DEPTH_MAX)


def _mask(value: JSON, secrets: tuple[str, ...], depth: int) -> JSON:
    if type(value) is str:
        return mask_text(value, secrets)
    if type(value) is dict:
        return _mask_map(value, secrets, _deeper(depth))
    if type(value) is list:
        return _mask_list(value, secrets, _deeper(depth))
    return REDACTED if secrets and str(value) in secrets else value


def _deeper(depth: int) -> int:
    if depth <= 0:
        raise LimitExceededError(
            "json_depth", f"the value is nested deeper than {DEPTH_MAX} levels"
        )
    return depth - 1


def _mask_map(value: dict[str, JSON], secrets: tuple[str, ...], depth: int) -> JSON:
    result = value
    for key, member in value.items():
        if is_secret_key(key):
            masked: JSON = None if member is None else REDACTED
        elif secrets or type(member) in _LOOKED_INTO:
            masked = _mask(member, secrets, depth)
        else:
            continue
        if masked is not member:
            if result is value:
                result = dict(value)
            result[key] = masked
    return _mask_keys(result, secrets) if secrets else result


def _mask_keys(value: dict[str, JSON], secrets: tuple[str, ...]) -> dict[str, JSON]:
    """A map none of whose keys holds a known secret."""
    if not any(secret in key for key in value for secret in secrets):
        return value
    return {mask_text(key, secrets): member for key, member in value.items()}


def _mask_list(value: list[JSON], secrets: tuple[str, ...], depth: int) -> JSON:
    result = value
    for index, member in enumerate(value):
        if secrets or type(member) in _LOOKED_INTO:
            masked = _mask(member, secrets, depth)
            if masked is not member:
                if result is value:
                    result = list(value)
                result[index] = masked
    return result


def mask_url(url: str) -> str:
    """A URL for people: no userinfo, no secrets in its query (TL-HT-04)."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    fields = [_mask_field(field) for field in parts.query.split("&")]
    return urlunsplit(parts._replace(netloc=host, query="&".join(fields)))


def _mask_field(field: str) -> str:
    name, equals, value = field.partition("=")
    if not value:
        return field
    plain = unquote(value)
    if is_secret_key(unquote(name)) or mask_text(plain) != plain:
        return f"{name}{equals}{quote(REDACTED)}"
    return field
