//! The source against real servers: what is captured, what a restart repeats (nothing), what is refused.

mod definitions;
mod harness;
mod heartbeats;
mod positions;
mod publications;
mod refusals;
mod rows;
mod slots;
mod snapshots;
mod transactions;
