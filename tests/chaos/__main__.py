"""Break every deployment in every way, and print what became of everybody.

python -m tests.chaos [SCENARIO ...] [--seconds 2] [--runs 1] [--variant TEXT] [--json FILE]
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path

from tests.chaos.audit import Report
from tests.chaos.faults import SCENARIOS
from tests.chaos.figures import cases, measure, summary


def main() -> int:
    """Run what was asked for, or all; 1 if something happened that may never happen."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos")
    parser.add_argument("scenarios", nargs="*", choices=[[], *SCENARIOS], metavar="SCENARIO")
    parser.add_argument("--seconds", type=float, default=2, help="of load around each fault")
    parser.add_argument("--runs", type=int, default=1, help="of each variant")
    parser.add_argument("--variant", default="", help="only those whose name contains this")
    parser.add_argument("--json", type=Path, help="write every run's figures there")
    given = parser.parse_args()
    all_reports, broken = list[Report](), False
    for scenario in given.scenarios or SCENARIOS:
        for case in cases(scenario, given.seconds):
            if given.variant not in case.variant:
                continue
            reports, never = measure(case, given.runs)
            all_reports += reports
            broken = broken or bool(never)
            print(f"{scenario} ({case.variant})\n    {summary(reports)}")
            print("".join(f"    NEVER: {line}\n" for line in never), end="", flush=True)
    if given.json:
        rows = [dataclasses.asdict(report) for report in all_reports]
        given.json.write_text(json.dumps(rows, indent=1))
    return int(broken)


if __name__ == "__main__":
    sys.exit(main())
