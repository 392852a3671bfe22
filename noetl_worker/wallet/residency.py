"""May this server see an entry of that region? Decided before anything is asked."""

from __future__ import annotations

from noetl_worker.wallet.keychain import Definition
from state_builder.errors import RefusedError


class ResidencyError(RefusedError):
    """An entry must not be seen in this region."""

    code = "residency_violation"


def residency_decision(entry: Definition, region: str) -> str:
    """``allowed_no_policy``, ``allowed``, ``violation_allowed`` or ``denied``
    (SC-RE-01)."""
    if not entry.region:
        return "allowed_no_policy"
    if entry.residency == "none" or entry.region == region:
        return "allowed"
    if region and region in entry.allowed_regions:
        return "allowed"
    return "violation_allowed" if entry.residency == "advisory" else "denied"


def denied(entry: Definition, region: str) -> ResidencyError:
    """Names the entry and both regions; the broker that could serve it is to come."""
    here = f"region {region}" if region else "a server without NOETL_SERVER_REGION"
    return ResidencyError(
        f"residency_violation: keychain '{entry.name}' may only be read in region "
        f"{entry.region}, this is {here}; a broker between regions is not available "
        "in this build"
    )
