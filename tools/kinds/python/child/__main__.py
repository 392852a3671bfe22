"""Loads the program beside this file under a name that no user module has.

The interpreter may be another one, where nothing of this product is installed, so the
package cannot be imported by its real name; and user code must not find its modules
under short names either.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

NAME = "_noetl_child"


def load() -> None:
    """Make the package importable as ``NAME``."""
    here = Path(__file__).parent
    spec = spec_from_file_location(
        NAME, here / "__init__.py", submodule_search_locations=[str(here)]
    )
    assert spec is not None and spec.loader is not None
    package = sys.modules[NAME] = module_from_spec(spec)
    spec.loader.exec_module(package)


if __name__ == "__main__":
    load()
    import_module(f"{NAME}.service").main(sys.argv[1:])
