"""What tests of keychain entries share."""

from __future__ import annotations

from typing import Any

from wallet_world import World

from noetl_worker.wallet.providers import ProviderSettings

ENV = ProviderSettings(env_names=("A_KEY", "GONE"), env_values={"A_KEY": "marker-env"})

OAUTH = """\
  - {{name: client, kind: static, map: {{secret: marker-client}}}}
  - name: api
    kind: oauth2
    endpoint: {url}/token
    auto_renew: true
    {more}
    data: {{grant_type: client_credentials, client_secret: "{{{{ keychain.client.secret }}}}"}}
"""


async def fields(world: World, name: str, **more: Any) -> dict[str, Any]:
    """What the server gives for an entry."""
    return (await world.reveal(name, **more)).reveal()
