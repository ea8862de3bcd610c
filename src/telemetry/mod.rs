//! Logs and metrics.

mod levels;
mod log;
mod registry;

pub use levels::{Level, Levels, ROOT};
pub use log::init;
pub use registry::{CONTENT_TYPE, Registry};
