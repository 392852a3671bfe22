"""Which source column goes into which target column (TL-TR-03)."""

from __future__ import annotations

from dataclasses import dataclass

from tools.errors import ToolCallError, configuration


@dataclass(frozen=True, kw_only=True)
class Table:
    """A target table as its catalogue has it.

    Attributes:
        name: schema and table.
        types: column → type, in order of the table.
        key: columns of the primary key.
    """

    name: tuple[str, str]
    types: dict[str, str]
    key: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Route:
    """The columns of a transfer: ``sources[i]`` goes into ``targets[i]``."""

    sources: tuple[str, ...]
    targets: tuple[str, ...]


def route_of(source: list[str], mapping: dict[str, str], table: Table) -> Route:
    """The columns that move.

    Raises ToolCallError of ``configuration`` naming every column that is not there.
    """
    pairs = dict(mapping) if mapping else {name: name for name in source}
    missing = [name for name in pairs.values() if name not in source]
    if missing:
        raise _absent("mapping: the source gives no column", missing, source)
    unknown = [name for name in pairs if name not in table.types]
    if unknown:
        where = ".".join(part for part in table.name if part)
        raise _absent(f"{where} has no column", unknown, list(table.types))
    if len(set(source)) < len(source):
        twice = sorted({name for name in source if source.count(name) > 1})
        raise configuration(f"the source gives {', '.join(twice)} more than once")
    return Route(sources=tuple(pairs.values()), targets=tuple(pairs))


def keys_of(given: list[str], table: Table, route: Route) -> list[str]:
    """Columns an upsert tells rows apart by (TL-TR-08)."""
    keys = given or list(table.key)
    where = ".".join(part for part in table.name if part)
    if not keys:
        raise configuration(
            f"mode upsert needs key_columns: {where} has no primary key"
        )
    missing = [name for name in keys if name not in route.targets]
    if missing:
        raise _absent("key_columns: not among the columns that move:", missing, [])
    return keys


def _absent(what: str, names: list[str], known: list[str]) -> ToolCallError:
    there = f" (it has: {', '.join(known[:30])})" if known else ""
    return configuration(f"{what} {', '.join(repr(name) for name in names)}{there}")
