//! The client of the commands: it calls one of several servers, and knows what each answer means.
//!
//! Every call can be repeated without harm: an acquisition has an `Idempotency-Key`, the others are idempotent.

mod acquire;
mod answer;
mod call;
mod clock;
mod failure;

pub use self::acquire::{Acquire, Wait, Waiting, held};
pub use self::answer::{Answer, Grant, LockStatus};
pub use self::call::{Client, Connection, read_ca};
pub use self::clock::Moment;
pub use self::failure::{Failure, exit};
