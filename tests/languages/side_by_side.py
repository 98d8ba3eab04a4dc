"""Runs the tests of this folder side by side, as most of their time is waiting. Each test starts the servers that it needs.

Arguments choose tests: `test_migration`, `test_five_calls.Python`.
"""

import concurrent.futures
import signal
import sys
import time
import unittest

AT_ONCE = 8


def flat(suite):
    for test in suite:
        if isinstance(test, unittest.TestSuite):
            yield from flat(test)
        else:
            yield test


def run(test):
    begun = time.monotonic()
    result = unittest.TestResult()
    test.run(result)
    return test, result, time.monotonic() - begun


def main(names):
    loader = unittest.TestLoader()
    tests = list(flat(loader.loadTestsFromNames(names) if names else loader.discover(".")))
    tests.sort(key=lambda test: test.id().rpartition(".")[2])  # not all of the heaviest language at once
    failed = not tests
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        for future in concurrent.futures.as_completed([pool.submit(run, test) for test in tests]):
            test, result, seconds = future.result()
            problems = [text for _, text in result.failures + result.errors + result.skipped]
            failed |= bool(problems)
            verdict = "FAILED" if problems else "ok"
            print(f"{verdict:6} {seconds:5.1f} s  {test.id()}", *problems, sep="\n", flush=True)
    print(f"{len(tests)} tests")
    return 1 if failed else 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    sys.exit(main(sys.argv[1:]))
