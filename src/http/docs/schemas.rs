//! What utoipa's derive cannot say about a schema.

use std::time::Duration;

use serde_json::{Value, json};

use crate::http::health::{Status, StoreStatus};
use crate::http::problem::{Effect, Reason};
use crate::http::wire::Limits;
use crate::lock::lease::{Metadata, millis};

/// Text without control characters, as a regular expression.
const PRINTABLE_PATTERN: &str = r"^[^\x00-\x1F\x7F-\x9F]*$";

/// Adds keywords that utoipa's derive lacks; for an enumeration with a description it would generate a union.
pub(super) fn complete_schemas(schemas: &mut Value, limits: Option<&Limits>) {
    let mut add = |schema: &str, property: &str, keyword: &str, value: Value| {
        schemas[schema]["properties"][property][keyword] = value;
    };
    add(
        "AcquireBody",
        "metadata",
        "maxProperties",
        json!(Metadata::MAX_PAIRS),
    );
    add(
        "AcquireBody",
        "metadata",
        "propertyNames",
        json!({"minLength": 1, "pattern": PRINTABLE_PATTERN}),
    );
    add(
        "AcquireBody",
        "metadata",
        "additionalProperties",
        json!({"type": "string", "pattern": PRINTABLE_PATTERN}),
    );
    add("AcquireBody", "holder", "pattern", json!(PRINTABLE_PATTERN));
    add(
        "Problem",
        "reason",
        "enum",
        json!([Reason::NotHeld, Reason::HeldByOther, Reason::Released]),
    );
    add(
        "Problem",
        "outcome",
        "enum",
        json!([Effect::None, Effect::Unknown]),
    );
    add(
        "Readiness",
        "status",
        "enum",
        json!([Status::Ready, Status::Starting, Status::Draining]),
    );
    add(
        "Readiness",
        "store",
        "enum",
        json!([
            StoreStatus::Ok,
            StoreStatus::Degraded,
            StoreStatus::Unreached
        ]),
    );
    if let Some(limits) = limits {
        bound(&mut schemas["AcquireBody"], "ttl_ms", limits.max_ttl);
        bound(&mut schemas["AcquireBody"], "wait_ms", limits.max_wait);
        bound(
            &mut schemas["AcquireBody"],
            "hold_at_least_ms",
            limits.max_ttl,
        );
        bound(&mut schemas["RenewBody"], "ttl_ms", limits.max_ttl);
    }
}

/// Sets the maximum of a property in milliseconds, and lowers its default and example to it.
fn bound(schema: &mut Value, property: &str, maximum: Duration) {
    let maximum = millis(maximum);
    let lower = |value: &mut Value| {
        if value.as_u64().is_some_and(|value| value > maximum) {
            *value = json!(maximum);
        }
    };
    schema["example"]
        .get_mut(property)
        .into_iter()
        .for_each(lower);
    let property = &mut schema["properties"][property];
    property.get_mut("default").into_iter().for_each(lower);
    property["maximum"] = json!(maximum);
}
