"""Loads the program beside this file under a name that no user module has.

The interpreter may be another one, where nothing of this product is installed, so the
package cannot be imported by its real name; and user code must not find its modules
under short names either.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from importlib.machinery import ModuleSpec, SourceFileLoader
from types import ModuleType

NAME = "_noetl_child"


def load() -> None:
    """Make the package importable as ``NAME``."""
    here = os.path.dirname(os.path.abspath(__file__))
    loader = SourceFileLoader(NAME, os.path.join(here, "__init__.py"))
    package = sys.modules[NAME] = ModuleType(NAME)
    package.__spec__ = ModuleSpec(NAME, loader, origin=loader.path, is_package=True)
    package.__path__ = [here]


if __name__ == "__main__":
    load()
    import_module(f"{NAME}.service").main(sys.argv[1:])
