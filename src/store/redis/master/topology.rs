//! The current master, as operations see it. [`super::resolver`] finds and publishes it.
//!
//! A *generation* is a node together with one activation of it. A new generation replaces the old one at once. If the
//! node is replaced too, the outcome of operations in flight on it is unknown.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::node::Node;
use crate::store::contract::Health;
use crate::store::redis::errors::diagnosis::Diagnosis;

/// How long a problem that an operation met counts as present.
const TROUBLE_MEMORY: Duration = Duration::from_secs(5);

const UNPOISONED: &str = "nothing panics while it holds the lock";

/// When the Sentinels last agreed that the master is healthy; `None` without Sentinels.
pub(crate) type Agreement = Option<Arc<Mutex<Option<Instant>>>>;

/// A node and the activation under which it grants.
pub(crate) struct Generation {
    /// Higher than the number of each earlier generation.
    pub(crate) number: u64,
    pub(crate) node: Arc<Node>,
    pub(crate) activation: String,
}

/// The link between operations and the resolver: the current generation in one direction, problems in the other.
#[derive(Clone)]
pub(crate) struct Topology {
    view: watch::Receiver<View>,
    /// Wakes the resolver.
    refresh: Arc<Notify>,
    /// The activation whose clock has stepped.
    stepped: Arc<Mutex<Option<String>>>,
    /// The latest problem that an operation met, and when. The questions of the resolver do not show such a problem.
    trouble: Arc<Mutex<Option<(Diagnosis, Instant)>>>,
    sentinels_agreed: Agreement,
    /// A connection led to a replica although the connection of the resolver may lead to a master. The address may be a
    /// Service over all nodes of a set.
    met_replica: Arc<AtomicBool>,
}

/// The state that the resolver publishes.
#[derive(Clone)]
pub(crate) struct View {
    pub(crate) generation: Option<Arc<Generation>>,
    pub(crate) health: Health,
}

impl Topology {
    /// A topology without a generation. The resolver publishes through the returned sender.
    pub(crate) fn new(health: Health, with_sentinels: bool) -> (Self, watch::Sender<View>) {
        let (publish, view) = watch::channel(View {
            generation: None,
            health,
        });
        let topology = Self {
            view,
            refresh: Arc::default(),
            stepped: Arc::default(),
            trouble: Arc::default(),
            sentinels_agreed: with_sentinels.then(Arc::default),
            met_replica: Arc::default(),
        };
        (topology, publish)
    }

    /// The generation to use now.
    pub(crate) fn current(&self) -> Option<Arc<Generation>> {
        self.view.borrow().generation.clone()
    }

    /// The health of the store, with the reason if there is no generation.
    pub(crate) fn health(&self) -> Health {
        self.view.borrow().health.clone()
    }

    /// Makes the resolver look for the master now.
    pub(crate) fn request_refresh(&self) {
        self.refresh.notify_one();
    }

    /// Waits until `deadline` for a generation with a higher number than `than`, or for any generation if that is
    /// `None`. Dropping the future changes nothing.
    pub(crate) async fn newer(
        &self,
        than: Option<u64>,
        deadline: Instant,
    ) -> Option<Arc<Generation>> {
        self.request_refresh();
        let mut view = self.view.clone();
        let is_newer = |view: &View| {
            view.generation
                .as_ref()
                .is_some_and(|g| Some(g.number) > than)
        };
        let found = tokio::time::timeout_at(deadline, view.wait_for(is_newer)).await;
        found.ok()?.ok()?.generation.clone()
    }

    /// Waits for a generation. The future never ends if the resolver has ended. Dropping it changes nothing.
    pub(crate) async fn any(&self) -> Arc<Generation> {
        let mut view = self.view.clone();
        loop {
            let found = view.wait_for(|view| view.generation.is_some()).await;
            match found.map(|view| view.generation.clone()) {
                Ok(Some(generation)) => return generation,
                Ok(None) => {}
                // The resolver has ended.
                Err(_) => std::future::pending().await,
            }
        }
    }

    /// Reports that a connection led to a replica.
    pub(crate) fn report_replica(&self) {
        self.met_replica.store(true, Ordering::Relaxed);
        self.request_refresh();
    }

    /// Reports that the clock of an activated master has stepped.
    pub(crate) fn clock_stepped(&self, activation: &str) {
        *self.stepped.lock().expect(UNPOISONED) = Some(activation.to_owned());
        self.request_refresh();
    }

    /// Reports a problem that an operation met.
    pub(crate) fn operations_meet(&self, diagnosis: Diagnosis) {
        *self.trouble.lock().expect(UNPOISONED) = Some((diagnosis, Instant::now()));
        self.request_refresh();
    }

    /// The latest problem that an operation met, while it counts as present.
    pub(crate) fn trouble(&self) -> Option<Diagnosis> {
        let trouble = self.trouble.lock().expect(UNPOISONED);
        trouble
            .as_ref()
            .filter(|(_, at)| at.elapsed() < TROUBLE_MEMORY)
            .map(|(diagnosis, _)| diagnosis.clone())
    }

    /// The shared moment of the Sentinels' last agreement.
    pub(crate) fn agreement(&self) -> Agreement {
        self.sentinels_agreed.clone()
    }

    /// Reports that the Sentinels agree now.
    pub(crate) fn sentinels_agree(&self) {
        if let Some(sentinels_agreed) = &self.sentinels_agreed {
            *sentinels_agreed.lock().expect(UNPOISONED) = Some(Instant::now());
        }
    }

    /// The requests to look for the master now.
    pub(crate) fn refresh_requests(&self) -> Arc<Notify> {
        Arc::clone(&self.refresh)
    }

    /// The activation whose clock has stepped, until the server has reported the step to the node.
    pub(crate) fn stepped_activation(&self) -> Option<String> {
        self.stepped.lock().expect(UNPOISONED).clone()
    }

    /// Forgets the step that the node has the report of. A later one stays.
    pub(crate) fn clear_clock_step(&self, reported: Option<&String>) {
        let mut stepped = self.stepped.lock().expect(UNPOISONED);
        if stepped.as_ref() == reported {
            *stepped = None;
        }
    }

    /// Whether a connection led to a replica since the last call.
    pub(crate) fn take_replica_report(&self) -> bool {
        self.met_replica.swap(false, Ordering::Relaxed)
    }
}
