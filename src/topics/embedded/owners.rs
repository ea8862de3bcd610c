//! Which journal holds a topic. A topic has one log, so it belongs to the first journal that writes it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tailwater_api::{Error, ErrorKind, Result};

/// Topics and the names of their journals.
#[derive(Default)]
pub(super) struct Owners(Mutex<HashMap<Arc<str>, Arc<str>>>);

impl Owners {
    /// The journal that holds `topic`.
    pub(super) fn of(&self, topic: &str) -> Option<Arc<str>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(topic).cloned()
    }

    /// Gives `topic` to `journal`.
    ///
    /// # Errors
    /// `conflict` if another journal holds it.
    pub(super) fn claim(&self, topic: &Arc<str>, journal: &Arc<str>) -> Result<()> {
        let mut owners = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let owner = owners.entry(Arc::clone(topic)).or_insert_with(|| Arc::clone(journal));
        if owner == journal {
            return Ok(());
        }
        let shown = |journal: &str| {
            if journal.is_empty() {
                "the worker itself, as dead letters and the like".to_owned()
            } else {
                format!("the connector {journal}")
            }
        };
        Err(Error::new(ErrorKind::Conflict, format!("append to the topic {topic} for {}", shown(journal)))
            .because(format!("the topic is written by {}", shown(owner)))
            .mend(
                "route the records to another topic, for instance by another topic.prefix; or, if the other writer is gone for good, stop the worker and remove its folder below journals/ in data.dir",
            ))
    }
}
