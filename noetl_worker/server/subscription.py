"""What a subscription document must say (RT-CAT-7), as a list of what it does not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from state_builder.records import JSON

_CHOICES: Final = (
    ("source", ("pubsub", "nats", "kafka", "webhook"), True),
    ("mode", ("pull", "push"), True),
    ("activation", ("continuous", "scheduled"), True),
    ("spool.mode", ("off", "buffer_and_ack", "hybrid"), False),
    ("spool.backend", ("nats_object", "local_disk", "gcs", "s3"), False),
    ("spool.ordering", ("global", "per_key", "none"), False),
)
_FLAGS: Final = ("dispatch.batch_dispatch", "dedup.enabled")
_POSITIVE: Final = (
    "dedup.window_secs",
    "limits.max_in_flight",
    "limits.max_dispatch_per_sec",
)
BATCH_MAX: Final = 1000
_VERIFY: Final[dict[str, tuple[str, ...]]] = {
    "hmac_sha256": ("header", "secret"),
    "bearer": ("secret",),
    "pubsub_oidc": ("audience", "service_account"),
}


def subscription_faults(document: dict[str, JSON]) -> list[str]:
    """Everything that is wrong with it, a sentence each."""
    spec = document.get("spec")
    if not isinstance(spec, dict):
        return ["subscription: 'spec' must be a map"]
    return [*_values(spec), *_directives(spec), *_spool(spec), *_ingress(spec)]


def _at(spec: JSON, path: str) -> JSON:
    for key in path.split("."):
        spec = spec.get(key) if isinstance(spec, dict) else None
    return spec


def _values(spec: dict[str, JSON]) -> Iterator[str]:
    for path, words, required in _CHOICES:
        value = _at(spec, path)
        if (value is not None or required) and value not in words:
            yield f"spec.{path} must be one of {', '.join(words)}"
    for path in _FLAGS:
        if _at(spec, path) not in (None, True, False):
            yield f"spec.{path} must be true or false"
    for path in _POSITIVE:
        value = _at(spec, path)
        if value is not None and not (_is_number(value) and value > 0):  # type: ignore[operator]
            yield f"spec.{path} must be a number above 0"
    if not isinstance(_at(spec, "dispatch.playbook"), str):
        yield "spec.dispatch.playbook must name a playbook"
    most = _at(spec, "dispatch.batch_max")
    if most is not None and not (isinstance(most, int) and 1 <= most <= BATCH_MAX):
        yield f"spec.dispatch.batch_max must be a number from 1 to {BATCH_MAX}"


def _directives(spec: dict[str, JSON]) -> Iterator[str]:
    directives = _at(spec, "headers.directives")
    if directives is None:
        return
    if not isinstance(directives, list):
        yield "spec.headers.directives must be a list"
        return
    for index, directive in enumerate(directives):
        for key in ("header", "controls"):
            if not isinstance(_at(directive, key), str):
                yield f"spec.headers.directives[{index}].{key} is required"


def _spool(spec: dict[str, JSON]) -> Iterator[str]:
    backend = _at(spec, "spool.backend")
    places = (_at(spec, "spool.bucket"), _at(spec, "spool.path"))
    if backend in ("gcs", "s3") and not any(places):
        yield f"spec.spool.bucket is required for the {backend} backend"
    if (
        _at(spec, "spool.ordering") == "global"
        and _at(spec, "spool.drain") == "interleave"
    ):
        yield "spec.spool.ordering global does not go with an interleaving drain"


def _ingress(spec: dict[str, JSON]) -> Iterator[str]:
    if _at(spec, "mode") != "push":
        return
    path = _at(spec, "ingress.gateway_path")
    if not isinstance(path, str) or not path.startswith("/"):
        yield "spec.ingress.gateway_path must begin with /"
    kind = _at(spec, "ingress.verify.type")
    if kind not in _VERIFY:
        yield f"spec.ingress.verify.type must be one of {', '.join(_VERIFY)}"
        return
    for key in _VERIFY[str(kind)]:
        if not _at(spec, f"ingress.verify.{key}"):
            yield f"spec.ingress.verify.{key} is required for {kind}"


def _is_number(value: JSON) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
