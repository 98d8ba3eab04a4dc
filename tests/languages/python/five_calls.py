import os
import sys
import time

from leasehold import Locks, Refused

key = sys.argv[1] if len(sys.argv) > 1 else "reports/nightly"
locks = Locks(os.environ.get("LOCK_URL", "http://127.0.0.1:8080"), os.environ.get("LOCK_TOKEN"))

lease = locks.acquire(key, ttl_ms=6000, wait_ms=10_000, holder="python")
print(f"acquired with token {lease.fencing_token}, mine for {lease.left_ms()} ms")

try:
    locks.acquire(key)
except Refused as refused:
    if refused.status != 423:
        raise
    print(f"423 lock-held: {refused.problem['holder']} has it for {refused.problem['expires_in_ms']} ms")

time.sleep(lease.renew_after)  # the work; long work renews each time that renew_after has passed
lease.renew()
print(f"renewed, mine for {lease.left_ms()} ms")

lease.release()
print("released")

try:
    lease.renew()
except Refused as refused:
    if refused.status != 409:
        raise
    print(f"409 lease-lost: {refused.problem['reason']}")  # a lease that is over does not come back: stop the work
