"""A small JSON API to page through: a shop's orders, as untidy as real ones.

    python examples/orders/api.py PORT

`GET /orders?offset=0&limit=25` gives one page, `GET /countries/NL` a country's VAT
rate. Every seventh request is refused with 503, as APIs do when they are busy. The
orders are the same at every start. Standard library only.
"""

from __future__ import annotations

import itertools
import json
import random
import sys
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

ORDERS = 240
LIMIT_MAX = 50
BUSY_EVERY = 7
VAT = {"NL": 0.21, "DE": 0.19, "FR": 0.20, "ES": 0.21, "IT": 0.22}


def make_orders() -> list[dict[str, Any]]:
    """All orders; texts where numbers should be, mixed case, a tenth cancelled."""
    dice = random.Random(7)
    orders = []
    for number in range(1, ORDERS + 1):
        country = dice.choice(list(VAT))
        cents = dice.randint(500, 250_000)
        orders.append(
            {
                "id": f"ORD-{number:05}",
                "country": dice.choice([country, country.lower(), f" {country} "]),
                "amount": f"{cents / 100:,.2f}",
                "ordered": f"{dice.randint(1, 28):02}/{dice.randint(1, 12):02}/2026",
                "status": "cancelled" if dice.random() < 0.1 else "paid",
            }
        )
    return orders


class Api(BaseHTTPRequestHandler):
    """The routes."""

    protocol_version = "HTTP/1.1"
    orders = make_orders()
    requests = itertools.count(1)

    def do_GET(self) -> None:
        """Answer a GET."""
        address = urlsplit(self.path)
        if address.path == "/":
            self.answer(HTTPStatus.OK, {"routes": ["/orders", "/countries/{code}"]})
        elif next(self.requests) % BUSY_EVERY == 0:
            self.answer(HTTPStatus.SERVICE_UNAVAILABLE, {"error": "busy, come back"})
        elif address.path == "/orders":
            self.page(parse_qs(address.query))
        elif address.path.startswith("/countries/"):
            self.country(address.path.removeprefix("/countries/"))
        else:
            self.answer(HTTPStatus.NOT_FOUND, {"error": f"no route {address.path}"})

    def page(self, query: dict[str, list[str]]) -> None:
        """One page of orders."""
        try:
            offset = int(query.get("offset", ["0"])[0])
            limit = min(int(query.get("limit", ["25"])[0]), LIMIT_MAX)
        except ValueError:
            self.answer(HTTPStatus.BAD_REQUEST, {"error": "offset, limit: numbers"})
            return
        found = self.orders[offset : offset + limit]
        more = offset + limit < len(self.orders)
        self.answer(HTTPStatus.OK, {"orders": found, "more": more})

    def country(self, code: str) -> None:
        """What is known of one country."""
        if code in VAT:
            self.answer(HTTPStatus.OK, {"code": code, "vat": VAT[code]})
        else:
            self.answer(HTTPStatus.NOT_FOUND, {"error": f"no country {code}"})

    def answer(self, status: HTTPStatus, body: Any) -> None:
        """Send a JSON body."""
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def main() -> None:
    """Serve until interrupted."""
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 8765
    ThreadingHTTPServer(("127.0.0.1", port), Api).serve_forever()


if __name__ == "__main__":
    main()
