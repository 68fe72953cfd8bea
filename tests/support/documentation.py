"""scripts/docs.py, which builds the documentation site, as a module."""

from __future__ import annotations

from importlib.util import module_from_spec, spec_from_file_location
from types import ModuleType

from tests.support import ROOT


def builder() -> ModuleType:
    """A new module each time, so that a test may change its places."""
    spec = spec_from_file_location("docs_builder", ROOT / "scripts" / "docs.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
