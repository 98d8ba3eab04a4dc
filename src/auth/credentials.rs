//! The bearer tokens that the server knows.

use std::sync::{Arc, PoisonError, RwLock};

use jiff::Timestamp;
use sha2::{Digest, Sha256};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};

use super::permit::Principal;

/// How many tokens a server can know: each request is compared with all of them.
pub const MAX_TOKENS: usize = 1000;

/// The digest of a token. A comparison of digests takes the same time for every length of a token.
pub(super) type TokenDigest = [u8; 32];

/// All tokens, and who has them.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Directory {
    tokens: Vec<KnownToken>,
    anonymous: Option<Principal>,
}

#[derive(Debug, PartialEq, Eq)]
struct KnownToken {
    digest: TokenDigest,
    principal: Principal,
    expires: Option<Timestamp>,
}

/// Why a caller is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unknown {
    /// It sent no token.
    NoToken,
    /// It sent another token.
    WrongToken,
    /// The token has ended.
    Expired,
}

/// The tokens of this moment, and what is wrong with their files.
#[derive(Debug, Default)]
pub struct Credentials(RwLock<Current>);

#[derive(Clone, Debug, Default)]
struct Current {
    directory: Arc<Directory>,
    problem: Option<String>,
}

/// The digest of a token.
#[must_use]
pub fn digest(token: &str) -> TokenDigest {
    Sha256::digest(token.as_bytes()).into()
}

impl Directory {
    /// A directory without tokens, in which callers without a token are this principal.
    #[must_use]
    pub const fn new(anonymous: Option<Principal>) -> Self {
        Self {
            tokens: Vec::new(),
            anonymous,
        }
    }

    /// Adds a token, until it expires. Returns whether it is new.
    pub fn add(
        &mut self,
        digest: TokenDigest,
        principal: Principal,
        expires: Option<Timestamp>,
    ) -> bool {
        let is_new = !self.tokens.iter().any(|known| known.digest == digest);
        self.tokens.push(KnownToken {
            digest,
            principal,
            expires,
        });
        is_new
    }

    /// How many tokens there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether there is no token.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Whether callers without a token are a principal too.
    #[must_use]
    pub const fn admits_anyone(&self) -> bool {
        self.anonymous.is_some()
    }

    /// The principal with this token, or that of callers without one.
    ///
    /// # Errors
    /// No principal has this token now.
    pub fn identify(&self, token: Option<&str>, now: Timestamp) -> Result<&Principal, Unknown> {
        let anonymous = |unknown| self.anonymous.as_ref().ok_or(unknown);
        let Some(token) = token else {
            return anonymous(Unknown::NoToken);
        };
        let digest = digest(token);
        // All comparisons run, so that the time of the answer does not tell which one matched.
        let none = u64::MAX;
        let mut found = none;
        for (at, known) in (0..).zip(&self.tokens) {
            let is_it: Choice = known.digest.ct_eq(&digest);
            found.conditional_assign(&at, is_it);
        }
        let found = usize::try_from(found)
            .ok()
            .and_then(|at| self.tokens.get(at));
        match found {
            Some(known) if known.expires.is_some_and(|end| end <= now) => Err(Unknown::Expired),
            Some(known) => Ok(&known.principal),
            // A server without any token ignores those of others, as a laptop does.
            None if self.tokens.is_empty() => anonymous(Unknown::WrongToken),
            None => Err(Unknown::WrongToken),
        }
    }
}

impl Credentials {
    /// The credentials at the start.
    #[must_use]
    pub fn new(directory: Directory) -> Self {
        let credentials = Self::default();
        credentials.replace(directory);
        credentials
    }

    /// The tokens of this moment.
    #[must_use]
    pub fn directory(&self) -> Arc<Directory> {
        Arc::clone(&self.read().directory)
    }

    /// What is wrong with the files, while those of before count.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        self.read().problem
    }

    /// Takes over new tokens.
    pub fn replace(&self, directory: Directory) {
        *self.write() = Current {
            directory: Arc::new(directory),
            problem: None,
        };
    }

    /// The files cannot be used: the tokens stay.
    pub fn keep(&self, problem: String) {
        self.write().problem = Some(problem);
    }

    fn read(&self) -> Current {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Current> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}
