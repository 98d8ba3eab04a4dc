"""What the document says in words, because OpenAPI has no others for it.

A request that is meant to be accepted keeps to these rules too. Requests that are meant to be refused are left alone, and so is
every check of an answer.
"""

import json
import os
import urllib.request

import schemathesis
from schemathesis import GenerationMode

MAX_BYTES = {"holder": 256, "metadata": 4096}
LEASE_ID = "0123456789abcdef0123456789abcdef"


def given_out_cursor():
    """A cursor is opaque: only one that the service gave out is one. Two locks are held, to have more than one page."""
    server = os.environ["LEASEHOLD_TEST_SERVER"]
    for key in ("held-for-a-cursor/1", "held-for-a-cursor/2"):
        body = json.dumps({"ttl_ms": 3_600_000}).encode()
        headers = {"Content-Type": "application/json", "Idempotency-Key": f"for-all-cursors-of-{key[-1]}"}
        urllib.request.urlopen(urllib.request.Request(f"{server}/locks/{key}", body, headers, method="POST"))
    with urllib.request.urlopen(f"{server}/locks?limit=1") as page:
        return json.load(page)["next_cursor"]


CURSOR = given_out_cursor()


@schemathesis.hook
def filter_case(context, case):
    return not is_meant_to_pass(case) or (has_key(case) and is_short_enough(case))


@schemathesis.hook
def map_case(context, case):
    if is_meant_to_pass(case):
        write_as_digits(case.query)
        if case.method == "DELETE" and "key" in (case.path_parameters or {}):
            release_or_break(case)
        if "cursor" in (case.query or {}):
            case.query["cursor"] = CURSOR
    return case


@schemathesis.hook
def before_add_examples(context, examples):
    """Examples do not pass through the two above."""
    examples[:] = [map_case(context, case) for case in examples if filter_case(context, case)]


def is_meant_to_pass(case):
    return case.meta is not None and case.meta.generation.mode == GenerationMode.POSITIVE


def has_key(case):
    """The last segment of a key is not `lease`."""
    key = (case.path_parameters or {}).get("key", "")
    return str(key).replace("%2F", "/").split("/")[-1] != "lease"


def is_short_enough(case):
    """The bounds of texts are bytes; OpenAPI counts characters."""
    body = case.body if isinstance(case.body, dict) else {}
    texts = {"holder": [body.get("holder", "")], "metadata": [text for pair in body.get("metadata", {}).items() for text in pair]}
    return all(sum(len(text.encode()) for text in texts[field]) <= limit for field, limit in MAX_BYTES.items())


def write_as_digits(fields):
    """Integers of a query are digits alone; JSON Schema takes `1.0` for one as well."""
    for name, value in fields.items() if isinstance(fields, dict) else ():
        if isinstance(value, float):
            fields[name] = int(value)


def release_or_break(case):
    """A release is by `Lease-Id` alone; a break by `force=true` and `fencing_token`, without one."""
    if case.query.get("force") in (True, "true"):
        case.headers.pop("Lease-Id", None)
        case.query.setdefault("fencing_token", 1)
    else:
        case.query.pop("fencing_token", None)
        case.headers.setdefault("Lease-Id", LEASE_ID)
