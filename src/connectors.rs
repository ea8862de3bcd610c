//! The list of compiled-in connectors, one line each.

use crate::runtime::plugin::{Plugin, SinkPlugin, SourcePlugin};

/// The list. A line is the feature, the type, and the Java classes that mean the same.
static ALL: &[&dyn Plugin] = &[
    #[cfg(feature = "postgres")]
    &SourcePlugin::<tailwater_postgres::PostgresConnector>::new(&[]),
    #[cfg(feature = "sql")]
    &SinkPlugin::<tailwater_sql::SqlConnector>::new(&[]),
    #[cfg(feature = "file")]
    &SinkPlugin::<tailwater_file::FileConnector>::new(&["org.apache.kafka.connect.file.FileStreamSinkConnector"]),
    #[cfg(feature = "blackhole")]
    &SinkPlugin::<tailwater_blackhole::BlackholeConnector>::new(&[]),
    #[cfg(feature = "generator")]
    &SourcePlugin::<tailwater_generator::GeneratorConnector>::new(&[]),
];

/// All compiled-in connectors.
#[must_use]
pub fn all() -> &'static [&'static dyn Plugin] {
    ALL
}

/// The connector that `class` means: a short name, or a class or an alias as Connect lets them be written: whole,
/// without its package, and without `Connector` at its end (`PostgresConnector`, `Postgres`).
#[must_use]
pub fn find(class: &str) -> Option<&'static dyn Plugin> {
    let class = class.trim();
    let found = all().iter().copied().find(|plugin| means(*plugin, class));
    #[cfg(test)]
    let found = found.or_else(|| crate::runtime::testing::PLUGINS.iter().copied().find(|plugin| plugin.name() == class));
    found
}

fn means(plugin: &dyn Plugin, class: &str) -> bool {
    let mut classes = std::iter::once(plugin.class()).chain(plugin.aliases().iter().copied());
    plugin.name() == class
        || classes.any(|known| {
            let simple = known.rsplit('.').next().unwrap_or(known);
            known == class || simple == class || simple.strip_suffix("Connector") == Some(class)
        })
}

#[cfg(test)]
mod tests {
    #[cfg(feature = "file")]
    use tailwater_api::sink::SinkConnector;

    use super::*;

    #[cfg(feature = "file")]
    #[test]
    fn a_connector_is_found_by_every_name_that_connect_users_write() {
        let names = [
            "file",
            "org.apache.kafka.connect.file.FileStreamSinkConnector",
            "FileStreamSinkConnector",
            "FileStreamSink",
            tailwater_file::FileConnector::CLASS,
        ];
        for name in names {
            assert_eq!(find(name).map(Plugin::name), Some("file"), "{name}");
        }
        assert!(find("FileStreamSourceConnector").is_none());
        assert!(find("").is_none());
    }

    #[test]
    fn no_name_means_two_connectors() {
        for one in all() {
            for name in std::iter::once(one.name()).chain([one.class()]).chain(one.aliases().iter().copied()) {
                assert_eq!(all().iter().filter(|other| means(**other, name)).count(), 1, "{name}");
            }
        }
    }
}
