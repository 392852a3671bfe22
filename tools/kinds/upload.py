"""``s3`` and ``gcs``: a file into an object store (TL §3.20)."""

from __future__ import annotations

from typing import ClassVar, Final

from state_builder.records import encode_json
from tools.contract import CallContext, Tool, ToolLimits, ToolResult
from tools.doors.files import confined
from tools.doors.objects import access_of, place_of, put
from tools.errors import configuration
from tools.fields import Fields, map_of, text_of

_SCHEMES: Final = {"s3": "s3", "gcs": "gs"}


class Upload(Tool):
    """Puts one file of this worker under an address."""

    kind: ClassVar[str] = ""

    def __init__(self, limits: ToolLimits) -> None:
        self._limits = limits

    def validate(self, config: Fields) -> Fields:
        """``path``, ``destination``, ``access``, ``attributes``."""
        scheme = _SCHEMES[self.kind]
        destination = text_of(config, "destination")
        if destination is None:
            raise configuration(f"destination is required, like {scheme}://bucket/key")
        place = place_of(destination, "destination")
        if place.scheme != scheme:
            raise configuration(f"destination: kind {self.kind} wants {scheme}://…")
        source = text_of(config, "source")
        if source is None:
            raise configuration("source is required: a file below the file roots")
        attributes = {
            str(name): value if isinstance(value, str) else encode_json(value).decode()
            for name, value in map_of(config, "metadata").items()
        }
        content_type = text_of(config, "content_type") or "application/octet-stream"
        return {
            "path": str(confined(source, self._limits, field="source")),
            "source": source,
            "destination": destination,
            "access": access_of(scheme, config),
            "content_type": content_type,
            "attributes": {"Content-Type": content_type, **attributes},
        }

    async def run(self, config: Fields, call: CallContext) -> ToolResult:
        """Where it is now, and how large."""
        file = confined(str(config["path"]), self._limits, field="source")
        if not file.is_file():
            raise configuration(f"source: there is no file '{config['source']}'")
        place = place_of(str(config["destination"]), "destination")
        attributes = {k: str(v) for k, v in map_of(config, "attributes").items()}
        size = file.stat().st_size
        await put(place, map_of(config, "access"), file, attributes)
        return ToolResult(
            data={
                "status": "success",
                "uri": place.uri,
                "bucket": place.bucket,
                "blob": place.key,
                "size": size,
                "content_type": config["content_type"],
                "message": f"{config['source']} is at {place.uri}",
            }
        )


class S3(Upload):
    """To Amazon S3, or whatever speaks its protocol."""

    kind: ClassVar[str] = "s3"


class Gcs(Upload):
    """To Google Cloud Storage."""

    kind: ClassVar[str] = "gcs"
