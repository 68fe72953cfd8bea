import pytest

# Their assertions tell the values that differ, as those of test modules do.
pytest.register_assert_rewrite("tests.properties.state_machine", "tests.properties.sealed_records")
