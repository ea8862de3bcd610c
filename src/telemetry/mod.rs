//! Logs and metrics.

mod log;
mod registry;

pub use log::init;
pub use registry::{CONTENT_TYPE, Registry};
