//! Tailwater's PostgreSQL source.
