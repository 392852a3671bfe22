"""What exists on the broker, as data: subjects, streams, consumers, buckets, settings.

Few subjects on purpose (the broker keeps about 460 bytes of memory for each): shards
appear in subjects, executions never do. Nothing here talks to anybody.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, NamedTuple, TypeAlias
from urllib.parse import urlsplit

from state_builder.errors import SettingsError
from state_builder.ids import Shard
from state_builder.records import FORMAT_VERSION

Config: TypeAlias = dict[str, object]
"""A stream's or consumer's configuration as the broker spells it (durations in ns)."""

BROKER_VERSION_MIN: Final = (2, 12, 0)
"""The fence is on another subject than the one appended to (RT-NATS-32)."""

SNAPSHOT_BUCKET: Final = "noetl_snapshots"

_POOL = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")
_MIB = 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class BusSettings:
    """Everything the bus can be told; defaults are those of the specification.

    Attributes:
        urls: broker addresses, comma separated; credentials inside are split out
            and are overridden by ``user`` and ``password`` (RT-NATS-35).
        root: first token of every subject but the commands'.
        log_bytes_max, bucket_bytes_max: room on disk for the log and for each bucket
            of blobs; their sum must stay below the broker's own limit.
        append_window, append_window_bytes: appends on the way and not yet confirmed.
        append_retry_s: an unconfirmed append is sent again after this long.
        pack_records_max, pack_bytes_max: most that may share one message.
        follow_batch: most messages a reader is given at once.
        follow_prefetch, follow_prefetch_bytes: most a reader holds in memory.
        heartbeat_s: how often the broker shows on a quiet subscription that it is
            still there.
    """

    urls: str = "nats://localhost:4222"
    user: str = ""
    password: str = ""
    client_name: str = "noetl"
    root: str = "noetl"
    event_stream: str = "noetl_events"
    command_subject: str = "noetl.commands"
    members_bucket: str = "noetl_members"
    shard_count: int = 16
    replicas: int = 1
    log_bytes_max: int = 2048 * _MIB
    bucket_bytes_max: int = 1024 * _MIB
    message_bytes_max: int = _MIB
    duplicate_window_s: float = 300.0
    append_window: int = 512
    append_window_bytes: int = 16 * _MIB
    append_retry_s: float = 2.0
    append_backoff_max_s: float = 5.0
    pack_records_max: int = 64
    pack_bytes_max: int = 64 * 1024
    follow_batch: int = 500
    follow_prefetch: int = 2000
    follow_prefetch_bytes: int = 16 * _MIB
    ack_wait_s: float = 30.0
    member_ttl_s: float = 15.0
    heartbeat_s: float = 5.0
    request_timeout_s: float = 5.0
    connect_timeout_s: float = 10.0
    reconnect_wait_max_s: float = 2.0

    def __post_init__(self) -> None:
        faults = [
            f"{name} must be above 0, not {value}"
            for name, value in vars(self).items()
            if isinstance(value, int | float) and value <= 0
        ]
        if self.follow_prefetch_bytes < 2 * self.message_bytes_max:
            faults.append("follow_prefetch_bytes must hold two messages of full size")
        if self.append_window_bytes < self.message_bytes_max:
            faults.append("append_window_bytes must hold one message of full size")
        if faults:
            raise SettingsError("bus settings: " + "; ".join(faults))


class Place(NamedTuple):
    """What a subject of the log means; ``pool`` is empty unless it is a command."""

    shard: Shard
    kind: str
    pool: str


class Servers(NamedTuple):
    """Broker addresses without credentials, and the credentials."""

    urls: list[str]
    user: str
    password: str


def split_urls(urls: str, user: str, password: str) -> Servers:
    """Addresses without credentials; given ones win over those in the address.

    Raises:
        SettingsError: no address, or one without a host; says which, without secrets.
    """
    clean: list[str] = []
    for number, text in enumerate(filter(None, map(str.strip, urls.split(","))), 1):
        parts = urlsplit(text if "://" in text else f"nats://{text}")
        try:
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise SettingsError(f"NATS_URL: address {number} has a bad port") from error
        if not host or parts.scheme not in {"nats", "tls", "ws", "wss"}:
            raise SettingsError(
                f"NATS_URL: address {number} must be nats://host:port (or tls, ws, wss)"
            )
        user = user or parts.username or ""
        password = password or parts.password or ""
        shown = f"[{host}]" if ":" in host else host
        clean.append(f"{parts.scheme}://{shown}:{port or 4222}")
    if not clean:
        raise SettingsError("NATS_URL: no broker address given")
    return Servers(clean, user, password)


class Topology:
    """Names and configurations that follow from the settings."""

    def __init__(self, settings: BusSettings) -> None:
        self.settings = settings
        self._places: dict[bytes, Place] = {}

    def stream_of(self, shard: Shard) -> str:
        """The stream a shard lives in; today all share one."""
        del shard
        return self.settings.event_stream

    @property
    def stream(self) -> str:
        """The one stream of today, for questions that are about no shard."""
        return self.stream_of(Shard(0))

    def events(self, shard: Shard) -> str:
        """Subject of facts and decisions."""
        return f"{self.settings.root}.events.{shard}"

    def commands(self, pool: str, shard: Shard | str) -> str:
        """Subject of a pool's commands; ``>`` as shard for all of them."""
        check_pool(pool)
        return f"{self.settings.command_subject}.{pool}.{shard}"

    def lease(self, shard: Shard) -> str:
        """Subject of a shard's leases, and of every fence."""
        return f"{self.settings.root}.lease.{shard}"

    def query(self, shard: Shard) -> str:
        """Core subject on which the shard's owner answers questions."""
        return f"{self.settings.root}.query.{shard}"

    @cached_property
    def cancel(self) -> str:
        """Core subject of ended executions (RT-NATS-33)."""
        return f"{self.settings.root}.control.cancel"

    @cached_property
    def ended(self) -> str:
        """Core subject of ends that are stored."""
        return f"{self.settings.root}.control.ended"

    def place(self, subject: bytes) -> Place:
        """What a subject of the log means; remembered, there are few."""
        place = self._places.get(subject)
        if place is None:
            place = self._places[subject] = self._parse(subject.decode())
        return place

    def _parse(self, subject: str) -> Place:
        head, _, shard = subject.rpartition(".")
        if head == f"{self.settings.root}.events":
            return Place(Shard(int(shard)), "events", "")
        if head == f"{self.settings.root}.lease":
            return Place(Shard(int(shard)), "lease", "")
        head, _, pool = head.rpartition(".")
        if head != self.settings.command_subject:
            raise SettingsError(f"subject {subject!r} does not belong to the log")
        return Place(Shard(int(shard)), "commands", pool)

    def log_subjects(self, shards: Sequence[Shard] | None, leases: bool) -> list[str]:
        """Subjects a reader of these shards needs; empty when it needs them all."""
        everything = shards is None or len(set(shards)) >= self.settings.shard_count
        if everything and leases:
            return []
        names: Sequence[Shard | str] = ["*"] if everything or not shards else shards
        heads = [f"{self.settings.root}.events.", f"{self.settings.command_subject}.*."]
        if leases:
            heads.append(f"{self.settings.root}.lease.")
        return [f"{head}{name}" for name in names for head in heads]

    def log_config(self) -> Config:
        """The log as a stream; its generation is written by whoever counts lives."""
        settings = self.settings
        return {
            "name": self.stream,
            "subjects": [
                f"{settings.root}.events.*",
                f"{settings.command_subject}.*.*",
                f"{settings.root}.lease.*",
            ],
            "storage": "file",
            "retention": "limits",
            "discard": "new",
            "max_bytes": settings.log_bytes_max,
            "max_msg_size": settings.message_bytes_max,
            "duplicate_window": _ns(settings.duplicate_window_s),
            "num_replicas": settings.replicas,
            "allow_direct": True,
            "metadata": {
                "noetl_shard_count": str(settings.shard_count),
                "noetl_format": str(FORMAT_VERSION),
                "noetl_generation": "0",
            },
        }

    def pool_consumer(self, pool: str) -> Config:
        """The durable consumer all workers of a pool pull from (RT-NATS-40)."""
        return {
            "durable_name": pool_consumer_name(pool),
            "name": pool_consumer_name(pool),
            "filter_subject": self.commands(pool, ">"),
            "deliver_policy": "all",
            "replay_policy": "instant",
            "ack_policy": "explicit",
            "ack_wait": _ns(self.settings.ack_wait_s),
            # A message past a delivery limit would stay, seen by nobody (design §2 d).
            "max_deliver": -1,
            "max_ack_pending": -1,
            "max_waiting": 4096,
            "num_replicas": self.settings.replicas,
        }

    def reader_consumer(self, name: str, start: int, subjects: list[str]) -> Config:
        """A short-lived consumer of one reader, from a sequence on, without acks."""
        config: Config = {
            "name": name,
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": start,
            "replay_policy": "instant",
            "ack_policy": "none",
            "mem_storage": True,
            "num_replicas": 1,
            "inactive_threshold": _ns(60.0),
        }
        if subjects:
            config["filter_subjects"] = subjects
        return config

    def members_config(self) -> Config:
        """A key-value bucket whose entries die after the time to live."""
        bucket = self.settings.members_bucket
        return {
            "name": f"KV_{bucket}",
            "subjects": [f"$KV.{bucket}.>"],
            "storage": "file",
            "retention": "limits",
            "discard": "new",
            "max_msgs_per_subject": 1,
            "max_bytes": 16 * _MIB,
            "max_age": _ns(self.settings.member_ttl_s),
            "duplicate_window": _ns(min(self.settings.member_ttl_s, 120.0)),
            "num_replicas": self.settings.replicas,
            "allow_rollup_hdrs": True,
            "allow_direct": True,
            "deny_delete": True,
        }

    def blobs_config(self, bucket: str) -> Config:
        """An object store bucket, laid out as every NATS client expects it."""
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,200}", bucket):
            raise SettingsError(f"bucket {bucket!r}: use letters, digits, _ and -")
        return {
            "name": f"OBJ_{bucket}",
            "subjects": [f"$O.{bucket}.C.>", f"$O.{bucket}.M.>"],
            "storage": "file",
            "retention": "limits",
            "discard": "new",
            "max_bytes": self.settings.bucket_bytes_max,
            "num_replicas": self.settings.replicas,
            "allow_rollup_hdrs": True,
            "allow_direct": True,
        }


def check_pool(pool: str) -> None:
    """Refuse a name that cannot be a pool's (RT-NATS-2). Raises SettingsError."""
    if not _POOL.fullmatch(pool):
        raise SettingsError(
            f"pool {pool!r}: use 1 to 40 of a-z, 0-9, _ and -, not - or _ first"
        )


def pool_consumer_name(pool: str) -> str:
    """The consumer's name; its pending count is what autoscaling reads."""
    return f"pool_{pool}"


def check_log(config: Config, settings: BusSettings) -> int:
    """The generation of a log that fits these settings.

    Raises:
        SettingsError: another shard count or format than configured (RT-NATS-10).
    """
    metadata = config.get("metadata")
    found = metadata if isinstance(metadata, dict) else {}
    shards = found.get("noetl_shard_count", "none")
    if shards != str(settings.shard_count):
        raise SettingsError(
            f"stream {settings.event_stream!r} was made with shard_count {shards}, "
            f"this process is configured with {settings.shard_count}: set "
            f"NOETL_SHARD_COUNT to {shards}, or use another stream"
        )
    version = found.get("noetl_format", "none")
    if version != str(FORMAT_VERSION):
        raise SettingsError(
            f"stream {settings.event_stream!r} has format version {version}, this "
            f"build reads {FORMAT_VERSION}: run the release that wrote it"
        )
    return int(found.get("noetl_generation", "0"))


def _ns(seconds: float) -> int:
    return int(seconds * 1_000_000_000)
