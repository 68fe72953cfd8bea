"""Typical uses, checked by mypy and pyright in strict mode, and never run."""
