//! Tailwater's sink for SQL databases.
