//! Principals, and the permits that the service demands. Only [`Principal`] makes a permit, so no handler can leave the check out.

use std::marker::PhantomData;
use std::sync::Arc;

use super::grants::{Grant, Verb};
use crate::lock::key::LockKey;

/// A caller that is known. Cheap to clone. Each principal has its own idempotency keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal(Arc<Identity>);

#[derive(Debug, PartialEq, Eq)]
struct Identity {
    name: String,
    grants: Vec<Grant>,
    is_anonymous: bool,
}

/// The operation is not permitted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denied {
    /// What is missing, for the caller.
    pub detail: String,
    /// The caller has shown no token.
    pub is_anonymous: bool,
}

/// An operation on one lock, as a type.
pub trait Operation {
    /// The verb that permits it.
    const VERB: Verb;
}

/// Acquire, renew and release.
#[derive(Debug)]
pub struct Acquire;

/// Inspect.
#[derive(Debug)]
pub struct Read;

/// Break.
#[derive(Debug)]
pub struct Break;

impl Operation for Acquire {
    const VERB: Verb = Verb::Acquire;
}

impl Operation for Read {
    const VERB: Verb = Verb::Read;
}

impl Operation for Break {
    const VERB: Verb = Verb::Break;
}

/// The permission for an operation on this lock.
#[derive(Debug)]
pub struct Permit<O> {
    key: LockKey,
    operation: PhantomData<O>,
}

/// The permission to list the locks whose keys begin with this text.
#[derive(Debug)]
pub struct ListPermit(String);

/// The permission to end a recovery.
#[derive(Debug)]
pub struct RecoveryPermit(());

impl Principal {
    /// A principal with these grants.
    #[must_use]
    pub fn new(name: impl Into<String>, grants: Vec<Grant>) -> Self {
        Self(Arc::new(Identity {
            name: name.into(),
            grants,
            is_anonymous: false,
        }))
    }

    /// All callers without a token.
    #[must_use]
    pub fn anonymous(grants: Vec<Grant>) -> Self {
        Self(Arc::new(Identity {
            name: "anyone".into(),
            grants,
            is_anonymous: true,
        }))
    }

    /// The name that distinguishes the principals.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Whether a grant permits this operation on this key.
    #[must_use]
    pub fn may(&self, verb: Verb, key: &LockKey) -> bool {
        let mut grants = self.0.grants.iter();
        grants.any(|grant| grant.permits(verb, key.as_str()))
    }

    /// The permission for an operation on this lock.
    ///
    /// # Errors
    /// No grant permits it.
    pub fn permit<O: Operation>(&self, key: LockKey) -> Result<Permit<O>, Denied> {
        if self.may(O::VERB, &key) {
            let operation = PhantomData;
            Ok(Permit { key, operation })
        } else {
            let verb = O::VERB.name();
            Err(self.denied(format!(
                "no grant of {} permits {verb} on this key",
                self.0.name
            )))
        }
    }

    /// The permission to list locks whose keys begin with this text. All of them must be readable: the pages and cursors of a
    /// listing tell of each lock that it passes.
    ///
    /// # Errors
    /// No grant permits to read all of them.
    pub fn permit_list(&self, text: &str) -> Result<ListPermit, Denied> {
        let mut grants = self.0.grants.iter();
        if grants
            .any(|grant| grant.verbs.contains(&Verb::Read) && grant.prefix.covers_all_with(text))
        {
            return Ok(ListPermit(text.to_owned()));
        }
        let name = &self.0.name;
        Err(self.denied(format!(
            "no grant of {name} permits read on every key with this prefix: a grant on ci permits prefix=ci/"
        )))
    }

    /// The permission to end a recovery.
    ///
    /// # Errors
    /// No grant permits to break the lease on every key.
    pub fn permit_recovery(&self) -> Result<RecoveryPermit, Denied> {
        let every_key = |grant: &Grant| grant.prefix.to_string().is_empty();
        let mut grants = self.0.grants.iter();
        if grants.any(|grant| every_key(grant) && grant.verbs.contains(&Verb::Break)) {
            Ok(RecoveryPermit(()))
        } else {
            Err(self.denied(format!(
                "no grant of {} permits break on every key",
                self.0.name
            )))
        }
    }

    fn denied(&self, detail: String) -> Denied {
        Denied {
            detail,
            is_anonymous: self.0.is_anonymous,
        }
    }
}

impl<O> Permit<O> {
    /// The lock that the operation is permitted on.
    #[must_use]
    pub fn into_key(self) -> LockKey {
        self.key
    }
}

impl ListPermit {
    /// The beginning of the keys.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.0
    }
}
