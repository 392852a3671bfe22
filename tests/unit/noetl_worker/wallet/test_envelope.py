"""Envelopes open for their row and their key alone, and move to a new key unharmed."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode

import anyio
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from wallet_world import KEY_1, KEY_2, keyring, wallet_settings, wallet_world

from noetl_worker.wallet.envelope import binding, parse, rewrap, seal, unseal
from noetl_worker.wallet.keys import Keyring, LocalKeys, keyring_of
from state_builder.errors import DamagedError, SettingsError

HERE = binding("credential", "17")


def sealed(value: bytes = b'{"password": "marker"}', bound_to: bytes = HERE) -> str:
    return anyio.run(seal, value, bound_to, keyring())


def opened(text: str, bound_to: bytes = HERE, keys: Keyring | None = None) -> bytes:
    return bytes(anyio.run(unseal, text, bound_to, keys or keyring()))


@given(st.binary(max_size=2000))
def test_what_was_sealed_opens_as_it_was(value: bytes) -> None:
    """SC-TE-01, SC-EN-01."""
    assert opened(sealed(value)) == value


def test_the_stored_form_is_the_one_every_reader_knows() -> None:
    """SC-EN-01, SC-EN-03, RT-SEC-1."""
    envelope = json.loads(sealed())
    assert envelope.keys() == {"v", "alg", "ct", "dek", "aad"}
    assert (envelope["v"], envelope["alg"], envelope["aad"]) == (1, "AES-256-GCM", 1)
    dek = envelope["dek"]
    assert dek.keys() == {"p", "kid", "kv", "ct"}
    assert (dek["p"], dek["kid"], dek["kv"]) == (
        "local",
        "env:NOETL_ENCRYPTION_KEY",
        "v1",
    )
    assert len(b64decode(dek["ct"])) == 12 + 32 + 16
    assert len(b64decode(envelope["ct"])) == 12 + len(b'{"password": "marker"}') + 16


def test_every_write_has_a_key_and_a_nonce_of_its_own() -> None:
    """SC-EN-01: two envelopes of one value share nothing."""
    one, other = json.loads(sealed()), json.loads(sealed())
    assert one["ct"] != other["ct"]
    assert one["dek"]["ct"] != other["dek"]["ct"]


@pytest.mark.parametrize("path", [("ct",), ("dek", "ct")])
@pytest.mark.parametrize("place", [0, 13, -1])
def test_a_flipped_bit_anywhere_is_noticed(path: tuple[str, ...], place: int) -> None:
    """SC-TE-01: nonce, text and tag of the payload and of the wrapped key."""
    envelope = json.loads(sealed())
    part = envelope if len(path) == 1 else envelope["dek"]
    raw = bytearray(b64decode(part["ct"]))
    raw[place] ^= 1
    part["ct"] = b64encode(raw).decode()
    with pytest.raises(DamagedError, match="cannot be decrypted"):
        opened(json.dumps(envelope))


@pytest.mark.parametrize("elsewhere", [("credential", "18"), ("keychain", "17")])
def test_a_blob_moved_to_another_row_does_not_open(elsewhere: tuple[str, str]) -> None:
    """SC-EN-02, SC-TE-01."""
    with pytest.raises(DamagedError):
        opened(sealed(), binding(*elsewhere))  # type: ignore[arg-type]


def test_an_old_blob_without_a_binding_can_be_read() -> None:
    """SC-EN-02: for migration."""
    envelope = json.loads(sealed(bound_to=b""))
    del envelope["aad"]
    assert opened(json.dumps(envelope)) == b'{"password": "marker"}'


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"v": 2}, "version 2"),
        ({"alg": "ROT13"}, "ROT13"),
        ({"ct": "%%%"}, "base64"),
        ({"ct": ""}, "cut short"),
        ({"dek": {"p": "gcp-kms", "kid": "k", "kv": "1", "ct": "eA=="}}, "gcp-kms"),
        (
            {"dek": {"p": "local", "kid": "k", "kv": "v9", "ct": "eA=="}},
            "'v9'.*_PREVIOUS",
        ),
        ({"dek": None}, "no envelope"),
    ],
)
def test_what_cannot_be_read_says_why(change: dict[str, object], words: str) -> None:
    """SC-EN-05, SC-EN-07, SC-TE-01: unknown version, algorithm, provider, key."""
    with pytest.raises(DamagedError, match=words):
        opened(json.dumps(json.loads(sealed()) | change))


def test_text_that_is_no_envelope_is_no_crash() -> None:
    """SC-EN-07."""
    for text in ("", "plain", "[]", "{}", '{"v":1}'):
        with pytest.raises(DamagedError):
            parse(text)


def test_another_key_does_not_open() -> None:
    with pytest.raises(DamagedError, match="another key"):
        opened(sealed(), keys=keyring("v1", v1=KEY_2))


async def test_moving_to_a_new_key_leaves_the_payload_bytes() -> None:
    """SC-RO-01: only the data key is wrapped anew."""
    old = await seal(b"{}", HERE, keyring())
    both = keyring("v2", v1=KEY_1, v2=KEY_2)
    new = await rewrap(old, HERE, both)
    assert json.loads(new)["ct"] == json.loads(old)["ct"]
    assert json.loads(new)["dek"]["kv"] == "v2"
    assert bytes(await unseal(new, HERE, keyring("v2", v2=KEY_2))) == b"{}"


async def test_several_key_providers_may_be_live() -> None:
    """SC-EN-05: unwrapping goes by the provider an envelope names."""

    class Elsewhere(LocalKeys):
        name = "elsewhere"

    elsewhere = Elsewhere({"v1": KEY_2}, "v1")
    old = await seal(b"{}", HERE, Keyring(elsewhere))
    moved = Keyring(LocalKeys({"v1": KEY_1}, "v1"), elsewhere)
    assert bytes(await unseal(old, HERE, moved)) == b"{}"
    assert not await moved.is_current(parse(old).dek)
    assert await moved.is_current(parse(await rewrap(old, HERE, moved)).dek)


def b64(data: bytes) -> str:
    return b64encode(data).decode()


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({}, "NOETL_ENCRYPTION_KEY: give base64 of 32 bytes"),
        ({"NOETL_ENCRYPTION_KEY": "not base64!"}, "no base64"),
        ({"NOETL_ENCRYPTION_KEY": b64(b"short")}, "exactly 32 bytes.*not of 5"),
        (
            {"NOETL_ENCRYPTION_KEY": b64(KEY_1), "NOETL_ENCRYPTION_KEY_PREVIOUS": "v0"},
            "entry 1: write version:base64",
        ),
        (
            {
                "NOETL_ENCRYPTION_KEY": b64(KEY_1),
                "NOETL_ENCRYPTION_KEY_PREVIOUS": f"v1:{b64(KEY_2)}",
            },
            "another NOETL_ENCRYPTION_KEY_VERSION",
        ),
        ({"NOETL_KMS_PROVIDER": "gcp-kms"}, "gcp-kms is not available in this build"),
    ],
)
def test_a_server_without_a_usable_key_does_not_start(
    environ: dict[str, str], words: str
) -> None:
    """SC-EN-03, SC-EN-04, RT-SEC-1: fail closed, one clear error, no key in it."""
    with pytest.raises(SettingsError, match=words) as caught:
        keyring_of(wallet_settings(**environ))
    assert b64(KEY_1) not in str(caught.value)
    assert b64(KEY_2) not in str(caught.value)


async def test_a_key_of_the_process_alone_is_asked_for_and_random() -> None:
    """SC-EN-04: there is no built-in key."""
    allowed = wallet_settings(NOETL_ALLOW_INSECURE_DEFAULT_KEY="true")
    text = await seal(b"{}", HERE, keyring_of(allowed))
    with pytest.raises(DamagedError):
        await unseal(text, HERE, keyring_of(allowed))


async def test_rotation_is_done_once_and_goes_on_where_it_stopped() -> None:
    """SC-RO-01, SC-RO-02, SC-RO-03, RT-SEC-5: both tables, resumable, idempotent."""
    async with wallet_world() as old:
        for number in range(5):
            await old.save(f"c{number}", "secret", secret=f"marker-{number}")
        await old.playbook("  - {name: e, kind: static, map: {x: marker-entry}}")
        await old.reveal("e")
    both = keyring("v2", v1=KEY_1, v2=KEY_2)
    async with wallet_world(keys=both, database=old.database) as new:
        new.owners.answers = old.owners.answers
        first = await new.keeper.rotate(2, 1)
        assert first["credential"] == {
            "processed": 2, "rewrapped": 2, "skipped": 0, "failed": 0, "last_id": "2",
        }  # fmt: skip
        second = await new.keeper.rotate(2, 100)
        assert second["credential"]["rewrapped"] == 3  # type: ignore[index,call-overload]
        assert second["credential"]["skipped"] == 2  # type: ignore[index,call-overload]
        again = await new.keeper.rotate(100, 100)
        for table, count in (("credential", 5), ("keychain", 1)):
            assert again[table]["skipped"] == count  # type: ignore[index,call-overload]
        versions = {(row["table"], row["version"], row["count"]) for row in await new.keeper.key_status()}  # fmt: skip
        assert versions == {("credential", "v2", 5), ("keychain", "v2", 1)}
        labels = {"table": "credential", "status": "rewrapped"}
        assert new.metric("noetl_wallet_rotate_total", **labels) == 5
    async with wallet_world(
        keys=keyring("v2", v2=KEY_2), database=old.database
    ) as last:
        assert (await last.reveal("c3", "credential")).reveal() == {
            "secret": "marker-3"
        }


async def test_a_server_with_the_wrong_key_says_so_when_it_starts(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """SC-EN-03: long before somebody needs a secret; others are told what to do."""
    async with wallet_world() as right:
        await right.save("db", "secret", secret="marker")
    for keys, words in (
        (keyring("v1", v1=KEY_2), "sealed with another key"),
        (keyring("v2", v2=KEY_2), "NOETL_ENCRYPTION_KEY_PREVIOUS"),
    ):
        with structlog.testing.capture_logs() as lines:
            async with wallet_world(keys=keys, database=right.database) as wrong:
                await anyio.wait_all_tasks_blocked()
                with pytest.raises(DamagedError, match=f"'db'.*{words}"):
                    await wrong.reveal("db", "credential")
        [line] = lines
        assert (line["event"], line["log_level"]) == ("wallet.key_mismatch", "error")
        assert words in line["reason"]
        assert "marker" not in repr(lines) + "".join(capsys.readouterr())


async def test_one_bad_row_is_counted_and_stops_nobody() -> None:
    """SC-RO-02, SC-RO-04, SC-EN-07: listing works, saving again repairs it."""
    both = keyring("v2", v1=KEY_1, v2=KEY_2)
    async with wallet_world() as old:
        for name in ("a", "b"):
            await old.save(name, "secret", secret="marker")
        row = await old.rows.credential("a")
        assert row is not None
        await old.rows.swap("credential", row.id, row.data_encrypted, "no envelope")
    async with wallet_world(keys=both, database=old.database) as new:
        done = await new.keeper.rotate(100, 100)
        assert done["credential"]["failed"] == 1  # type: ignore[index,call-overload]
        assert done["credential"]["rewrapped"] == 1  # type: ignore[index,call-overload]
        assert [info.name for info in await new.keeper.listed()] == ["a", "b"]
        with pytest.raises(DamagedError, match="credential 'a'"):
            await new.reveal("a", "credential")
        await new.save("a", "secret", secret="repaired")
        assert (await new.reveal("a", "credential")).reveal() == {"secret": "repaired"}


async def test_a_writer_loses_nothing_to_a_rotation() -> None:
    """SC-TE-01, SC-RO-02: the row is only replaced while it is what was read."""
    both = keyring("v2", v1=KEY_1, v2=KEY_2)
    async with wallet_world() as old:
        for number in range(50):
            await old.save(f"c{number}", "secret", secret="old")
    async with wallet_world(keys=both, database=old.database) as new:

        async def write() -> None:
            for number in range(50):
                await new.save(f"c{number}", "secret", secret=f"new-{number}")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(write)
            tasks.start_soon(new.keeper.rotate, 3, 100)
        for number in range(50):
            found = await new.reveal(f"c{number}", "credential")
            assert found.reveal() == {"secret": f"new-{number}"}
