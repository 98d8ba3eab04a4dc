//! How many replicas must confirm a write.
//!
//! Under `auto` it is the number of online replicas:
//! - The number rises at once.
//! - It falls only after fewer replicas have been online for 3 s and the Sentinels then agree that this master is
//!   healthy. A master that was cut off sees its replicas disappear too, and one of them is about to replace it.
//! - A new master starts with its own online replicas. Waiting for a replica that died with the old master would block
//!   every lock for no gain. If the new master is lost at once, the servers still remember the writes that they saw
//!   confirmed.

use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

use crate::store::redis::master::topology::Agreement;
use crate::store::redis::options::{Address, RedisOptions, ReplicaAcks};

/// How long a replica that disappeared must still confirm.
const REPLICA_MEMORY: Duration = Duration::from_secs(3);

/// See the module.
pub(crate) struct Acks {
    policy: ReplicaAcks,
    /// The least number, also while fewer replicas are online.
    least: usize,
    /// Without Sentinels the number falls after the 3 s alone.
    agreed: Agreement,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The master of the counted replicas.
    master: Option<Address>,
    /// The latest generation that this count has seen.
    generation: u64,
    counted: usize,
    /// Since when fewer replicas than `counted` are online.
    fewer_since: Option<Instant>,
}

impl Acks {
    pub(crate) fn new(options: &RedisOptions, agreed: Agreement) -> Self {
        Self {
            policy: options.replica_acks,
            least: options.least_replicas(),
            agreed,
            state: Mutex::default(),
        }
    }

    /// How many replicas must confirm a write of `master` under a generation, while `online` of its replicas are
    /// online.
    pub(crate) fn required(&self, master: &Address, generation: u64, online: usize) -> usize {
        if self.policy != ReplicaAcks::Auto {
            return self.least;
        }
        let now = Instant::now();
        let mut state = self
            .state
            .lock()
            .expect("nothing panics while it holds the count");
        if generation < state.generation {
            // A late reply of a deposed master must not change the count.
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
            if now >= forgotten && self.agreed_since(forgotten) {
                state.counted = online;
                state.fewer_since = None;
            }
        }
        state.counted.max(self.least)
    }

    fn agreed_since(&self, moment: Instant) -> bool {
        let Some(agreed) = &self.agreed else {
            return true;
        };
        agreed
            .lock()
            .expect("nothing panics while it holds the moment")
            .is_some_and(|at| at >= moment)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn acks(agreed: Agreement) -> Acks {
        Acks {
            policy: ReplicaAcks::Auto,
            least: 1,
            agreed,
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
    async fn replica_that_disappeared_counts_for_three_more_seconds() {
        let acks = acks(None);
        assert_eq!((required(&acks, 0), required(&acks, 2)), (1, 2));
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(required(&acks, 1), 2, "the replica disappeared just now");
        tokio::time::advance(Duration::from_millis(2999)).await;
        assert_eq!(required(&acks, 1), 2);
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!((required(&acks, 1), required(&acks, 2)), (1, 2));
    }

    #[tokio::test(start_paused = true)]
    async fn number_falls_only_if_the_sentinels_agree_after_three_seconds() {
        let agreed = Arc::new(Mutex::new(Some(Instant::now())));
        let acks = acks(Some(Arc::clone(&agreed)));
        assert_eq!((required(&acks, 2), required(&acks, 1)), (2, 2));
        tokio::time::advance(Duration::from_secs(30)).await;
        assert_eq!(required(&acks, 1), 2, "the Sentinels agreed too early");
        *agreed.lock().expect("free") = Some(Instant::now());
        assert_eq!(required(&acks, 1), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn new_master_starts_with_its_own_replicas_and_a_restarted_one_does_not() {
        let acks = acks(None);
        assert_eq!(acks.required(&master("a"), 1, 2), 2);
        assert_eq!(
            acks.required(&master("a"), 2, 0),
            2,
            "the same node has restarted"
        );
        assert_eq!(
            acks.required(&master("b"), 3, 0),
            1,
            "another node is the master"
        );
        assert_eq!(acks.required(&master("b"), 3, 1), 1);
        assert_eq!(
            acks.required(&master("a"), 2, 2),
            2,
            "a late reply of the old master"
        );
        assert_eq!(
            acks.required(&master("b"), 3, 1),
            1,
            "the late reply changed nothing"
        );
        assert_eq!(acks.required(&master("b"), 3, 2), 2);
        assert_eq!(acks.required(&master("b"), 3, 1), 2);
    }
}
