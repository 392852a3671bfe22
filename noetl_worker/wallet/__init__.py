"""The secrets wallet: sealed at rest, sealed on the way, never a record.

``envelope`` and ``keys`` seal what is stored, ``delivery`` seals what goes to a worker;
``credentials``, ``keychain``, ``entries`` and ``minting`` find out what a name stands
for, ``providers`` ask outside stores, ``audit`` keeps the trail, ``rotation`` moves to
a new key. :class:`Keeper` puts them together and is what the server is given;
:class:`RemoteWallet` is what a tool worker is given.

Invariants: a value leaves this room as a :class:`state_builder.credentials.Credential`
or sealed, and only after its audit row (where that is required); it is never logged,
never part of an error's text, a metric or a cache outside an envelope. May import: core
ports, records and templates, settings. The only importer of ``cryptography``.
"""

from noetl_worker.wallet.delivery import WorkerKey
from noetl_worker.wallet.keeper import Keeper, KeeperPorts
from noetl_worker.wallet.keys import Keyring, keyring_of
from noetl_worker.wallet.providers import ProviderSettings
from noetl_worker.wallet.remote import RemoteSettings, RemoteWallet

__all__ = [
    "Keeper",
    "KeeperPorts",
    "Keyring",
    "ProviderSettings",
    "RemoteSettings",
    "RemoteWallet",
    "WorkerKey",
    "keyring_of",
]
