//! [`Windows`] against a model database: writers, commits that stand in the log before they are visible, reads beside
//! the log, crashes.
//!
//! The model is as lax as real databases are. A commit enters the log at once and becomes visible at any later time, in
//! any order; a row stays locked until then, and so does a table whose key is retyped, from reads, too. A read sees what
//! is visible when it begins, each table has one of its own, and its rows come in pieces. It may come to nothing, and
//! what it sees may become known late. All output is durable together with the place in the log, which may be amid a
//! transaction, and the progress of the tables; a crash loses everything else.

use std::collections::{BTreeMap, HashSet};

use proptest::prelude::*;

use super::*;

/// Of each table
const KEYS: u8 = 8;
const TABLES: u8 = 2;

type Id = u32;

/// A row, by its table and its key in it
type Row = (u8, u8);

/// A version of a row: which write it is of, of all; `false` for a deleted row; which write its large value is of, where
/// that is told.
type Version = (u64, bool, Option<u64>);

#[derive(Clone, Debug, PartialEq)]
enum Write {
    Put(Row),
    /// The row keeps its large value, of which the log says nothing; what it says weighs so much.
    Patch(Row, usize),
    Delete(Row),
    /// The row of the table moves: the old key is deleted, the new one written.
    Move(u8, u8, u8),
    Truncate(u8),
    /// The key of the table gets another form. The log does not tell.
    Retype(u8),
}

/// Whether the key of a table has its other form.
type Forms = [bool; TABLES as usize];

/// A transaction in the log.
#[derive(Clone)]
struct Logged {
    id: Id,
    /// With the forms that keys have behind them
    writes: Vec<(Write, u64, Forms)>,
}

fn form(forms: &Forms, table: u8) -> &'static str {
    if forms[usize::from(table)] { "retyped" } else { "first" }
}

/// One key differs in its octets between the forms, and has those of another key.
fn octets(forms: &Forms, table: u8, key: u8) -> [u8; 1] {
    [if forms[usize::from(table)] { KEYS - 1 - key } else { key }]
}

/// What a read sees: the transactions below `next` but the unseen.
#[derive(Clone)]
pub(super) struct Snapshot {
    pub(super) unseen: HashSet<Id>,
    pub(super) next: Id,
}

impl Visibility for Snapshot {
    type Transaction = Id;

    fn sees(&self, id: &Id) -> bool {
        *id < self.next && !self.unseen.contains(id)
    }

    fn running(&self) -> Vec<Id> {
        self.unseen.iter().copied().collect()
    }
}

#[derive(Clone, Debug)]
enum Step {
    /// A writer begins and does this.
    Write(Vec<Write>),
    /// The open writer with this number, of those open, commits or aborts.
    Commit(usize, bool),
    /// The committed transaction with this number, of those invisible, becomes visible.
    Appear(usize),
    /// The log is followed by one transaction.
    Follow,
    /// The log is followed by so many writes of a transaction; then comes a crash.
    FollowInto(usize),
    /// A look at what is visible is begun, is answered, or its answer arrives.
    Look,
    /// A read of so many keys of the table is begun, if it is not being read.
    Read(u8, u8),
    /// The table is read, or it becomes known what the read saw, and its rows may be emitted.
    GoOn(u8),
    /// The read of the table comes to nothing.
    Fail(u8),
    Crash,
}

#[derive(Default)]
struct Database {
    next_id: Id,
    next_version: u64,
    open: Vec<Logged>,
    invisible: Vec<Logged>,
    log: Vec<Logged>,
    visible: BTreeMap<Row, Version>,
    /// As visible transactions left them
    forms: Forms,
}

fn rows_of(table: u8) -> impl Iterator<Item = Row> {
    (0..KEYS).map(move |key| (table, key))
}

impl Database {
    /// Of tables whose rows have number 0 as their version, or are not there.
    fn new() -> Self {
        let visible = (0..TABLES).flat_map(rows_of).filter(|(_, key)| key % 3 != 0).map(|row| (row, (0, true, Some(0)))).collect();
        Self { visible, ..Self::default() }
    }

    fn rows(write: &Write) -> Vec<Row> {
        match write {
            Write::Put(row) | Write::Patch(row, _) | Write::Delete(row) => vec![*row],
            Write::Move(table, old, new) => vec![(*table, *old), (*table, *new)],
            Write::Truncate(table) | Write::Retype(table) => rows_of(*table).collect(),
        }
    }

    /// Rows are locked until the transaction that wrote them is visible or gone.
    fn locked(&self, writes: &[Write]) -> bool {
        let held: HashSet<Row> =
            self.open.iter().chain(&self.invisible).flat_map(|logged| &logged.writes).flat_map(|(write, ..)| Self::rows(write)).collect();
        writes.iter().flat_map(Self::rows).any(|row| held.contains(&row))
    }

    fn begin(&mut self, writes: Vec<Write>) {
        if self.locked(&writes) {
            return;
        }
        let id = self.next_id;
        self.next_id += 1;
        let mut forms = self.forms;
        let mut logged = Logged { id, writes: Vec::new() };
        let mut rows = self.visible.clone();
        for write in writes {
            if let Write::Patch(row, _) = &write
                && !rows.get(row).is_some_and(|version| version.1)
            {
                // An update of a row that is not there does nothing.
                continue;
            }
            self.next_version += 1;
            if let Write::Retype(table) = write {
                forms[usize::from(table)] = !forms[usize::from(table)];
            }
            logged.writes.push((write, self.next_version, forms));
            logged.writes.last().into_iter().flat_map(effects).for_each(|(row, version)| take(&mut rows, row, version));
        }
        self.open.push(logged);
    }

    fn commit(&mut self, number: usize) {
        let transaction = self.open.remove(number);
        self.log.push(transaction.clone());
        self.invisible.push(transaction);
    }

    fn appear(&mut self, number: usize) {
        let transaction = self.invisible.remove(number);
        for (row, version) in transaction.writes.iter().flat_map(effects) {
            take(&mut self.visible, row, version);
        }
        for (write, _, forms) in &transaction.writes {
            if let Write::Retype(table) = write {
                self.forms[usize::from(*table)] = forms[usize::from(*table)];
            }
        }
    }

    /// Whether a transaction that is not visible yet changes the key of the table.
    fn is_retyping(&self, table: u8) -> bool {
        self.open.iter().chain(&self.invisible).flat_map(|logged| &logged.writes).any(|(write, ..)| *write == Write::Retype(table))
    }

    fn snapshot(&self) -> Snapshot {
        let unseen = self.open.iter().chain(&self.invisible).map(|logged| logged.id).collect();
        Snapshot { unseen, next: self.next_id }
    }
}

/// What the log says of a write.
fn effects((write, version, _): &(Write, u64, Forms)) -> Vec<(Row, Version)> {
    let (put, gone) = ((*version, true, Some(*version)), (*version, false, None));
    match write {
        Write::Put(row) => vec![(*row, put)],
        Write::Patch(row, _) => vec![(*row, (*version, true, None))],
        Write::Delete(row) => vec![(*row, gone)],
        Write::Move(table, old, new) => vec![((*table, *old), gone), ((*table, *new), put)],
        Write::Truncate(table) => rows_of(*table).map(|row| (row, gone)).collect(),
        Write::Retype(_) => Vec::new(),
    }
}

/// Takes the version over; what it does not say stays as it was.
fn take(rows: &mut BTreeMap<Row, Version>, row: Row, version: Version) {
    let (write, is_there, large) = version;
    let kept = rows.get(&row).and_then(|known| known.2).filter(|_| is_there);
    rows.insert(row, (write, is_there, large.or(kept)));
}

struct TableRead {
    look: Look,
    /// What it sees, once the database was asked
    snapshot: Option<Snapshot>,
    /// The forms of the keys then
    forms: Forms,
    /// The source knows that.
    has_arrived: bool,
    /// Rows that are not emitted yet
    rows: Vec<(Row, Version)>,
    /// The key behind the last that was looked at
    until: u8,
    /// The log has to be followed to here.
    passed: usize,
}

/// A source: what is durable, and what a crash loses.
struct Source {
    // Durable
    output: Vec<(Row, Version)>,
    followed: usize,
    /// Writes of the next transaction that are followed
    amid: usize,
    /// The next key to read of each table
    progress: [u8; TABLES as usize],
    // Lost in a crash
    windows: Windows<Snapshot, u64>,
    asked: Option<(Look, Option<Snapshot>)>,
    reads: [Option<TableRead>; TABLES as usize],
    limit: usize,
}

impl Source {
    fn new(limit: usize) -> Self {
        let (output, windows) = (Vec::new(), Windows::new(limit, None));
        Self { output, followed: 0, amid: 0, progress: [0; TABLES as usize], windows, asked: None, reads: Default::default(), limit }
    }

    fn crash(&mut self) {
        self.windows = Windows::new(self.limit, None);
        self.asked = None;
        self.reads = Default::default();
    }

    fn is_complete(&self) -> bool {
        self.progress.iter().all(|next| *next >= KEYS)
    }

    /// Follows the next transaction, up to its write with this number.
    fn follow(&mut self, database: &Database, until: usize) {
        if let Some(logged) = database.log.get(self.followed) {
            if self.amid > 0 {
                // What came before the crash does not come again.
                self.windows.lose(&logged.id);
            }
            let until = until.clamp(self.amid, logged.writes.len());
            for (write, version, forms) in &logged.writes[self.amid..until] {
                let mut touch = |table: u8, key: u8| {
                    self.windows.touch(&logged.id, table.into(), form(forms, table), &octets(forms, table, key));
                };
                match write {
                    Write::Put((table, key)) | Write::Delete((table, key)) => touch(*table, *key),
                    Write::Patch((table, key), weight) => {
                        let octets = octets(forms, *table, *key);
                        self.windows.touch_partly(&logged.id, (*table).into(), form(forms, *table), &octets, *weight, || *version);
                    }
                    Write::Move(table, old, new) => {
                        touch(*table, *old);
                        touch(*table, *new);
                    }
                    Write::Truncate(table) => self.windows.truncate(&logged.id, (*table).into()),
                    Write::Retype(_) => {}
                }
            }
            self.output.extend(logged.writes[self.amid..until].iter().flat_map(effects));
            self.amid = until;
            if self.amid < logged.writes.len() {
                return;
            }
            (self.followed, self.amid) = (self.followed + 1, 0);
        }
        self.emit();
    }

    /// Emits of each table a piece that the log has passed.
    fn emit(&mut self) {
        for (table, read) in (0_u8..).zip(&mut self.reads) {
            let Some(under_way) = read.as_mut().filter(|read| read.has_arrived && read.passed <= self.followed) else { continue };
            let is_last = under_way.rows.len() <= 2;
            let mut piece: Vec<_> = under_way.rows.drain(..under_way.rows.len().min(2)).collect();
            let next = if is_last { Some(under_way.until) } else { piece.last().map(|((_, key), _)| key + 1) };
            let forms = &under_way.forms;
            let key = |((_, key), _): &(Row, Version), written: &mut Vec<u8>| written.extend(octets(forms, table, *key));
            // Some rows have other columns by then.
            let put = |version: &u64, (_, row): &mut (Row, Version)| {
                row.0 = *version;
                !version.is_multiple_of(5)
            };
            match self.windows.reconcile(under_way.look, table.into(), form(forms, table), &mut piece, key, put) {
                Reconciled::Emit { .. } => {
                    self.output.extend(piece);
                    self.progress[usize::from(table)] = next.expect("a piece that is not the last has a row");
                    if is_last {
                        self.windows.end_read(under_way.look);
                        *read = None;
                    }
                }
                Reconciled::Forgotten | Reconciled::Unclear(_) => {
                    self.windows.end_read(under_way.look);
                    *read = None;
                }
            }
        }
    }

    fn look(&mut self, database: &Database) {
        match self.asked.take() {
            None => self.asked = Some((self.windows.look(), None)),
            Some((look, None)) => self.asked = Some((look, Some(database.snapshot()))),
            Some((look, Some(snapshot))) => self.windows.learn(look, &snapshot),
        }
    }

    fn read(&mut self, table: u8, size: u8) {
        let next = self.progress[usize::from(table)];
        let read = &mut self.reads[usize::from(table)];
        if read.is_some() || next >= KEYS || self.amid > 0 {
            return;
        }
        let Some(look) = self.windows.begin_read() else { return };
        let until = (next + size).min(KEYS);
        *read = Some(TableRead { look, snapshot: None, forms: Forms::default(), has_arrived: false, rows: Vec::new(), until, passed: 0 });
    }

    fn go_on(&mut self, database: &Database, table: u8) {
        let next = self.progress[usize::from(table)];
        let Some(read) = &mut self.reads[usize::from(table)] else { return };
        match &read.snapshot {
            // It waits for the lock.
            None if database.is_retyping(table) => {}
            None => {
                read.forms = database.forms;
                let rows = database.visible.range((table, next)..(table, read.until)).filter(|(_, version)| version.1);
                read.rows = rows.map(|(row, version)| (*row, *version)).collect();
                read.snapshot = Some(database.snapshot());
                read.passed = database.log.len();
            }
            Some(snapshot) => {
                if !read.has_arrived {
                    read.has_arrived = true;
                    self.windows.learn(read.look, snapshot);
                }
                if self.amid == 0 {
                    self.emit();
                }
            }
        }
    }

    fn fail(&mut self, table: u8) {
        if let Some(read) = self.reads[usize::from(table)].take() {
            self.windows.end_read(read.look);
        }
    }
}

/// Plays the steps, then lets everything come to its end, and says what is wrong with the output.
fn play(steps: Vec<Step>, limit: usize) -> Result<(), String> {
    let mut database = Database::new();
    let mut source = Source::new(limit);
    for step in steps {
        match step {
            Step::Write(writes) => database.begin(writes),
            Step::Commit(number, commits) if !database.open.is_empty() => {
                let number = number % database.open.len();
                if commits {
                    database.commit(number);
                } else {
                    database.open.remove(number);
                }
            }
            Step::Appear(number) if !database.invisible.is_empty() => database.appear(number % database.invisible.len()),
            Step::Commit(..) | Step::Appear(_) => {}
            Step::Follow => source.follow(&database, usize::MAX),
            Step::FollowInto(writes) => {
                source.follow(&database, writes);
                source.crash();
            }
            Step::Look => source.look(&database),
            Step::Read(table, size) => source.read(table, size),
            Step::GoOn(table) => source.go_on(&database, table),
            Step::Fail(table) => source.fail(table),
            Step::Crash => source.crash(),
        }
        if source.windows.weight() > limit {
            return Err("more is kept than allowed".into());
        }
    }
    while !database.open.is_empty() {
        database.commit(0);
    }
    while !database.invisible.is_empty() {
        database.appear(0);
    }
    for _ in 0..300 {
        source.look(&database);
        source.follow(&database, usize::MAX);
        for table in 0..TABLES {
            source.read(table, 3);
            source.go_on(&database, table);
        }
    }
    if !source.is_complete() {
        return Err(format!("the snapshot does not come to its end: {:?}", source.progress));
    }
    judge(&source.output, &database)
}

fn judge(output: &[(Row, Version)], database: &Database) -> Result<(), String> {
    let mut replica: BTreeMap<Row, Version> = BTreeMap::new();
    for (row, version) in output {
        match replica.get(row) {
            Some(known) if known.0 > version.0 => return Err(format!("row {row:?}: {version:?} stands behind {known:?}")),
            Some(_) | None => take(&mut replica, *row, *version),
        }
    }
    let alive = |rows: &BTreeMap<Row, Version>| {
        rows.iter().filter(|(_, version)| version.1).map(|(row, version)| (*row, *version)).collect::<Vec<_>>()
    };
    let (copy, original) = (alive(&replica), alive(&database.visible));
    if copy == original { Ok(()) } else { Err(format!("the copy is {copy:?}, the table {original:?}")) }
}

fn write() -> impl Strategy<Value = Write> {
    let (table, key) = (|| 0..TABLES, || 0..KEYS);
    prop_oneof![
        4 => (table(), key()).prop_map(Write::Put),
        6 => (table(), key(), 1..4 * ENTRY).prop_map(|(table, key, weight)| Write::Patch((table, key), weight)),
        3 => (table(), key()).prop_map(Write::Delete),
        3 => (table(), key(), key()).prop_map(|(table, old, new)| Write::Move(table, old, new)),
        1 => table().prop_map(Write::Truncate),
        2 => table().prop_map(Write::Retype),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => proptest::collection::vec(write(), 1..4).prop_map(Step::Write),
        5 => (any::<usize>(), proptest::bool::weighted(0.8)).prop_map(|(number, commits)| Step::Commit(number, commits)),
        4 => any::<usize>().prop_map(Step::Appear),
        8 => Just(Step::Follow),
        1 => (1..3_usize).prop_map(Step::FollowInto),
        8 => Just(Step::Look),
        5 => (0..TABLES, 1..6_u8).prop_map(|(table, size)| Step::Read(table, size)),
        8 => (0..TABLES).prop_map(Step::GoOn),
        1 => (0..TABLES).prop_map(Step::Fail),
        1 => Just(Step::Crash),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn nothing_is_lost_nothing_stale_stands_behind_newer_and_the_copy_ends_equal(
        steps in proptest::collection::vec(step(), 0..200),
        // One transaction of three keys fits at least; the small limits are crossed often.
        limit in prop_oneof![Just(8 * ENTRY), Just(16 * ENTRY), Just(1 << 20)],
    ) {
        if let Err(wrong) = play(steps, limit) {
            prop_assert!(false, "{wrong}");
        }
    }
}

const ROW: Row = (0, 1);

/// A commit that stands in the log, was emitted, and is invisible to a read that begins afterwards.
fn a_commit_emitted_before_it_is_visible() -> (Database, Source) {
    let mut database = Database::default();
    database.visible.insert(ROW, (0, true, Some(0)));
    let mut source = Source::new(1 << 20);
    (0..3).for_each(|_| source.look(&database));
    database.begin(vec![Write::Put(ROW)]);
    database.commit(0);
    source.follow(&database, usize::MAX);
    (database, source)
}

#[test]
fn a_row_whose_newer_commit_was_emitted_before_it_was_visible_is_dropped() {
    let (mut database, mut source) = a_commit_emitted_before_it_is_visible();
    source.read(0, KEYS);
    source.go_on(&database, 0);
    source.go_on(&database, 0);
    database.appear(0);
    assert_eq!(source.progress[0], KEYS);
    assert_eq!(judge(&source.output, &database), Ok(()));
}

#[test]
fn two_marks_around_the_read_would_emit_the_stale_row() {
    let (mut database, mut source) = a_commit_emitted_before_it_is_visible();
    let low = source.followed;
    let rows: Vec<_> = database.visible.clone().into_iter().collect();
    let high = database.log.len();
    let writes = database.log[low..high].iter().flat_map(|logged| &logged.writes);
    let between: HashSet<Row> = writes.flat_map(effects).map(|(row, _)| row).collect();
    source.output.extend(rows.into_iter().filter(|(row, _)| !between.contains(row)));
    database.appear(0);
    assert!(judge(&source.output, &database).unwrap_err().contains("stands behind"));
}

#[test]
fn a_new_session_waits_for_what_an_earlier_one_emitted_before_it_was_visible() {
    let (mut database, mut source) = a_commit_emitted_before_it_is_visible();
    source.crash();
    (0..6).for_each(|_| source.look(&database));
    assert_eq!(source.windows.waits_for(), [0]);
    source.read(0, KEYS);
    assert!(source.reads[0].is_none(), "nothing is read while the commit is invisible and unknown");
    database.appear(0);
    (0..3).for_each(|_| source.look(&database));
    source.read(0, KEYS);
    source.go_on(&database, 0);
    source.go_on(&database, 0);
    assert_eq!(source.progress[0], KEYS);
    assert_eq!(judge(&source.output, &database), Ok(()));
}
