"""Outside stores of secrets, behind one interface (SC-PR).

``registry`` knows them by name, ``local`` reads variables and files, ``hashicorp`` and
``kubernetes`` ask their servers, ``web`` is the way out to HTTP for these and for token
endpoints; it is the only importer of ``httpx`` in the wallet.

Invariants: a ref is checked against its provider's grammar before anything is asked; a
remote side's words leave here cut and scrubbed; redirects are not followed, TLS is
always verified. May import: core errors and redaction.
"""

from noetl_worker.wallet.providers.registry import Provider, Providers, ProviderSettings
from noetl_worker.wallet.providers.source import SecretRef, SecretValue
from noetl_worker.wallet.providers.web import Web, WebCall

__all__ = [
    "Provider",
    "ProviderSettings",
    "Providers",
    "SecretRef",
    "SecretValue",
    "Web",
    "WebCall",
]
