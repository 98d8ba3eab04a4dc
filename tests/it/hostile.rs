//! Hostile requests over raw sockets: each gets the answer of the contract, changes nothing, and leaves the server
//! usable.

mod bodies;
mod framing;
mod headers;
mod leases;
mod paths;
mod queries;
mod request;
mod row;
mod stage;
mod tokens;
mod values;

use self::row::Row;
use self::stage::Stage;

/// The size of the whole table, so that it cannot become empty by accident.
fn rows() -> Vec<Row> {
    let rows = [
        paths::rows(),
        queries::rows(),
        bodies::rows(),
        values::rows(),
        headers::rows(),
        framing::rows(),
    ]
    .concat();
    assert!(rows.len() >= 110, "only {} rows", rows.len());
    rows
}

#[test]
fn hostile_requests_are_refused_and_change_nothing_on_redis() {
    let stage = Stage::on_redis();
    stage.withstand(&rows());
    stage.end();
}

#[test]
fn hostile_requests_are_refused_and_change_nothing_in_memory() {
    let stage = Stage::in_memory();
    stage.withstand(&rows());
    stage.end();
}
