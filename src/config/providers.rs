//! Secret providers: `${file:path:key}`, `${env:NAME}`, `${dir:path:file}`.

use tailwater_api::config::{ConfigReport, ConfigValues};

/// The configured providers, `config.providers` of the worker file; `file`, `env` and `dir` are always there.
#[derive(Clone, Default)]
pub struct Providers {}

impl Providers {
    /// Replaces every placeholder by what its provider says. A secret that is not there is a fault of its key, which names
    /// provider, path and key, never a value (I14).
    ///
    /// # Errors
    /// All faults.
    pub fn resolve(&self, config: &ConfigValues) -> Result<ConfigValues, ConfigReport> {
        let _ = config;
        unimplemented!()
    }
}
