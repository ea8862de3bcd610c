//! The replication connection: PostgreSQL's protocol 3.0 with the parameter `replication=database` (PostgreSQL 18,
//! "Streaming Replication Protocol" and "Frontend/Backend Protocol"). No driver speaks it, so this one is our own; it
//! knows simple queries, the replication commands and the stream that follows `START_REPLICATION`, and nothing else.
//!
//! A connection is used in three ways, one after another: commands by [`ReplicationConnection`]; left alone while
//! somebody reads in the snapshot that it exported, which ends with its next command; and, taken apart for good, as
//! [`ReplicationStream`] and [`FeedbackSender`]. The two halves share nothing but the socket, so that answering the
//! server never waits for whoever reads (I4).

mod channel_binding;
mod connection;
mod feedback;
mod paced;
mod refusal;
mod startup;
mod stream;
mod wire;

pub use connection::{CreatedSlot, ReplicationConnection, Row, SlotLife, SnapshotAction, SystemIdentity, TimelineEnd};
pub use feedback::FeedbackSender;
pub use refusal::{CERTIFICATE_REMEDY, POOLER_REMEDY, is_from_pooler, kind_of};
pub(crate) use refusal::{FOLLOW_PRIMARY, NOT_UTF_8_REMEDY, TOO_LONG_REMEDY, is_out_of_slots, tls_refusal};
pub use startup::ConnectOptions;
pub(crate) use startup::{LIFT_LATER_LIMITS, METHOD_REMEDY, PASSWORD_REMEDY, SESSION_RIGHTS, TLS_REMEDY, UNREACHABLE_REMEDY};
pub use stream::{Frame, ReplicationStream};
