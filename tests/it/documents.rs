//! The tables in the documents match the code.

use leasehold::http::problem::Kind;

use crate::support::documents::{CHART, OPENAPI, README, section, text_of};

#[test]
fn settings_table_names_every_setting_and_no_other() {
    let table = section(CHART, "Settings");
    let word = |text: &str| {
        text.trim_matches(|c: char| c != '_' && !c.is_ascii_alphanumeric())
            .to_owned()
    };
    let mut named: Vec<String> = table
        .lines()
        .filter(|line| line.starts_with("| `LEASEHOLD_"))
        .filter_map(|line| line.split('|').nth(1))
        .flat_map(|cell| cell.split(',').map(word))
        .collect();
    named.sort();
    let command = leasehold::cli::command();
    let mut known: Vec<String> = command
        .get_arguments()
        .filter_map(|argument| argument.get_env())
        .map(|name| name.to_str().expect("ASCII").to_owned())
        .collect();
    known.sort();
    assert_eq!(named, known);
}

/// The first two cells of each row whose first cell is code, sorted.
fn rows(document: &str, heading: &str) -> Vec<String> {
    let table = section(document, heading);
    let rows = table.lines().filter_map(|line| line.strip_prefix("| `"));
    let mut rows: Vec<String> = rows
        .filter_map(|row| {
            let mut cells = row.split('|').map(str::trim);
            let name = cells.next()?.trim_end_matches('`');
            Some(format!("{name} {}", cells.next()?))
        })
        .collect();
    rows.sort();
    rows
}

#[test]
fn table_of_problems_names_each_with_its_status() {
    let mut known: Vec<String> = Kind::ALL
        .iter()
        .map(|kind| format!("{} {}", kind.name(), kind.status().as_u16()))
        .collect();
    known.sort();
    assert_eq!(rows(OPENAPI, "Problems"), known);
}

#[test]
fn table_of_alerts_names_each_with_its_severity() {
    let rules = text_of("helm/leasehold/files/rules.yaml");
    let rule = |text: &str| {
        let name = text.lines().next()?;
        let severity = text.split("severity: ").nth(1)?.lines().next()?;
        Some(format!("{name} {severity}"))
    };
    let mut known: Vec<String> = rules
        .split("- alert: ")
        .skip(1)
        .map(|text| rule(text).expect("a name and a severity"))
        .collect();
    known.sort();
    assert_eq!(rows(CHART, "Alerts"), known);
}

/// Checks that a document names each of these limits.
fn names(document: &str, limits: &[String]) {
    let text = text_of(document);
    for limit in limits {
        assert!(text.contains(limit), "{document}: {limit}");
    }
}

#[test]
fn limits_of_requests_are_those_of_the_code() {
    let limits = [
        leasehold::lock::key::MAX_KEY_BYTES.to_string(),
        leasehold::lock::lease::Ttl::MIN.as_millis().to_string(),
        leasehold::lock::lease::Holder::MAX_BYTES.to_string(),
        leasehold::lock::lease::Metadata::MAX_PAIRS.to_string(),
        leasehold::lock::lease::Metadata::MAX_BYTES.to_string(),
        format!(
            "{} KiB within {} s",
            leasehold::http::extract::MAX_BODY_BYTES / 1024,
            leasehold::http::extract::BODY_TIMEOUT.as_secs()
        ),
        format!("1 to {}", leasehold::http::wire::MAX_LIST_LIMIT),
        format!(
            "older than {}.{}",
            leasehold::store::redis::MIN_REDIS_VERSION.0,
            leasehold::store::redis::MIN_REDIS_VERSION.1
        ),
    ];
    names(README, &limits);
}

#[test]
fn limits_of_a_server_are_those_of_the_code() {
    let limits = [
        format!(
            "| head of a request | {} KiB within 10 s",
            leasehold::http::MAX_HEAD_BYTES / 1024
        ),
        format!(
            "reads nothing of an answer for {} s",
            leasehold::server::WRITE_TIMEOUT.as_secs()
        ),
        format!(
            "{} more connections are answered 503",
            leasehold::server::MAX_REFUSED_CONNECTIONS
        ),
        format!(
            "{} KiB read ahead",
            leasehold::server::MAX_READ_AHEAD_BYTES / 1024
        ),
        format!(
            "| listings at once on a server | {}",
            leasehold::service::MAX_LISTINGS
        ),
        format!(
            "about {} KiB",
            leasehold::store::contract::MAX_PAGE_BYTES / 1024
        ),
        format!(
            "| large answers at once | {}",
            leasehold::http::MAX_LARGE_ANSWERS
        ),
        format!(
            "one of {} that may wait",
            leasehold::service::WAITERS_PER_KEPT_ENTRY
        ),
        format!("at least {} characters", leasehold::config::MIN_TOKEN_BYTES),
        format!(
            "{} ms later",
            leasehold::http::auth::WRONG_TOKEN_DELAY.as_millis()
        ),
        format!("{} at once", leasehold::http::auth::MAX_DELAYED_ANSWERS),
        format!("cut to {} bytes", leasehold::telemetry::MAX_LOGGED_BYTES),
        format!("| listen backlog | {}", leasehold::server::BACKLOG),
        format!(
            "| unwritten lines of the log | {}, and {} MiB",
            leasehold::telemetry::MAX_UNWRITTEN_LINES,
            leasehold::telemetry::MAX_UNWRITTEN_BYTES / 1024 / 1024
        ),
    ];
    names(CHART, &limits);
}
