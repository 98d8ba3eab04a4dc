//! Requests whose form is right and whose meaning is wrong: they do change locks, so each test ends them again.

use std::thread::sleep;
use std::time::Duration;

use serde_json::{Value, json};

use super::request::{Request, delete, get, post, put};
use super::row::OK;
use super::stage::Stage;
use crate::support::http::Reply;

/// The shortest TTL, with as much again for clocks.
const EXPIRY: Duration = Duration::from_millis(800);

const SHORT: &str = r#"{"ttl_ms":100}"#;

#[test]
fn wrong_uses_of_leases_are_refused_on_redis() {
    use_leases_wrongly(Stage::on_redis());
}

#[test]
fn wrong_uses_of_leases_are_refused_in_memory() {
    use_leases_wrongly(Stage::in_memory());
}

fn use_leases_wrongly(stage: Stage) {
    lend_a_lease_id_to_another_key(&stage);
    release_twice(&stage);
    come_after_the_expiry(&stage);
    release_by_token(&stage);
    repeat_acquisitions(&stage);
    break_leases(&stage);
    keep_odd_texts(&stage);
    stage.expect_nothing_held();
    stage.end();
}

fn lend_a_lease_id_to_another_key(stage: &Stage) {
    let (one, two) = (acquire(stage, "one"), acquire(stage, "two"));
    let refused = stage.expect(put("/locks/one/lease").lease(&two), 409, "lease-lost");
    assert_eq!(refused.json()["reason"], "held_by_other");
    let refused = stage.expect(delete("/locks/one").lease(&two), 409, "lease-lost");
    assert_eq!(refused.json()["reason"], "held_by_other");
    let refused = stage.expect(put("/locks/three/lease").lease(&one), 409, "lease-lost");
    assert_eq!(refused.json()["reason"], "not_held");
    let refused = stage.expect(delete("/locks/three").lease(&one), 409, "lease-lost");
    assert_eq!(refused.json()["reason"], "not_held");
    stage.expect(delete("/locks/one").lease(&one), 204, OK);
    stage.expect(delete("/locks/two").lease(&two), 204, OK);
}

fn release_twice(stage: &Stage) {
    let first = acquire(stage, "twice");
    stage.expect(delete("/locks/twice").lease(&first), 204, OK);
    stage.expect(delete("/locks/twice").lease(&first), 204, OK);
    stage.expect(put("/locks/twice/lease").lease(&first), 409, "lease-lost");
    let second = acquire(stage, "twice");
    stage.expect(delete("/locks/twice").lease(&first), 204, OK);
    stage.expect(put("/locks/twice/lease").lease(&second), 200, OK);
    stage.expect(delete("/locks/twice").lease(&second), 204, OK);
}

fn come_after_the_expiry(stage: &Stage) {
    let late = stage
        .expect(post("/locks/late").json(SHORT), 201, OK)
        .json();
    sleep(EXPIRY);
    let refused = stage.expect(put("/locks/late/lease").lease(&late), 409, "lease-lost");
    assert_eq!(refused.json()["reason"], "not_held");
    let refused = stage.expect(delete("/locks/late").lease(&late), 409, "lease-lost");
    assert_eq!(refused.json()["reason"], "not_held");
    let next = acquire(stage, "late");
    let refused = stage.expect(put("/locks/late/lease").lease(&late), 409, "lease-lost");
    assert_eq!(refused.json()["reason"], "held_by_other");
    let refused = stage.expect(delete("/locks/late").lease(&late), 409, "lease-lost");
    assert_eq!(refused.json()["reason"], "held_by_other");
    stage.expect(delete("/locks/late").lease(&next), 204, OK);
}

fn release_by_token(stage: &Stage) {
    let lease = acquire(stage, "by-token");
    let token = token(&lease);
    let as_id = delete("/locks/by-token").header(format!("Lease-Id: {token}"));
    stage.expect(as_id, 400, "invalid-request");
    let padded = delete("/locks/by-token").header(format!("Lease-Id: {token:032}"));
    stage.expect(padded, 409, "lease-lost");
    let unforced = delete(format!("/locks/by-token?fencing_token={token}"));
    stage.expect(unforced.clone(), 400, "invalid-request");
    stage.expect(unforced.lease(&lease), 400, "invalid-request");
    stage.expect(
        forced("by-token", token).lease(&lease),
        400,
        "invalid-request",
    );
    stage.expect(delete("/locks/by-token").lease(&lease), 204, OK);
}

fn repeat_acquisitions(stage: &Stage) {
    let attempt = |body: &str| {
        post("/locks/again")
            .header("Idempotency-Key: again-and-again-1")
            .json(body)
    };
    let body = r#"{"ttl_ms":60000,"holder":"h","metadata":{"a":"b"}}"#;
    let lease = stage.expect(attempt(body), 201, OK).json();
    for same in [
        body,
        r#"{"ttl_ms":60000,"holder":"h","metadata":{"a":"b"},"wait_ms":50}"#,
        r#"{"metadata":{"a":"b"},"holder":"\u0068","ttl_ms":60000}"#,
    ] {
        let replay = stage.expect(attempt(same), 200, OK);
        assert_eq!(replay.header("idempotency-replayed"), Some("true"));
        for member in ["lease_id", "fencing_token", "expires_at"] {
            assert_eq!(replay.json()[member], lease[member], "{member}");
        }
    }
    for other in [
        r#"{"ttl_ms":60001,"holder":"h","metadata":{"a":"b"}}"#,
        r#"{"ttl_ms":60000,"holder":"H","metadata":{"a":"b"}}"#,
        r#"{"ttl_ms":60000,"metadata":{"a":"b"}}"#,
        r#"{"ttl_ms":60000,"holder":"h","metadata":{"a":"B"}}"#,
        "{}",
    ] {
        stage.expect(attempt(other), 422, "idempotency-key-reused");
    }
    let unlike = post("/locks/again").header("Idempotency-Key: again-and-again-2");
    stage.expect(unlike, 423, "lock-held");
    let elsewhere = post("/locks/elsewhere").header("Idempotency-Key: again-and-again-1");
    let elsewhere = stage.expect(elsewhere, 201, OK).json();
    assert_ne!(elsewhere["lease_id"], lease["lease_id"]);
    stage.expect(delete("/locks/elsewhere").lease(&elsewhere), 204, OK);

    stage.expect(delete("/locks/again").lease(&lease), 204, OK);
    let refused = stage.expect(attempt(body), 409, "lease-lost");
    assert_eq!(refused.json()["reason"], "released");

    let brief = || {
        post("/locks/brief")
            .header("Idempotency-Key: again-and-again-3")
            .json(SHORT)
    };
    let before = stage.expect(brief(), 201, OK).json();
    sleep(EXPIRY);
    let reply: Reply = stage.expect(brief(), 201, OK);
    assert_eq!(reply.header("idempotency-replayed"), None);
    let after = reply.json();
    assert_ne!(after["lease_id"], before["lease_id"]);
    assert!(token(&after) > token(&before), "{after} {before}");
    sleep(EXPIRY);
}

fn break_leases(stage: &Stage) {
    stage.expect(forced("never-used", 1), 204, OK);
    let lease = acquire(stage, "broken");
    let first = token(&lease);
    for wrong in [first - 1, first + 1, 0] {
        let refused = stage.expect(forced("broken", wrong), 409, "lease-lost");
        assert_eq!(refused.json()["reason"], "held_by_other");
    }
    stage.expect(put("/locks/broken/lease").lease(&lease), 200, OK);
    stage.expect(forced("broken", first), 204, OK);
    stage.expect(forced("broken", first), 204, OK);
    let refused = stage.expect(put("/locks/broken/lease").lease(&lease), 409, "lease-lost");
    assert_eq!(refused.json()["reason"], "not_held");
    let refused = stage.expect(delete("/locks/broken").lease(&lease), 409, "lease-lost");
    assert_eq!(refused.json()["reason"], "not_held");
    let next = acquire(stage, "broken");
    stage.expect(forced("broken", first), 409, "lease-lost");
    stage.expect(delete("/locks/broken").lease(&next), 204, OK);
}

/// Texts that are right, but mean something to JSON, Lua, Redis, logs or terminals.
fn keep_odd_texts(stage: &Stage) {
    let odd = [
        r#"\" ' ` { } [ ] % $ | : , ; = < > & # * ?"#,
        "%s %1 %d \\0 \\u0000",
        "nil null false NaN -0 1e309",
        "\u{feff}\u{2028}\u{202e}\u{fffd}\u{10ffff}e\u{301}😀",
        " ",
    ];
    for text in odd {
        let body = json!({"holder": text, "metadata": {text: text, "": text}});
        stage.expect(
            post("/locks/odd").json(body.to_string()),
            400,
            "invalid-request",
        );
        let body = json!({"holder": text, "metadata": {text: text, "empty": ""}});
        let lease = stage
            .expect(post("/locks/odd").json(body.to_string()), 201, OK)
            .json();
        let status = stage.expect(get("/locks/odd"), 200, OK).json();
        let renewed = stage
            .expect(put("/locks/odd/lease").lease(&lease), 200, OK)
            .json();
        for reply in [&lease, &status, &renewed] {
            assert_eq!(reply["holder"], body["holder"]);
            assert_eq!(reply["metadata"], body["metadata"]);
        }
        stage.expect(delete("/locks/odd").lease(&lease), 204, OK);
    }
}

impl Request {
    /// Adds the id of this lease.
    fn lease(self, lease: &Value) -> Self {
        let id = lease["lease_id"].as_str().expect("a lease has an id");
        self.header(format!("Lease-Id: {id}"))
    }
}

fn acquire(stage: &Stage, key: &str) -> Value {
    stage.expect(post(format!("/locks/{key}")), 201, OK).json()
}

fn forced(key: &str, token: u64) -> Request {
    delete(format!("/locks/{key}?force=true&fencing_token={token}"))
}

fn token(lease: &Value) -> u64 {
    lease["fencing_token"]
        .as_u64()
        .expect("a lease has a token")
}
