//! Configuration: worker file, connector files, secret providers, checking.

pub mod check;
pub mod providers;
