//! The parameters of the operations.

use serde_json::{Value, json};

use crate::http::wire::{
    DEFAULT_LIST_LIMIT, IDEMPOTENCY_KEY_LENGTH, MAX_CURSOR_BYTES, MAX_LIST_LIMIT,
};
use crate::lock::key::MAX_KEY_BYTES;
use crate::lock::lease::FencingToken;

/// The keys as a regular expression. It avoids look-ahead, which some engines lack. So it admits a last segment
/// `lease`, although the service refuses it.
const KEY_PATTERN: &str = r"^(?:\.{0,2}[A-Za-z0-9_~:@+=,-][A-Za-z0-9._~:@+=,-]*|\.{3}[A-Za-z0-9._~:@+=,-]*)(?:/(?:\.{0,2}[A-Za-z0-9_~:@+=,-][A-Za-z0-9._~:@+=,-]*|\.{3}[A-Za-z0-9._~:@+=,-]*))*$";

/// The description of a parameter. `/docs` sends examples as they are, so only the key has one: an example of an
/// `Idempotency-Key` would give two readers the same lease.
pub(super) fn parameter(name: &str) -> Value {
    match name {
        "key" => json!({
            "name": "key", "in": "path", "required": true,
            "description": "The key of the lock, percent-encoded. A slash can be written as `/` or `%2F`. The key must not \
                have an empty, `.` or `..` segment, and its last segment must not be `lease`.",
            "schema": {"type": "string", "minLength": 1, "maxLength": MAX_KEY_BYTES, "pattern": KEY_PATTERN},
            "example": "my_lock",
        }),
        "Lease-Id" | "optional Lease-Id" => json!({
            "name": "Lease-Id", "in": "header", "required": name == "Lease-Id",
            "description": "The `lease_id` of the lease, from the answer to its acquisition.",
            "schema": {"type": "string", "pattern": "^[0-9a-f]{32}$"},
        }),
        "Idempotency-Key" => json!({
            "name": "Idempotency-Key", "in": "header", "required": false,
            "description": "Makes it safe to repeat the request. Use a random value for each acquisition (such as a UUID), and \
                the same value for its repetitions. The value is as secret as a lease id: any client that sends it \
                gets the lease.",
            "schema": {
                "type": "string", "pattern": "^[!-~]+$",
                "minLength": IDEMPOTENCY_KEY_LENGTH.start(), "maxLength": IDEMPOTENCY_KEY_LENGTH.end(),
            },
        }),
        "force" => json!({
            "name": "force", "in": "query", "required": false,
            "description": "`true` breaks the lease that `fencing_token` names.",
            "schema": {"type": "boolean", "default": false},
        }),
        "required force" => json!({
            "name": "force", "in": "query", "required": true,
            "description": "`true`: you know that no client counts on a lost lease.",
            "schema": {"type": "boolean", "enum": [true]},
        }),
        "fencing_token" => json!({
            "name": "fencing_token", "in": "query", "required": false,
            "description": "The fencing token of the lease to break, from the status of the lock. Only with `force=true`.",
            "schema": {"type": "integer", "format": "int64", "minimum": 0, "maximum": FencingToken::MAX},
        }),
        "prefix" => json!({
            "name": "prefix", "in": "query", "required": false,
            "description": "List only keys that begin with this text, such as `billing/`.",
            "schema": {"type": "string", "maxLength": MAX_KEY_BYTES, "pattern": "^[A-Za-z0-9._~:@/+=,-]*$"},
        }),
        "limit" => json!({
            "name": "limit", "in": "query", "required": false,
            "description": "The maximum number of locks of the page.",
            "schema": {
                "type": "integer", "format": "int32", "minimum": 1, "maximum": MAX_LIST_LIMIT,
                "default": DEFAULT_LIST_LIMIT,
            },
        }),
        "cursor" => json!({
            "name": "cursor", "in": "query", "required": false,
            "description": "The `next_cursor` of the previous page.",
            "schema": {"type": "string", "minLength": 1, "maxLength": MAX_CURSOR_BYTES},
        }),
        other => unreachable!("{other} is in the table above"),
    }
}
