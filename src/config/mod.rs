//! Configuration: worker file, connector files, secret providers, checking, the watched directory.
//!
//! Every kind of file becomes flat keys with text values first (`document`); what the keys mean is declared in tables
//! ([`worker_file`], `fields` and each connector's own).

pub mod check;
pub mod connector_file;
pub mod directory;
pub(crate) mod document;
pub(crate) mod fields;
pub(crate) mod masked;
pub(crate) mod nearest;
pub(crate) mod options;
pub(crate) mod properties;
pub mod providers;
pub mod rest_options;
pub mod worker_file;
