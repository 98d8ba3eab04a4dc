"""The calls that every generated client must make: here with openapi-python-client's."""

import sys
from typing import TypeVar

from leasehold_client import AuthenticatedClient
from leasehold_client.api.locks import acquire, release, renew
from leasehold_client.models import AcquireBody, AcquireBodyMetadata, Lease, Problem, RenewBody
from leasehold_client.models.problem_reason import ProblemReason
from leasehold_client.types import Response

KEY = "clients/python-httpx"
Expected = TypeVar("Expected", Lease, Problem)


def calls(server: str, token: str) -> None:
    with AuthenticatedClient(base_url=server, token=token) as client:
        metadata = AcquireBodyMetadata.from_dict({"job": "42"})
        wanted = AcquireBody(ttl_ms=30_000, holder="first", metadata=metadata)
        lease = answered(201, Lease, acquire.sync_detailed(KEY, client=client, body=wanted))
        assert lease.key == KEY and lease.holder == "first" and lease.metadata["job"] == "42", lease
        assert lease.fencing_token > 0 and 0 < lease.expires_in_ms <= 30_000 and lease.acquired_at < lease.expires_at, lease

        held = answered(423, Problem, acquire.sync_detailed(KEY, client=client))
        assert held.type_ == "urn:leasehold:problem:lock-held" and held.holder == "first" and held.waiters == 0, held
        assert held.fencing_token == lease.fencing_token, held
        assert isinstance(held.held_for_ms, int) and held.held_for_ms >= 0, held
        assert isinstance(held.expires_in_ms, int) and 0 < held.expires_in_ms <= 30_000, held

        longer = renew.sync_detailed(KEY, client=client, lease_id=lease.lease_id, body=RenewBody(ttl_ms=60_000))
        renewed = answered(200, Lease, longer)
        assert renewed.fencing_token == lease.fencing_token and renewed.expires_in_ms > 30_000, renewed

        assert release.sync_detailed(KEY, client=client, lease_id=lease.lease_id).status_code == 204

        lost = answered(409, Problem, renew.sync_detailed(KEY, client=client, lease_id=lease.lease_id))
        assert lost.type_ == "urn:leasehold:problem:lease-lost" and lost.reason == ProblemReason.NOT_HELD, lost


def answered(status: int, model: type[Expected], answer: Response[Lease | Problem]) -> Expected:
    """What was answered, with its type."""
    assert answer.status_code == status and isinstance(answer.parsed, model), answer
    return answer.parsed


calls(sys.argv[1], sys.argv[2])
print("python-httpx: acquired, held, renewed, released, lost")
