//! What a stream gathers until it is sent: records with the progress that they stand for, what they weigh, and the memory
//! reserved for them (I6).

use bytes::BytesMut;
use tailwater_api::record::Record;
use tailwater_api::source::Reservation;
use tailwater_api::state::StateChange;
use tailwater_kit::envelope::Change;

/// What a batch may weigh at least and at most before it is sent.
const SMALLEST: usize = 16 << 10;
const LARGEST: usize = 512 << 10;

/// Records on their way into the log, with what they were made from.
pub(crate) struct Batch {
    pub(crate) records: Vec<Record>,
    /// Progress of tables that are read in chunks
    pub(crate) state: Vec<StateChange>,
    /// A snapshot ended before all of its rows were published
    pub(crate) forgets_pending: bool,
    pub(crate) weight: usize,
    /// Octets received since the first record: small values of few rows may hold the buffers that all of these came in
    pub(crate) received: usize,
    pub(crate) reservation: Option<Reservation>,
    /// How much the next reservation asks for
    pub(crate) size: usize,
    /// The connector's clock for the records of this batch
    pub(crate) now: i64,
    pub(crate) arena: BytesMut,
    pub(crate) counts: Counts,
}

/// What is counted of a batch before the figures are told, which other threads read.
#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) rows: u64,
    pub(crate) creates: u64,
    pub(crate) updates: u64,
    pub(crate) deletes: u64,
    pub(crate) unchanged: u64,
    /// Rows that the configuration leaves out
    pub(crate) filtered: u64,
    /// Row changes of errored tables
    pub(crate) dropped: u64,
    pub(crate) transactions: u64,
}

impl Counts {
    /// Counts a change that makes so many events.
    pub(crate) fn add(&mut self, change: &Change, events: i64) {
        self.rows += 1;
        match change {
            Change::Create { .. } => self.creates += 1,
            Change::Update { .. } => self.updates += 1,
            Change::KeyChange { .. } => {
                self.deletes += u64::from(events > 1);
                self.creates += 1;
            }
            Change::Delete { .. } => self.deletes += 1,
            Change::Read { .. } | Change::Truncate => {}
        }
    }
}

impl Default for Batch {
    fn default() -> Self {
        Self {
            records: Vec::new(),
            state: Vec::new(),
            forgets_pending: false,
            weight: 0,
            received: 0,
            reservation: None,
            size: SMALLEST,
            now: 0,
            arena: BytesMut::new(),
            counts: Counts::default(),
        }
    }
}

impl Batch {
    /// Chooses how much the next batch may weigh: twice as much where this one was filled, half where it was sent before.
    pub(crate) fn resize(&mut self) {
        let full = self.used() >= self.size;
        self.size = if full { self.size * 2 } else { self.size / 2 }.clamp(SMALLEST, LARGEST);
    }

    /// What of the reservation is used up (I6).
    pub(crate) fn used(&self) -> usize {
        self.weight.max(self.received)
    }

    pub(crate) fn push(&mut self, record: Record) {
        self.weight += record.weight();
        self.records.push(record);
    }
}
