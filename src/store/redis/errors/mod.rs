//! What went wrong, in an operator's words and as labels of metrics.
//!
//! This folder decides nothing: whether an operation is repeated is the matter of its caller.

pub(super) mod diagnosis;
pub(super) mod kinds;
pub(super) mod refusals;
pub(super) mod target;
