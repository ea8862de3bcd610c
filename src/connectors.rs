//! The list of compiled-in connectors, one line each, and the erasure of their types.
