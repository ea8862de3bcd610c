//! What is told of tables that signals ask for: STARTED, IN_PROGRESS with each piece, TABLE_SCAN_COMPLETED with a status, COMPLETED, in
//! notifications under the signal's id.

use tailwater_api::record::Record;
use tailwater_kit::notification::{Aggregate, Happening};

use super::Chunks;
use crate::request::TableRequest;
use crate::table_states::ReadingTable;

impl Chunks {
    /// The requests whose tables are not read to their end.
    pub(crate) fn requests(&self) -> impl Iterator<Item = &TableRequest> {
        self.tables.iter().filter_map(|table| table.reading.request.as_ref())
    }

    /// The ids of the signals whose tables are not read to their end, in their order.
    pub(crate) fn signals(&self) -> Vec<String> {
        let mut signals: Vec<String> = Vec::new();
        for request in self.requests() {
            if !signals.contains(&request.signal) {
                signals.push(request.signal.clone());
            }
        }
        signals
    }

    /// What `data_collections` says of a signal: its tables that are not read to their end.
    pub(crate) fn collections(&self, signal: &str) -> String {
        let of_signal = self.tables.iter().map(|table| &table.reading);
        let of_signal = of_signal.filter(|table| table.request.as_ref().is_some_and(|request| request.signal == signal));
        of_signal.map(|table| table.name.as_str()).collect::<Vec<_>>().join(",")
    }

    pub(super) fn tell_of_piece(&self, table: &ReadingTable) -> Vec<Record> {
        let (Some(request), Some(range)) = (&table.request, &table.range) else { return Vec::new() };
        let data = [
            ("current_collection_in_progress", table.name.as_str()),
            ("maximum_key", &range.until.join(",")),
            ("last_processed_key", &range.after.join(",")),
            ("data_collections", &self.collections(&request.signal)),
        ];
        self.tell(&request.signal, Happening::InProgress, &data).into_iter().collect()
    }

    /// Tells that `table`, which is none of those to read any more, was read or left out.
    pub(super) fn tell_of_end(&self, table: &ReadingTable, status: &str) -> Vec<Record> {
        let Some(request) = &table.request else { return Vec::new() };
        let left = self.collections(&request.signal);
        let collections = if left.is_empty() { table.name.clone() } else { format!("{},{left}", table.name) };
        let data = [
            ("scanned_collection", table.name.as_str()),
            ("total_rows_scanned", &table.rows.to_string()),
            ("data_collections", &collections),
            ("status", status),
        ];
        let scanned = self.tell(&request.signal, Happening::TableScanCompleted, &data);
        let completed = left.is_empty().then(|| self.tell(&request.signal, Happening::Completed, &[])).flatten();
        scanned.into_iter().chain(completed).collect()
    }

    /// A notification about the snapshot that a signal asked for.
    pub(crate) fn tell(&self, signal: &str, happening: Happening, data: &[(&str, &str)]) -> Option<Record> {
        self.notifications.give_about(signal, Aggregate::IncrementalSnapshot, happening, data)
    }
}
