//! Single-message transforms: record to record.

use tailwater_api::Result;
use tailwater_api::config::{ConfigReport, ConfigValues};
use tailwater_api::record::Record;

/// A configured transform. Keeps caches, so it is owned by one task.
pub trait Transform: Send {
    /// The record in its new form, or `None` to drop it.
    ///
    /// # Errors
    /// The record does not fit; its scope is the record.
    fn apply(&mut self, record: Record) -> Result<Option<Record>>;
}

/// The transforms of a connector with their predicates, in order.
pub struct TransformChain {
    transforms: Vec<Box<dyn Transform>>,
}

impl TransformChain {
    /// Builds the chain from the keys `transforms`, `transforms.*`, `predicates`, `predicates.*` of a connector.
    ///
    /// # Errors
    /// All faults of the keys.
    pub fn from_config(config: &ConfigValues) -> Result<(Self, ConfigReport), ConfigReport> {
        let _ = config;
        Ok((Self { transforms: Vec::new() }, ConfigReport::default()))
    }

    /// Whether records pass untouched.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.transforms.is_empty()
    }

    /// Passes one record through all transforms.
    ///
    /// # Errors
    /// Those of the transforms.
    pub fn apply(&mut self, mut record: Record) -> Result<Option<Record>> {
        for transform in &mut self.transforms {
            match transform.apply(record)? {
                Some(next) => record = next,
                None => return Ok(None),
            }
        }
        Ok(Some(record))
    }
}
