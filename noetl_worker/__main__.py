"""``python -m noetl_worker``: the same as the ``noetl`` command."""

from __future__ import annotations

from noetl_worker.cli import main

if __name__ == "__main__":
    main()
