"""What runs too long for every test run: `python -m tests.torture`."""
