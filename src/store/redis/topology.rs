//! Which Redis is the master now, as operations see it; [`super::resolver`] finds it.
//!
//! Where grants may be made is a *generation*: a node together with the activation that it got. A new
//! generation replaces the old one at once; what was in flight at the old node has no known outcome.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::acks::Endorsement;
use super::diagnosis::Diagnosis;
use super::node::Node;
use crate::store::contract::Health;

/// How long trouble that operations met counts as present.
const TROUBLE_MEMORY: Duration = Duration::from_secs(5);

const UNPOISONED: &str = "nothing panics while it holds the lock";

/// A node and the activation under which it grants.
pub(super) struct Generation {
    /// Rises with each.
    pub(super) number: u64,
    pub(super) node: Arc<Node>,
    pub(super) activation: String,
}

/// What operations see of the topology.
#[derive(Clone)]
pub(super) struct Topology {
    view: watch::Receiver<View>,
    /// Wakes the resolver.
    doubt: Arc<Notify>,
    /// The activation whose clock has stepped.
    stepped: Arc<Mutex<Option<String>>>,
    /// What operations met lately that the resolver's own questions do not.
    trouble: Arc<Mutex<Option<(Diagnosis, Instant)>>>,
    /// When the Sentinels last agreed that the master is in order; absent without Sentinels.
    endorsed: Endorsement,
    /// A connection led to a node that was no master, while the resolver's own may lead to one: the
    /// sign of a name that stands for any node.
    role_refused: Arc<AtomicBool>,
}

/// What the resolver publishes.
#[derive(Clone)]
pub(super) struct View {
    pub(super) generation: Option<Arc<Generation>>,
    pub(super) health: Health,
}

impl Topology {
    /// Where nothing was found yet; what is published to the sender is seen here.
    pub(super) fn new(health: Health, with_sentinels: bool) -> (Self, watch::Sender<View>) {
        let (publish, view) = watch::channel(View {
            generation: None,
            health,
        });
        let topology = Self {
            view,
            doubt: Arc::default(),
            stepped: Arc::default(),
            trouble: Arc::default(),
            endorsed: with_sentinels.then(Arc::default),
            role_refused: Arc::default(),
        };
        (topology, publish)
    }

    /// The generation to use now.
    pub(super) fn current(&self) -> Option<Arc<Generation>> {
        self.view.borrow().generation.clone()
    }

    /// Why there is none, or that there is.
    pub(super) fn health(&self) -> Health {
        self.view.borrow().health.clone()
    }

    /// Makes the resolver look again now.
    pub(super) fn doubt(&self) {
        self.doubt.notify_one();
    }

    /// A generation after number `than` (any, for `None`), as soon as there is one before
    /// `deadline`. Dropping the future changes nothing.
    pub(super) async fn newer(
        &self,
        than: Option<u64>,
        deadline: Instant,
    ) -> Option<Arc<Generation>> {
        self.doubt();
        let mut view = self.view.clone();
        let is_newer = |view: &View| {
            view.generation
                .as_ref()
                .is_some_and(|g| Some(g.number) > than)
        };
        let found = tokio::time::timeout_at(deadline, view.wait_for(is_newer)).await;
        found.ok()?.ok()?.generation.clone()
    }

    /// The generation to use, once there is one.
    pub(super) async fn any(&self) -> Arc<Generation> {
        let mut view = self.view.clone();
        loop {
            let found = view.wait_for(|view| view.generation.is_some()).await;
            match found.map(|view| view.generation.clone()) {
                Ok(Some(generation)) => return generation,
                Ok(None) => {}
                // The resolver has ended: there will be none.
                Err(_) => std::future::pending().await,
            }
        }
    }

    /// Reports that a node took itself for no master.
    pub(super) fn role_was_refused(&self) {
        self.role_refused.store(true, Ordering::Relaxed);
        self.doubt();
    }

    /// Reports that the clock of an activated master has stepped.
    pub(super) fn clock_stepped(&self, activation: &str) {
        *self.stepped.lock().expect(UNPOISONED) = Some(activation.to_owned());
        self.doubt();
    }

    /// Reports what operations meet, and the resolver's own questions do not.
    pub(super) fn operations_meet(&self, diagnosis: Diagnosis) {
        *self.trouble.lock().expect(UNPOISONED) = Some((diagnosis, Instant::now()));
        self.doubt();
    }

    /// What operations met, for as long as it counts as present.
    pub(super) fn trouble(&self) -> Option<Diagnosis> {
        let trouble = self.trouble.lock().expect(UNPOISONED);
        trouble
            .as_ref()
            .filter(|(_, at)| at.elapsed() < TROUBLE_MEMORY)
            .map(|(diagnosis, _)| diagnosis.clone())
    }

    /// Where the Sentinels' agreement is noted.
    pub(super) fn endorsement(&self) -> Endorsement {
        self.endorsed.clone()
    }

    /// Notes that the Sentinels agree now.
    pub(super) fn endorse(&self) {
        if let Some(endorsed) = &self.endorsed {
            *endorsed.lock().expect(UNPOISONED) = Some(Instant::now());
        }
    }

    /// What wakes the resolver.
    pub(super) fn doubts(&self) -> Arc<Notify> {
        Arc::clone(&self.doubt)
    }

    /// The activation whose clock has stepped, until that is settled.
    pub(super) fn stepped(&self) -> Option<String> {
        self.stepped.lock().expect(UNPOISONED).clone()
    }

    /// The step is settled by a new activation.
    pub(super) fn step_is_settled(&self) {
        self.stepped.lock().expect(UNPOISONED).take();
    }

    /// Whether a node took itself for no master since this was last asked.
    pub(super) fn take_role_refused(&self) -> bool {
        self.role_refused.swap(false, Ordering::Relaxed)
    }
}
