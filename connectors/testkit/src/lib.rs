//! Conformance suites, real servers as handles and a fault proxy for Tailwater's tests.
