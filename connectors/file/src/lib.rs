//! Tailwater's sink for files of JSON lines and CSV.
