//! What the engine asks of whoever keeps the offsets of sources.

use futures_util::future::BoxFuture;
use tailwater_api::Result;
use tailwater_api::state::{SourceState, StateChange};

use crate::state::kafka::{KafkaOffsets, OffsetRecords, OffsetsOf};

/// Keeps offsets.
pub trait OffsetStore: Send + Sync + 'static {
    /// Returns when [`OffsetStore::load`] hides nothing any more that was written before this call: who goes on from an offset waits for the
    /// transactions of others, who only looks does not.
    fn settled(&self, of: &OffsetsOf) -> BoxFuture<'_, Result<()>>;

    /// All offsets.
    fn load(&self, of: &OffsetsOf) -> BoxFuture<'_, Result<SourceState>>;

    /// Keeps changes, in order; they are durable when it returns.
    fn put(&self, of: &OffsetsOf, changes: Vec<StateChange>) -> BoxFuture<'_, Result<()>>;

    /// The records that keep changes once somebody else has written them. What has to be done before that is done when it returns.
    fn records(&self, of: &OffsetsOf, changes: &[StateChange]) -> BoxFuture<'_, Result<OffsetRecords>>;

    /// Follows up on changes whose records were committed.
    fn committed(&self, of: &OffsetsOf, changes: Vec<StateChange>) -> BoxFuture<'_, Result<()>>;
}

impl OffsetStore for KafkaOffsets {
    fn settled(&self, of: &OffsetsOf) -> BoxFuture<'_, Result<()>> {
        let of = of.clone();
        Box::pin(async move { Self::settled(self, &of).await })
    }

    fn load(&self, of: &OffsetsOf) -> BoxFuture<'_, Result<SourceState>> {
        let of = of.clone();
        Box::pin(async move { Self::load(self, &of).await })
    }

    fn put(&self, of: &OffsetsOf, changes: Vec<StateChange>) -> BoxFuture<'_, Result<()>> {
        let of = of.clone();
        Box::pin(async move { Self::put(self, &of, &changes).await })
    }

    fn records(&self, of: &OffsetsOf, changes: &[StateChange]) -> BoxFuture<'_, Result<OffsetRecords>> {
        let (of, changes) = (of.clone(), changes.to_vec());
        Box::pin(async move { Self::records(self, &of, &changes).await })
    }

    fn committed(&self, of: &OffsetsOf, changes: Vec<StateChange>) -> BoxFuture<'_, Result<()>> {
        let of = of.clone();
        Box::pin(async move { Self::committed(self, &of, &changes).await })
    }
}
