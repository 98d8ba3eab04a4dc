"""Compares a report of checkov with the exceptions that are explained: checkov_exceptions.py REPORT"""

import json
import sys
from pathlib import Path

import yaml

EXCEPTIONS = Path(__file__).with_name("checkov-exceptions.yaml")


def main(report):
    results = json.loads(Path(report).read_text(encoding="utf-8"))
    summary = results["summary"]
    exceptions = yaml.safe_load(EXCEPTIONS.read_text(encoding="utf-8"))
    used, unexplained = set(), []
    for found in results["results"]["failed_checks"]:
        kind, variant = found["resource"].split(".")[0], Path(found["file_path"]).stem
        matching = [
            index for index, exception in enumerate(exceptions)
            if exception["check"] == found["check_id"] and kind in exception["kind"]
        ]
        used.update(matching)
        if not matching:
            unexplained.append(f"{found['check_id']} {found['check_name']!r}: {found['resource']} in {variant}")
    unused = [exception for index, exception in enumerate(exceptions) if index not in used]
    for line in unexplained:
        print(f"unexplained: {line}")
    for exception in unused:
        print(f"found nowhere any more: {exception['check']} for {', '.join(exception['kind'])}")
    # A report of nothing would be no proof.
    broken = summary["parsing_errors"] or summary["passed"] < 1000
    if broken:
        print(f"checkov did not look at everything: {summary}")
    print(f"checkov {summary['checkov_version']}: {summary['passed']} passed, "
          f"{summary['failed'] - len(unexplained)} explained, {len(unexplained)} unexplained")
    return 1 if unexplained or unused or broken else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
