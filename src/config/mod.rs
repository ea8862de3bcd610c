//! Configuration: worker file, connector files, secret providers, checking.

pub mod check;
pub(crate) mod nearest;
pub(crate) mod options;
pub mod providers;
