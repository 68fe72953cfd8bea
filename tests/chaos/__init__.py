"""Real deployments that break under load, and what became of everybody's sessions.

`site` is the application, `browsers` who uses it and what they were told, `faults` what breaks,
`border` a network that does, `audit` what is left. `python -m tests.chaos` runs it all; the short
versions are in `tests/integration/test_chaos.py`.
"""
