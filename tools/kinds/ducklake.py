"""``ducklake``: a lake of Parquet files with its catalogue in PostgreSQL (TL §3.6)."""

from __future__ import annotations

from typing import ClassVar, Final

from state_builder.records import JSON
from tools.contract import CallContext, Tool, ToolLimits, ToolResult
from tools.doors.duck import (
    MEMORY,
    Answer,
    Duck,
    DuckSession,
    Opening,
    identifier,
    installed,
    text_literal,
)
from tools.doors.files import confined
from tools.doors.pg import address_of
from tools.errors import ToolCallError, configuration
from tools.fields import Fields, boolean_of, integer_of, map_of, text_of, texts_of
from tools.sql import statements_of

SQL_KEYS: Final = (
    *("query", "command", "commands", "queries", "sql"),
    *("query_b64", "command_b64", "commands_b64"),
)
EXTENSIONS: Final = ("ducklake", "postgres")
_INSTALLED_AS: Final = {"postgres": "postgres_scanner"}


class Ducklake(Tool):
    """Runs statements in a lake attached to a DuckDB in memory."""

    kind: ClassVar[str] = "ducklake"

    def __init__(self, limits: ToolLimits) -> None:
        self._limits = limits
        self._duck = Duck(limits)

    def validate(self, config: Fields) -> Fields:
        """``statements``, ``catalog``, ``name``, ``data_path`` and options.

        Raises ToolCallError of ``configuration``, also where an extension is absent
        and may not be downloaded (TL-IDX-02).
        """
        text = config.get("catalog_connection")
        given = {**config, "connection_string": text} if text else config
        catalog = address_of(given, where="catalog_connection: ")
        path = text_of(config, "data_path")
        if path is None:
            raise configuration("data_path is required: where the lake's files are")
        if "://" not in path:
            path = str(confined(path, self._limits, field="data_path"))
        if not self._limits.duckdb_allow_install:
            for name in EXTENSIONS:
                if not installed(_INSTALLED_AS.get(name, name)):
                    raise configuration(
                        f"kind 'ducklake' needs DuckDB's extension '{name}', which is "
                        "not installed on this worker; install it in the image or set "
                        "NOETL_DUCKDB_ALLOW_INSTALL=true"
                    )
        return {
            "statements": list(statements_of(config, SQL_KEYS)),
            "catalog": catalog,
            "name": text_of(config, "catalog_name") or "lake",
            "data_path": path,
            "create_catalog": boolean_of(config, "create_catalog", True),
            "use_catalog": boolean_of(config, "use_catalog", True),
            "as_objects": boolean_of(config, "as_objects", True),
            "memory_limit": text_of(config, "memory_limit") or "",
            "threads": integer_of(config, "threads", least=1, most=256) or 0,
        }

    async def run(self, config: Fields, call: CallContext) -> ToolResult:
        """Every statement's result, and the last one's at the top (TL-DL-03)."""
        opening = Opening(
            place=MEMORY,
            memory_limit=str(config["memory_limit"]),
            threads=integer_of(config, "threads", least=0, most=256) or 0,
            extensions=EXTENSIONS,
            setup=tuple(attach(config)),
        )
        async with self._duck.session(opening) as session:
            return ToolResult(data=await run_statements(session, config))


def attach(config: Fields) -> list[str]:
    """What connects the lake; holds the password, never shown (TL-DL-01)."""
    address = map_of(config, "catalog")
    words = {
        "host": address["host"],
        "port": address["port"],
        "dbname": address["database"],
        "user": address["user"],
        "password": address["password"],
        "sslmode": address["sslmode"],
    }
    connection = " ".join(
        f"{key}={_word(str(value))}" for key, value in words.items() if value
    )
    name = identifier(str(config["name"]))
    path = text_literal(str(config["data_path"]))
    options = f"DATA_PATH {path}"
    if not config["create_catalog"]:
        options += ", CREATE_IF_NOT_EXISTS false"
    lake = text_literal(f"ducklake:postgres:{connection}")
    statements = [f"ATTACH {lake} AS {name} ({options})"]
    if config["use_catalog"]:
        statements.append(f"USE {name}")
    return statements


def _word(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


async def run_statements(session: DuckSession, config: Fields) -> Fields:
    """Each statement in turn; an error holds what came before (TL-DL-03, TL-DL-04)."""
    statements = texts_of(config, "statements")
    done: list[JSON] = []
    answer = Answer(names=None)
    for index, statement in enumerate(statements):
        try:
            answer = await session.run(
                statement, index=index, as_objects=bool(config["as_objects"])
            )
        except ToolCallError as error:
            error.data = _data(config, done, None)
            raise
        done.append({"command_index": index, "status": "success", **_result(answer)})
    return _data(config, done, answer)


def _data(config: Fields, done: list[JSON], last: Answer | None) -> Fields:
    found: Fields = {
        "command_count": len(done),
        "commands": done,
        "catalog_info": {
            "catalog_name": config["name"],
            "data_path": config["data_path"],
        },
    }
    return found if last is None else {**found, **_result(last)}


def _result(answer: Answer) -> Fields:
    if answer.names is None:
        changed = answer.changed
        return {"columns": [], "row_count": changed, "affected_rows": changed}
    names: list[JSON] = [*answer.names]
    return {"columns": names, "rows": answer.rows, "row_count": len(answer.rows)}
