//! How far the log is followed, and from where the server has to send it again (I3).
//!
//! Without commits in two phases these are one place: the end of the last transaction. A prepared transaction
//! (`transaction.two.phase`) is sent when it is prepared and kept until its `COMMIT PREPARED`, with which the server sends it
//! no more: it does so only where its preparation stands at or behind the place from which it was asked to start (PostgreSQL
//! 18, `DecodePrepare` and `ReorderBufferFinishPrepared`). What is kept does not outlive the connection. So while a prepared
//! transaction has no end, the resume point stays at its preparation, and other transactions become durable behind it.
//! After a restart the server sends these again, and each that is durable is dropped, as a whole:
//!
//! ```text
//! prepare A   commit B   commit C   (crash)   commit D   commit prepared A
//! ^ resume               ^ through
//! ```
//!
//! The server keeps its log from the first record of a prepared transaction in any case, so holding the resume point back
//! retains nothing that it would let go.
//!
//! A transaction that was prepared before decoding in two phases was switched on for the slot is sent when it is committed,
//! as prepared a moment before. Its preparation stands before the place where the connection began, and it comes so again.

use std::collections::BTreeMap;

use crate::lsn::Lsn;

/// How far the log is followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Up to where the server has sent the log
    place: Lsn,
    /// Up to where it was followed by an earlier run or connection
    through: Lsn,
    /// Prepared transactions without an end, and where they were prepared
    prepared: BTreeMap<u32, Lsn>,
}

impl Progress {
    /// At the start: the server is asked to begin at `resume`, and what was committed before `through` is durable.
    pub(crate) fn new(resume: Lsn, through: Lsn) -> Self {
        Self { place: resume, through, prepared: BTreeMap::new() }
    }

    /// Up to where the server has sent the log. That may be less than what was followed earlier.
    pub(crate) fn place(&self) -> Lsn {
        self.place
    }

    /// Up to where the log was ever followed.
    pub(crate) fn through(&self) -> Lsn {
        self.place.max(self.through)
    }

    /// Where the server is to be asked to start after a restart.
    pub(crate) fn resume(&self) -> Lsn {
        self.prepared.values().copied().fold(self.place, Lsn::min)
    }

    /// Whether a record that begins at this place was followed earlier.
    pub(crate) fn is_repeated(&self, place: Lsn) -> bool {
        place < self.through
    }

    /// Whether a record that ends at this place was followed earlier.
    pub(crate) fn is_repeated_up_to(&self, end: Lsn) -> bool {
        end <= self.through
    }

    /// The log is followed up to here.
    pub(crate) fn advance(&mut self, place: Lsn) {
        self.place = self.place.max(place);
    }

    /// A transaction is prepared at this place and kept from now on.
    pub(crate) fn prepare(&mut self, xid: u32, at: Lsn) {
        // Otherwise it comes with its end, after a restart, too.
        if at >= self.place {
            self.prepared.insert(xid, at);
        }
    }

    /// The prepared transaction has its end.
    pub(crate) fn finish(&mut self, xid: u32) {
        self.prepared.remove(&xid);
    }

    /// Begins anew on another connection, and says from where.
    pub(crate) fn connect(&mut self) -> Lsn {
        *self = Self::new(self.resume(), self.through());
        self.place
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// What happens on the server, each at the next place of its log.
    #[derive(Clone, Copy, Debug)]
    enum Step {
        /// A transaction of one phase is committed.
        Commit,
        /// One is prepared.
        Prepare,
        /// The oldest, or the newest, of those without an end is committed.
        CommitPrepared { oldest: bool },
        /// Or rolled back
        RollbackPrepared { oldest: bool },
        /// The reader crashes, after what was made durable: all, or all but the last few points.
        Crash { lost: usize },
    }

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Record {
        Commit(u32),
        Prepare(u32),
        CommitPrepared(u32),
        RollbackPrepared(u32),
    }

    /// The log of the server; a record stands at ten times its index and ends at the next. Two phases are decoded from
    /// `two_phase_at` on.
    struct Server {
        log: Vec<Record>,
        two_phase_at: Lsn,
    }

    /// What the server sends.
    enum Sent {
        Commit { xid: u32, at: Lsn },
        Prepare { xid: u32, at: Lsn },
        CommitPrepared { xid: u32, at: Lsn },
        RollbackPrepared { xid: u32, at: Lsn },
    }

    impl Server {
        /// What is sent of the log between two places to a reader that asked to start at `from`.
        fn send(&self, from: Lsn, sent: usize) -> Vec<Sent> {
            let place = |index: usize| Lsn::new(10 * index as u64);
            let mut messages = Vec::new();
            for (index, record) in self.log.iter().enumerate().skip(sent) {
                let at = place(index);
                if at < from {
                    continue;
                }
                match *record {
                    Record::Commit(xid) => messages.push(Sent::Commit { xid, at }),
                    Record::Prepare(xid) if at >= self.two_phase_at => messages.push(Sent::Prepare { xid, at }),
                    Record::Prepare(_) => {}
                    Record::CommitPrepared(xid) => {
                        let prepared = place(self.log.iter().position(|record| *record == Record::Prepare(xid)).unwrap());
                        if prepared < self.two_phase_at {
                            messages.push(Sent::Prepare { xid, at: prepared });
                        }
                        messages.push(Sent::CommitPrepared { xid, at });
                    }
                    Record::RollbackPrepared(xid) => messages.push(Sent::RollbackPrepared { xid, at }),
                }
            }
            messages
        }
    }

    /// A reader as the stream is one, with what is durable.
    struct Reader {
        progress: Progress,
        kept: BTreeSet<u32>,
        from: Lsn,
        sent: usize,
        /// Transactions in the order in which they were emitted
        emitted: Vec<u32>,
        /// After each step: how many were emitted, and the stored position
        points: Vec<(usize, Lsn, Lsn)>,
    }

    impl Reader {
        fn follow(&mut self, server: &Server) {
            for message in server.send(self.from, self.sent) {
                match message {
                    Sent::Commit { xid, at } => self.emit(xid, at),
                    Sent::Prepare { xid, at } => {
                        assert!(self.kept.insert(xid), "{xid} is prepared twice");
                        self.progress.prepare(xid, at);
                    }
                    Sent::CommitPrepared { xid, at } => {
                        assert!(self.kept.remove(&xid) || self.progress.is_repeated(at), "{xid} is committed, but nothing of it came");
                        self.progress.finish(xid);
                        self.emit(xid, at);
                    }
                    Sent::RollbackPrepared { xid, at } => {
                        self.kept.remove(&xid);
                        self.progress.finish(xid);
                        self.progress.advance(Lsn::new(at.as_u64() + 10));
                    }
                }
                self.points.push((self.emitted.len(), self.progress.resume(), self.progress.through()));
            }
            self.sent = server.log.len();
        }

        fn emit(&mut self, xid: u32, at: Lsn) {
            if !self.progress.is_repeated(at) {
                self.emitted.push(xid);
            }
            self.progress.advance(Lsn::new(at.as_u64() + 10));
        }

        fn crash(&mut self, lost: usize) {
            self.points.truncate(self.points.len().saturating_sub(lost).max(1));
            let &(emitted, resume, through) = self.points.last().unwrap();
            self.emitted.truncate(emitted);
            self.progress = Progress::new(resume, through);
            self.kept.clear();
            (self.from, self.sent) = (resume, 0);
        }
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => Just(Step::Commit),
            3 => Just(Step::Prepare),
            2 => any::<bool>().prop_map(|oldest| Step::CommitPrepared { oldest }),
            1 => any::<bool>().prop_map(|oldest| Step::RollbackPrepared { oldest }),
            2 => (0_usize..4).prop_map(|lost| Step::Crash { lost }),
        ]
    }

    proptest! {
        // I3: whatever is prepared, resolved and lost in crashes, each committed transaction is emitted once, in the order of the
        // commits.
        #[test]
        fn each_committed_transaction_is_emitted_once(steps in proptest::collection::vec(step(), 1..60), before in 0_usize..6) {
            let mut server = Server { log: Vec::new(), two_phase_at: Lsn::new(10 * before as u64) };
            let mut open: Vec<u32> = Vec::new();
            let start = server.two_phase_at;
            let mut reader = Reader {
                progress: Progress::new(start, start), kept: BTreeSet::new(), from: start, sent: 0, emitted: Vec::new(),
                points: vec![(0, start, start)],
            };
            for (xid, step) in (1_u32..).zip(steps) {
                match step {
                    Step::Commit => server.log.push(Record::Commit(xid)),
                    Step::Prepare => {
                        open.push(xid);
                        server.log.push(Record::Prepare(xid));
                    }
                    Step::CommitPrepared { oldest } | Step::RollbackPrepared { oldest } => {
                        if open.is_empty() {
                            continue;
                        }
                        let ended = if oldest { open.remove(0) } else { open.pop().unwrap() };
                        let rolled_back = matches!(step, Step::RollbackPrepared { .. });
                        server.log.push(if rolled_back { Record::RollbackPrepared(ended) } else { Record::CommitPrepared(ended) });
                    }
                    Step::Crash { lost } => reader.crash(lost),
                }
                reader.follow(&server);
                prop_assert!(reader.progress.resume() <= reader.progress.through());
            }
            let committed: Vec<_> = server.log.iter().skip(before).filter_map(|record| match record {
                Record::Commit(xid) | Record::CommitPrepared(xid) => Some(*xid),
                Record::Prepare(_) | Record::RollbackPrepared(_) => None,
            }).collect();
            prop_assert_eq!(reader.emitted, committed);
        }

        // What is confirmed never goes back.
        #[test]
        fn the_resume_point_moves_forward_only(steps in proptest::collection::vec((0_u8..4, 0_u32..5), 1..60)) {
            let mut progress = Progress::new(Lsn::new(10), Lsn::new(10));
            let mut newest = Lsn::new(10);
            for (place, (kind, xid)) in (2_u64..).zip(steps) {
                let place = Lsn::new(10 * place);
                match kind {
                    0 => progress.prepare(xid, place),
                    1 => progress.finish(xid),
                    2 => progress.advance(place),
                    _ => drop(progress.connect()),
                }
                prop_assert!(progress.resume() >= newest);
                newest = progress.resume();
            }
        }
    }
}
