//! From binary to text: where a value turns up that cannot come in binary, the log is followed on in text.
//!
//! Values come in binary where the catalog of today has only columns that can. But the log may describe a table as it was, with a
//! column that is gone by now; and the server writes the values of all tables that are published, captured or not, and refuses
//! those of a type without a send function (`aclitem`). Another try in binary would meet the same row again. So the connection is
//! made anew, for text, and stays so for the rest of the run: it costs time, not rows.
//!
//! This may happen inside a transaction. What was taken of it is sent, and what comes again is held against it, as after a restart
//! (I3).

use std::error::Error as StdError;

use tailwater_api::{Error, Result};
use tracing::info;

use super::{Ended, Streaming};
use crate::plans::ReadAsText;
use crate::replication::is_without_binary_form;

/// Whether the log can be followed on in text where this error ended it.
pub(super) fn is_asked_for(error: &Error) -> bool {
    error.source().is_some_and(|cause| cause.is::<ReadAsText>() || is_without_binary_form(cause))
}

impl Streaming<'_> {
    pub(super) async fn turn_to_text(&mut self, reason: &Error) -> Result<Ended> {
        info!("the log is followed in text from now on: {}", reason.sentence());
        self.finish().await?;
        self.expected = self.position().partial;
        self.transaction = None;
        self.heard.clear();
        Ok(Ended::NeedsText)
    }
}
