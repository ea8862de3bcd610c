//! Logs and metrics.

mod known_names;
mod levels;
mod log;
mod registry;

pub use known_names::TaskState;
pub use levels::{Level, Levels, ROOT};
pub use log::init;
pub use registry::{CONTENT_TYPE, Registry};
