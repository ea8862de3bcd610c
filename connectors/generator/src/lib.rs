//! Tailwater's source that makes records up.
