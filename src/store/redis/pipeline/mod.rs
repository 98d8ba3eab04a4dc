//! How operations reach the master: queues, batches, workers, and the confirmation by replicas.
//!
//! Operations that arrive while a batch is under way form the next one. Workers keep their connection from batch to batch:
//! deadpool-redis opens, limits and closes connections, and checks one that was idle; it decides nothing about the master.
//!
//! This folder knows no rule of locking: it passes operations on and decodes their replies.

mod acks;
mod batch;
mod outcome;
mod queue;
mod replication;
mod sweeper;
mod workers;

pub(super) use self::acks::Acks;
pub(super) use self::batch::{Answered, Batches, Operation, Requested};
pub(super) use self::queue::Urgency;
pub(super) use self::replication::Confirmer;
pub(super) use self::sweeper::Sweeper;
pub(super) use self::workers::{Pipeline, WorkerContext};
