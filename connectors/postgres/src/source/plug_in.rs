//! What the output plug-in is asked for (PostgreSQL 18, "Logical Streaming Replication Parameters").

use crate::catalog::{ServerFacts, quote_identifier};
use crate::config::PostgresConfig;
use crate::pgoutput::ProtocolVersion;

/// `server_version_num` of the first version that sends transactions in progress, logical messages, and values in binary.
const IN_PROGRESS: u32 = 140_000;
/// And of the first one whose aborts tell their place.
const PARALLEL: u32 = 160_000;

/// What of the protocol is in use. By default the server keeps transactions until their commit, and only committed ones arrive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Protocol {
    /// Transactions in progress are sent in parts.
    pub(crate) in_progress: bool,
    /// Prepared transactions are sent before their commit.
    pub(crate) two_phase: bool,
    server_version: u32,
}

impl Protocol {
    /// What the configuration asks for and the server has.
    pub(super) fn new(config: &PostgresConfig, facts: &ServerFacts) -> Self {
        Self { in_progress: config.in_progress && facts.version >= IN_PROGRESS, two_phase: config.two_phase, server_version: facts.version }
    }

    /// The oldest version that has all of it; for transactions in progress the newest that the server has.
    pub(crate) fn version(self) -> ProtocolVersion {
        match (self.in_progress, self.two_phase) {
            (true, _) if self.server_version >= PARALLEL => ProtocolVersion::V4,
            (_, true) => ProtocolVersion::V3,
            (true, false) => ProtocolVersion::V2,
            (false, false) => ProtocolVersion::V1,
        }
    }
}

/// The options of a stream. What the configuration names itself stands in place of ours: the server takes each once.
pub(super) fn options(config: &PostgresConfig, protocol: Protocol, binary: bool) -> Vec<(String, String)> {
    let version = protocol.version();
    let mut options = vec![("proto_version", version.number().to_owned()), ("publication_names", quote_identifier(&config.publication))];
    if protocol.in_progress {
        let streaming = if version >= ProtocolVersion::V4 { "parallel" } else { "on" };
        options.push(("streaming", streaming.to_owned()));
    }
    if protocol.two_phase {
        options.push(("two_phase", "on".to_owned()));
    }
    if protocol.server_version >= IN_PROGRESS {
        options.push(("messages", "true".to_owned()));
        if binary {
            options.push(("binary", "true".to_owned()));
        }
    }
    options.retain(|(name, _)| !config.stream_options.iter().any(|(asked, _)| asked == name));
    options.into_iter().map(|(name, value)| (name.to_owned(), value)).chain(config.stream_options.iter().cloned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_server_is_asked_for_the_version_that_it_has() {
        use ProtocolVersion::{V1, V2, V3, V4};
        let version = |in_progress, two_phase, server_version| Protocol { in_progress, two_phase, server_version }.version();
        for server in [130_000, 150_000, 180_000] {
            assert_eq!(version(false, false, server), V1);
        }
        assert_eq!((version(true, false, 140_000), version(true, false, 150_000), version(true, false, 160_000)), (V2, V2, V4));
        assert_eq!((version(false, true, 150_000), version(false, true, 180_000)), (V3, V3));
        assert_eq!((version(true, true, 150_000), version(true, true, 170_000)), (V3, V4));
    }
}
