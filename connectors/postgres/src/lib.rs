//! Tailwater's PostgreSQL source: the write-ahead log by logical decoding (`pgoutput`), and the rows that are there.
//!
//! | module | holds |
//! |---|---|
//! | `config` | the keys |
//! | `connect` | SQL connections |
//! | [`replication`], [`pgoutput`], [`lsn`] | the replication protocol, its messages, places in the log |
//! | [`data_types`], `buffer_slice` | values of every type, from text and from binary, within the buffer that they came in |
//! | `catalog`, `publication`, `slot`, `open_transactions` | what the server says, and what has to be there |
//! | `position`, `table_states`, `restart` | where to resume, how far each table is, and whether it can be done |
//! | `relation`, `plans`, `event`, `definitions` | from tuples and their descriptions to records |
//! | `copy`, `snapshot`, `chunks`, `visibility` | reading the rows that are there, before the log is followed or while it is |
//! | `truncation` | what the rows of a table begin with that is read anew |
//! | `stream`, `transaction`, `spill`, `progress` | following the log: whole transactions, those without a commit, how far it is followed |
//! | `acknowledge` | answering the server |
//! | `arrivals` | tables that come while the log is followed |
//! | `source`, `probe` | one run; what keeps it from running |

mod acknowledge;
mod arrivals;
mod batch;
mod blocking;
mod buffer_slice;
mod catalog;
mod chunks;
mod config;
mod connect;
mod copy;
pub mod data_types;
mod definitions;
mod event;
mod heartbeat;
mod identity;
pub mod lsn;
mod octets;
mod open_transactions;
pub mod pgoutput;
mod plans;
mod position;
mod probe;
mod progress;
mod publication;
mod relation;
pub mod replication;
mod request;
mod reselect;
mod restart;
mod retention;
mod servers;
mod slot;
mod snapshot;
mod source;
mod spill;
mod stream;
mod table_states;
mod transaction;
mod truncation;
mod visibility;

pub use buffer_slice::BufferSlice;
pub use config::PostgresConfig;
pub use source::PostgresConnector;
