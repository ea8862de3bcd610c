//! Checks a connector's configuration without I/O and reports every fault at once (I15).

use tailwater_api::config::{ConfigReport, ConfigValues};
use tailwater_api::state::JsonMap;

/// The flat text values of a configuration; faults where a value is no scalar.
///
/// # Errors
/// All faults.
pub fn flatten(config: &JsonMap) -> Result<ConfigValues, ConfigReport> {
    let _ = config;
    unimplemented!()
}

/// Checks the connector's own keys, the keys that every connector has, converters, transforms and predicates, and names
/// unknown keys with the nearest known one. Placeholders such as `${env:NAME}` count as given.
#[must_use]
pub fn check(name: &str, config: &ConfigValues, defaults: &ConfigValues) -> ConfigReport {
    let _ = (name, config, defaults);
    unimplemented!()
}
