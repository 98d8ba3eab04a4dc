//! The committed OpenAPI document is the one that the program prints.

use std::collections::BTreeSet;
use std::fs;

use leasehold::http::problem::Kind;
use serde_json::{Value, json};

use crate::support::leasehold::Leasehold;

fn document() -> Value {
    serde_json::from_str(&leasehold::http::openapi()).expect("JSON")
}

fn operations(document: &Value) -> Vec<(String, String, Value)> {
    let paths = document["paths"].as_object().expect("paths");
    let of_path = |(path, item): (&String, &Value)| {
        let item = item.as_object().expect("a path item").clone();
        item.into_iter()
            .map(|(method, operation)| (path.clone(), method, operation))
            .collect::<Vec<_>>()
    };
    paths.iter().flat_map(of_path).collect()
}

#[test]
fn committed_document_is_up_to_date() {
    let committed = fs::read_to_string("openapi/openapi.json").expect("the committed document");
    assert!(
        committed == leasehold::http::openapi(),
        "run: cargo run -- openapi > openapi/openapi.json"
    );
}

#[test]
fn served_document_is_the_committed_one_with_the_limits_of_its_server() {
    let limits = [
        ("LEASEHOLD_MAX_TTL_MS", "5000"),
        ("LEASEHOLD_MAX_WAIT_MS", "700"),
    ];
    let server = Leasehold::start(limits);
    let mut expected = document();
    let schemas = &mut expected["components"]["schemas"];
    for (schema, property, maximum) in [
        ("AcquireBody", "ttl_ms", 5000),
        ("AcquireBody", "wait_ms", 700),
        ("RenewBody", "ttl_ms", 5000),
    ] {
        schemas[schema]["properties"][property]["maximum"] = json!(maximum);
        schemas[schema]["example"][property] = json!(maximum);
    }
    let acquire = &mut schemas["AcquireBody"]["properties"];
    acquire["ttl_ms"]["default"] = json!(5000);
    acquire["hold_at_least_ms"]["maximum"] = json!(5000);
    assert_eq!(
        server.api().call("GET", "/openapi.json", &[], None).json(),
        expected
    );
}

#[test]
fn each_operation_is_described_and_each_refusal_has_its_types_and_examples() {
    let document = document();
    for (path, method, operation) in operations(&document) {
        let what = format!("{method} {path}");
        for field in ["operationId", "summary", "description"] {
            assert!(
                operation[field]
                    .as_str()
                    .is_some_and(|text| !text.is_empty()),
                "{what} has no {field}"
            );
        }
        for (status, response) in operation["responses"].as_object().expect("responses") {
            assert!(
                !response["description"]
                    .as_str()
                    .unwrap_or_default()
                    .is_empty(),
                "{what} {status}"
            );
            assert!(
                response["headers"]["X-Request-Id"].is_object(),
                "{what} {status}"
            );
            // What is not ready is no problem, but a readiness.
            if status.as_str() < "400" || (path == "/readyz" && status == "503") {
                continue;
            }
            let content = &response["content"]["application/problem+json"];
            assert_eq!(
                content["schema"]["$ref"], "#/components/schemas/Problem",
                "{what} {status}"
            );
            for (name, example) in content["examples"].as_object().expect("examples") {
                let kind = Kind::ALL
                    .iter()
                    .find(|kind| kind.name() == name)
                    .expect("a kind");
                assert_eq!(kind.status().as_str(), status, "{what}");
                assert_eq!(
                    example["value"]["type"],
                    format!("urn:leasehold:problem:{name}"),
                    "{what}"
                );
            }
        }
    }
}

#[test]
fn every_kind_of_problem_is_documented_at_some_operation() {
    let document = document();
    let mut named = BTreeSet::new();
    for (_, _, operation) in operations(&document) {
        for response in operation["responses"]
            .as_object()
            .expect("responses")
            .values()
        {
            let examples = response["content"]["application/problem+json"]["examples"].as_object();
            named.extend(examples.into_iter().flatten().map(|(name, _)| name.clone()));
        }
    }
    // A path that is none has no operation to be documented at.
    let all = Kind::ALL
        .iter()
        .map(|kind| kind.name())
        .filter(|name| *name != "not-found");
    assert_eq!(named, all.map(str::to_owned).collect());
}

#[test]
fn schemas_are_flat_objects_without_unions() {
    fn check(at: &str, value: &Value) {
        match value {
            Value::Object(fields) => {
                for union in ["oneOf", "anyOf", "allOf"] {
                    assert!(!fields.contains_key(union), "{union} at {at}");
                }
                assert!(
                    !fields.get("type").is_some_and(Value::is_array),
                    "a union of types at {at}"
                );
                fields
                    .iter()
                    .for_each(|(name, value)| check(&format!("{at}/{name}"), value));
            }
            Value::Array(values) => values.iter().for_each(|value| check(at, value)),
            _ => {}
        }
    }
    check("", &document());
}
