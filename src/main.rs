//! The `leasehold` program; see the library for how it is built.

use std::process::ExitCode;

use mimalloc::MiMalloc;

/// Chosen by measurement: glibc's took a fifth of the time of a server on Redis; with this one the server takes a tenth
/// less for each operation, with jemalloc as much as with glibc's.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    leasehold::cli::run()
}
