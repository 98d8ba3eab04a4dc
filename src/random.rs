//! Random bits for secrets and names that must be unique.
//!
//! From a generator of each thread (ChaCha, seeded and reseeded by the operating system), because a call of the
//! system for each lease id costs more than the rest of minting it.

/// 16 bytes that nobody can guess.
#[must_use]
pub fn bytes() -> [u8; 16] {
    rand::random()
}

/// A number that no other server draws.
#[must_use]
pub fn number() -> u64 {
    rand::random()
}

/// 32 hex digits that no other server draws.
#[must_use]
pub fn id() -> String {
    format!("{:032x}", u128::from_be_bytes(bytes()))
}
