"""The calls that every generated client must make: here with openapi-generator's for Python."""

import sys

from openapi_client import AcquireBody, ApiClient, ApiException, Configuration, LocksApi, Problem, RenewBody

KEY = "clients/python"


def calls(server: str, token: str) -> None:
    with ApiClient(Configuration(host=server, access_token=token)) as client:
        locks = LocksApi(client)

        wanted = AcquireBody(ttl_ms=30_000, holder="first", metadata={"job": "42"})
        answer = locks.acquire_with_http_info(KEY, acquire_body=wanted)
        lease = answer.data
        assert answer.status_code == 201 and lease.key == KEY and lease.holder == "first", lease
        assert lease.metadata == {"job": "42"} and lease.fencing_token > 0 and 0 < lease.expires_in_ms <= 30_000, lease
        assert lease.acquired_at < lease.expires_at, lease

        try:
            locks.acquire(KEY)
            raise AssertionError("acquired twice")
        except ApiException as refusal:
            held = problem(423, refusal)
        assert held.type == "urn:leasehold:problem:lock-held" and held.holder == "first" and held.waiters == 0, held
        assert held.fencing_token == lease.fencing_token, held
        assert held.held_for_ms is not None and held.held_for_ms >= 0, held
        assert held.expires_in_ms is not None and 0 < held.expires_in_ms <= 30_000, held

        renewed = locks.renew(KEY, lease.lease_id, renew_body=RenewBody(ttl_ms=60_000))
        assert renewed.fencing_token == lease.fencing_token and renewed.expires_in_ms > 30_000, renewed

        assert locks.release_with_http_info(KEY, lease_id=lease.lease_id).status_code == 204

        try:
            locks.renew(KEY, lease.lease_id)
            raise AssertionError("renewed after the release")
        except ApiException as refusal:
            lost = problem(409, refusal)
        assert lost.type == "urn:leasehold:problem:lease-lost" and lost.reason == "not_held", lost


def problem(status: int, refusal: ApiException) -> Problem:
    """The problem that a refusal carries."""
    assert refusal.status == status and isinstance(refusal.data, Problem), refusal
    return refusal.data


calls(sys.argv[1], sys.argv[2])
print("python: acquired, held, renewed, released, lost")
