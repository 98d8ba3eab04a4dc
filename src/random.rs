//! Random bits for secrets and names that must be unique.
//!
//! Each thread has a generator (ChaCha, seeded and reseeded by the operating system): a system call for each lease id
//! would cost more than the rest of minting it.

/// 16 unpredictable bytes.
#[must_use]
pub fn bytes() -> [u8; 16] {
    rand::random()
}

/// A number that two requests for one lock hardly ever share.
#[must_use]
pub fn number() -> u32 {
    rand::random()
}

/// 32 hex digits that are unique among all servers.
#[must_use]
pub fn id() -> String {
    format!("{:032x}", u128::from_be_bytes(bytes()))
}
