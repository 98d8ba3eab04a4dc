//! What the store may hold for an acquisition that is under way.
//!
//! The result of an acquisition alone does not say what it leaves behind: a command without a reply may still execute,
//! and a waiter may have a queue entry. Both are tracked here, independently of each other.

use std::time::Duration;

use tokio::time::Instant;

use crate::store::contract::Outcome;

/// For how long a command without a reply may still execute.
pub(super) const LATE_COMMAND: Duration = Duration::from_secs(1);

/// The commands that the acquisition has sent.
///
/// ```text
/// Clean ────────── reply ──────────▶ Answered, nothing late
/// any state ────── no reply ───────▶ InDoubt
/// InDoubt ──────── reply ──────────▶ Answered, the earlier command late
/// any state ────── outcome `none` ─▶ unchanged: it says nothing about earlier commands
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AcquireState {
    /// No command has had an effect, and none can.
    Clean,
    /// The latest command that may have an effect has no reply.
    InDoubt {
        /// The store may execute the command until then.
        late_until: Instant,
    },
    /// The store has replied to the latest command.
    Answered {
        /// An earlier command has no reply; the store may execute it until then.
        late_until: Option<Instant>,
    },
}

impl AcquireState {
    /// The state after a command: `failure` is `None` if the store replied.
    pub(super) fn after_command(self, failure: Option<Outcome>, now: Instant) -> Self {
        match failure {
            None => Self::Answered {
                late_until: self.late_until(),
            },
            Some(Outcome::Unknown) => Self::InDoubt {
                late_until: now + LATE_COMMAND,
            },
            Some(Outcome::None) => self,
        }
    }

    /// Whether an earlier command may have been executed although its reply is missing.
    pub(super) fn in_doubt(self) -> bool {
        matches!(self, Self::InDoubt { .. })
    }

    /// Until when a command without a reply may still execute, if there was one.
    pub(super) fn late_until(self) -> Option<Instant> {
        match self {
            Self::Clean => None,
            Self::InDoubt { late_until } => Some(late_until),
            Self::Answered { late_until } => late_until,
        }
    }
}

/// The queue entry of the acquisition. It moves down this list only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum QueueState {
    /// No command has asked for an entry.
    NoEntry,
    /// A command has asked for an entry; the store has not confirmed one yet.
    MayHaveEntry,
    /// The store has confirmed an entry.
    Queued {
        /// When the wait began.
        since: Instant,
    },
}

impl QueueState {
    /// A command asks for an entry.
    pub(super) fn asked(&mut self) {
        if *self == Self::NoEntry {
            *self = Self::MayHaveEntry;
        }
    }

    /// The store has confirmed an entry of a wait that began at `since`.
    pub(super) fn confirmed(&mut self, since: Instant) {
        if !matches!(self, Self::Queued { .. }) {
            *self = Self::Queued { since };
        }
    }

    /// Whether the store may have an entry of this acquisition.
    pub(super) fn may_have_entry(self) -> bool {
        self != Self::NoEntry
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_reply_ends_the_doubt_and_the_late_command_stays_late() {
        let now = Instant::now();
        let late_until = now + LATE_COMMAND;
        let clean = AcquireState::Clean;
        let answered = clean.after_command(None, now);
        assert_eq!(answered, AcquireState::Answered { late_until: None });
        assert_eq!(clean.after_command(Some(Outcome::None), now), clean);

        let in_doubt = answered.after_command(Some(Outcome::Unknown), now);
        assert_eq!(in_doubt, AcquireState::InDoubt { late_until });
        assert_eq!(in_doubt.after_command(Some(Outcome::None), now), in_doubt);

        let settled = in_doubt.after_command(None, now + LATE_COMMAND);
        assert!(in_doubt.in_doubt() && !settled.in_doubt());
        assert_eq!(settled.late_until(), Some(late_until));
    }

    #[test]
    fn wait_is_counted_from_its_first_confirmation() {
        let now = Instant::now();
        let mut queue = QueueState::NoEntry;
        assert!(!queue.may_have_entry());
        queue.asked();
        assert_eq!(queue, QueueState::MayHaveEntry);
        queue.confirmed(now);
        queue.confirmed(now + LATE_COMMAND);
        queue.asked();
        assert_eq!(queue, QueueState::Queued { since: now });
        assert!(queue.may_have_entry());
    }
}
