//! Tailwater's sink that counts and forgets.
