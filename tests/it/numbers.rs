//! Numbers of milliseconds in a body. Python writes `30000.0` for a whole number, and JSON does not distinguish it from
//! `30000`.

use crate::support::http::{Reply, http};
use crate::support::leasehold::Leasehold;

const TTL: &str =
    "ttl_ms must be a whole number of milliseconds from 100 to 3600000 (LEASEHOLD_MAX_TTL_MS)";
const WAIT: &str =
    "wait_ms must be a whole number of milliseconds from 0 to 50000 (LEASEHOLD_MAX_WAIT_MS)";

/// Sends a body with one field, of this JSON text.
fn send(server: &Leasehold, call: (&str, &str), lease_id: &str, field: (&str, &str)) -> Reply {
    let headers = [("Content-Type", "application/json"), ("Lease-Id", lease_id)];
    let body = format!(r#"{{"{}": {}}}"#, field.0, field.1);
    http(server.addr(), call.0, call.1, &headers, Some(&body))
}

#[test]
fn whole_number_may_be_written_in_any_notation() {
    let server = Leasehold::in_memory();
    let notations = ["30000", "30000.0", "3e4", "3E+4", "0.3e5", "300000e-1"];
    for (n, written) in notations.into_iter().enumerate() {
        let (path, field) = (format!("/locks/n{n}"), ("ttl_ms", written));
        let lease = send(&server, ("POST", &path), "", field);
        assert_eq!(lease.status, 201, "{written}: {lease:?}");
        assert_eq!(lease.json()["ttl_ms"], 30_000, "{written}");
        let call = ("PUT", &*format!("{path}/lease"));
        let renewed = send(&server, call, &lease.lease_id(), field);
        assert_eq!(renewed.status, 200, "{written}: {renewed:?}");
        assert_eq!(renewed.json()["ttl_ms"], 30_000, "{written}");
    }
    let lease = send(&server, ("POST", "/locks/w"), "", ("wait_ms", "-0.0"));
    assert_eq!(lease.status, 201, "{lease:?}");
}

#[test]
fn refusal_of_a_number_names_field_unit_and_bounds() {
    let server = Leasehold::in_memory();
    let acquire = ("POST", "/locks/a");
    let renew = ("PUT", "/locks/a/lease");
    let no_number_of_milliseconds = [
        "30000.5",
        "3600001",
        "-5",
        "-30000.0",
        "1e30",
        "1e400",
        "18446744073709551616",
        "\"30000\"",
        "null",
        "true",
        "[30000]",
        "{}",
        "0.1e-5",
    ];
    let refused = |call, field: (&str, &str), detail| {
        let reply = send(&server, call, "0123456789abcdef0123456789abcdef", field);
        assert_eq!(reply.status, 400, "{field:?}: {reply:?}");
        assert_eq!(reply.json()["detail"], detail, "{field:?}");
    };
    for written in no_number_of_milliseconds {
        refused(acquire, ("ttl_ms", written), TTL);
        refused(acquire, ("wait_ms", written), WAIT);
        refused(renew, ("ttl_ms", written), TTL);
    }
    for written in ["0", "99", "99.0"] {
        refused(acquire, ("ttl_ms", written), TTL);
        refused(renew, ("ttl_ms", written), TTL);
    }
    refused(acquire, ("wait_ms", "50001"), WAIT);
}
