//! Random bits from the operating system, for secrets and names that must be unique.

const AVAILABLE: &str = "the operating system gives random bits";

/// 16 bytes that nobody can guess.
///
/// # Panics
/// If the operating system has no random bits to give, in which case nothing safe can be done.
#[must_use]
pub fn bytes() -> [u8; 16] {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).expect(AVAILABLE);
    bytes
}

/// A number that no other server draws.
///
/// # Panics
/// As [`bytes`].
#[must_use]
pub fn number() -> u64 {
    getrandom::u64().expect(AVAILABLE)
}
