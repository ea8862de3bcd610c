//! What several Tailwater connectors share.
