//! How many replicas must confirm a grant.
//!
//! Under `auto` it is as many as are online. That number rises at once, and falls only when it has been
//! lower for a while and the Sentinels then agree that this master is in order: a master that was cut off
//! sees its replicas go, one of which is about to succeed it. A master that a majority of Sentinels has
//! put in its place counts anew: the replicas of the old one are not its own, and waiting for one that died
//! with the old master would keep every lock from everybody for no gain. Should it be lost at once in its
//! turn, the servers still know what they saw confirmed.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;

use super::options::{Address, RedisOptions, ReplicaAcks};

/// How long a replica that went away still counts as one that must confirm.
const REPLICA_MEMORY: Duration = Duration::from_secs(3);

/// When the Sentinels last agreed that the master is in order; nothing to agree on without Sentinels.
pub(super) type Endorsement = Option<Arc<Mutex<Option<Instant>>>>;

/// See the module.
pub(super) struct Acks {
    policy: ReplicaAcks,
    /// At least so many, however few replicas there are.
    least: usize,
    endorsed: Endorsement,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Whose replicas these are, and since which generation.
    master: Option<Address>,
    generation: u64,
    counted: usize,
    /// Since when fewer are online.
    fewer_since: Option<Instant>,
}

impl Acks {
    pub(super) fn new(options: &RedisOptions, endorsed: Endorsement) -> Self {
        Self {
            policy: options.replica_acks,
            least: options.least_replicas(),
            endorsed,
            state: Mutex::default(),
        }
    }

    /// How many must confirm what `master` did under a generation, `online` replicas of it being seen.
    pub(super) fn required(&self, master: &Address, generation: u64, online: usize) -> usize {
        if self.policy != ReplicaAcks::Auto {
            return self.least;
        }
        let now = Instant::now();
        let mut state = self
            .state
            .lock()
            .expect("nothing panics while it holds the count");
        if generation < state.generation {
            // A late answer of a deposed master, and nothing to go by.
            return state.counted.max(online).max(self.least);
        }
        if state.master.as_ref() != Some(master) {
            state.master = Some(master.clone());
            state.counted = online;
        }
        state.generation = generation;
        if online >= state.counted {
            state.counted = online;
            state.fewer_since = None;
        } else {
            let forgotten = *state.fewer_since.get_or_insert(now) + REPLICA_MEMORY;
            if now >= forgotten && self.is_endorsed_since(forgotten) {
                state.counted = online;
                state.fewer_since = None;
            }
        }
        state.counted.max(self.least)
    }

    fn is_endorsed_since(&self, moment: Instant) -> bool {
        let Some(endorsed) = &self.endorsed else {
            return true;
        };
        endorsed
            .lock()
            .expect("nothing panics while it holds the moment")
            .is_some_and(|at| at >= moment)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acks(endorsed: Endorsement) -> Acks {
        Acks {
            policy: ReplicaAcks::Auto,
            least: 1,
            endorsed,
            state: Mutex::default(),
        }
    }

    fn required(acks: &Acks, online: usize) -> usize {
        acks.required(&master("a"), 1, online)
    }

    fn master(host: &str) -> Address {
        Address {
            host: host.to_owned(),
            port: 6379,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn replica_that_went_away_counts_for_three_seconds_from_when_it_was_missed() {
        let acks = acks(None);
        assert_eq!((required(&acks, 0), required(&acks, 2)), (1, 2));
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(required(&acks, 1), 2, "it was missed just now");
        tokio::time::advance(Duration::from_millis(2999)).await;
        assert_eq!(required(&acks, 1), 2);
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!((required(&acks, 1), required(&acks, 2)), (1, 2));
    }

    #[tokio::test(start_paused = true)]
    async fn number_falls_only_if_the_sentinels_agreed_after_that_time() {
        let endorsed = Arc::new(Mutex::new(Some(Instant::now())));
        let acks = acks(Some(Arc::clone(&endorsed)));
        assert_eq!((required(&acks, 2), required(&acks, 1)), (2, 2));
        tokio::time::advance(Duration::from_secs(30)).await;
        assert_eq!(required(&acks, 1), 2, "their word is older than that");
        *endorsed.lock().expect("free") = Some(Instant::now());
        assert_eq!(required(&acks, 1), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn new_master_counts_anew_and_a_restarted_one_does_not() {
        let acks = acks(None);
        assert_eq!(acks.required(&master("a"), 1, 2), 2);
        assert_eq!(
            acks.required(&master("a"), 2, 0),
            2,
            "the same node, restarted"
        );
        assert_eq!(acks.required(&master("b"), 3, 0), 1, "another node");
        assert_eq!(acks.required(&master("b"), 3, 1), 1);
        assert_eq!(
            acks.required(&master("a"), 2, 2),
            2,
            "a late answer of the old one"
        );
        assert_eq!(
            acks.required(&master("b"), 3, 1),
            1,
            "which changes nothing"
        );
        assert_eq!(acks.required(&master("b"), 3, 2), 2);
        assert_eq!(acks.required(&master("b"), 3, 1), 2);
    }
}
