//! The source against real servers: what is captured, what a restart repeats (nothing), what is refused.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod arrivals;
mod blocking;
mod chunks;
mod columns;
mod conformance;
mod definitions;
mod encodings;
mod failover;
mod figures;
mod harness;
mod heartbeats;
mod in_progress;
mod isolation;
mod keys;
mod origins;
mod own_keys;
mod partitions;
mod positions;
mod publications;
mod reads;
mod refusals;
mod rereads;
mod roles;
mod rows;
mod servers;
mod sessions;
mod signals;
mod slots;
mod snapshots;
mod standbys;
mod successors;
mod transactions;
mod traps;
mod two_phase;
mod unpublished;
mod values;
mod warnings;
mod withheld;
