//! The embedded engine: one journal of segment files per source connector.
