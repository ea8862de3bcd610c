//! Converters: records to bytes, where bytes leave.

use bytes::Bytes;
use tailwater_api::Result;
use tailwater_api::config::{ConfigReport, ConfigValues};
use tailwater_api::record::{Record, SchemaAndValue};

/// Writes keys or values as bytes. Keeps encoders compiled from schemas, so it is owned by one thread.
pub trait Converter: Send {
    /// Appends the bytes of `data` to `out`; `false` if there are none, as for a tombstone.
    ///
    /// # Errors
    /// The data does not fit the converter; its scope is the record.
    fn write(&mut self, topic: &str, data: &SchemaAndValue, out: &mut Vec<u8>) -> Result<bool>;
}

/// The bytes of a record as a topic shows them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConvertedRecord {
    /// `None` where there is no key
    pub key: Option<Bytes>,
    /// `None` for a tombstone
    pub value: Option<Bytes>,
    /// Names and bytes of the headers in order
    pub headers: Vec<(String, Option<Bytes>)>,
}

/// The three converters of a connector.
pub struct Converters {
    key: Box<dyn Converter>,
    value: Box<dyn Converter>,
    header: Box<dyn Converter>,
}

impl Converters {
    /// Builds the converters named by `key.converter`, `value.converter`, `header.converter` and their options in
    /// `connector`, or else in `worker`. `placeholder` stands for unchanged values.
    ///
    /// # Errors
    /// All faults of the keys.
    pub fn from_config(connector: &ConfigValues, worker: &ConfigValues, placeholder: &str) -> Result<(Self, ConfigReport), ConfigReport> {
        let _ = (connector, worker, placeholder);
        unimplemented!()
    }

    /// The bytes of `record`.
    ///
    /// # Errors
    /// Those of the converters.
    pub fn convert(&mut self, record: &Record) -> Result<ConvertedRecord> {
        let _ = (record, &mut self.key, &mut self.value, &mut self.header);
        unimplemented!()
    }
}
