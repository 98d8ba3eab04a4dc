"""Works under a lease: work.py KEY SECONDS FILE [WORKERS]. The workers write to the file what they do, and when."""

import os
import sys
import threading
import time

from leasehold import Locks, Lost, Refused

key, seconds, path, *workers = sys.argv[1:]
locks = Locks()
ttl = float(os.environ.get("WORK_TTL", "3"))
limits = {name: float(os.environ["WORK_" + name.upper()]) for name in ("wait", "max_hold") if "WORK_" + name.upper() in os.environ}
failures = []


def milliseconds():
    return time.time_ns() // 1_000_000


def log(word, lease, at):
    with open(path, "a", encoding="ascii") as file:
        file.write(f"{word} {lease.fencing_token} {at}\n")


def signal(lease):
    lease.lost.wait()
    log("signal", lease, milliseconds())


def work():
    try:
        with locks.acquire(key, ttl=ttl, holder="python", **limits) as lease:
            log("begin", lease, milliseconds())
            threading.Thread(target=signal, args=(lease,), daemon=True).start()
            end = time.monotonic() + float(seconds)
            while time.monotonic() < end:
                at = milliseconds()
                lease.check()
                log("beat", lease, at)
                time.sleep(0.02)
            log("end", lease, milliseconds())
        print("released")
    except (Lost, Refused, OSError) as failure:
        failures.append(failure)
        print(f"{type(failure).__name__}: {failure}", file=sys.stderr)


threads = [threading.Thread(target=work) for _ in range(int(*workers or "1"))]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
sys.exit(1 if failures else 0)
