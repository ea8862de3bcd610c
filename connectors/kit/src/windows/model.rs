//! [`Windows`] against a model database: writers, commits that stand in the log before they are visible, reads beside
//! the log, crashes.
//!
//! The model is as lax as real databases are. A commit enters the log at once and becomes visible at any later time, in
//! any order; a row stays locked until then. A read sees what is visible when it begins. All output is durable together
//! with the place in the log and the progress of the chunks; a crash loses everything else.

use std::collections::{BTreeMap, HashSet};

use proptest::prelude::*;

use super::*;

const KEYS: u8 = 12;
const TABLE: u32 = 7;

type Id = u32;

/// A version of a row: which write it is of, of all; `false` for a deleted row.
type Version = (u64, bool);

#[derive(Clone, Debug, PartialEq)]
enum Write {
    Put(u8),
    Delete(u8),
    /// The row moves: the old key is deleted, the new one written.
    Move(u8, u8),
    Truncate,
}

/// A transaction in the log.
#[derive(Clone)]
struct Logged {
    id: Id,
    writes: Vec<(Write, u64)>,
}

#[derive(Clone)]
struct Snapshot {
    unseen: HashSet<Id>,
    next: Id,
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
    /// A look at what is visible is begun, or its answer arrives.
    Look,
    /// A chunk is read, if none is.
    Read(u8),
    Crash,
}

#[derive(Default)]
struct Database {
    next_id: Id,
    next_version: u64,
    open: Vec<Logged>,
    invisible: Vec<Logged>,
    log: Vec<Logged>,
    visible: BTreeMap<u8, Version>,
}

impl Database {
    fn keys(write: &Write) -> Vec<u8> {
        match write {
            Write::Put(key) | Write::Delete(key) => vec![*key],
            Write::Move(old, new) => vec![*old, *new],
            Write::Truncate => (0..KEYS).collect(),
        }
    }

    /// Rows are locked until the transaction that wrote them is visible or gone.
    fn locked(&self, writes: &[Write]) -> bool {
        let held: HashSet<u8> =
            self.open.iter().chain(&self.invisible).flat_map(|logged| &logged.writes).flat_map(|(write, _)| Self::keys(write)).collect();
        writes.iter().flat_map(Self::keys).any(|key| held.contains(&key))
    }

    fn begin(&mut self, writes: Vec<Write>) {
        if self.locked(&writes) {
            return;
        }
        let id = self.next_id;
        self.next_id += 1;
        let writes = writes
            .into_iter()
            .map(|write| {
                self.next_version += 1;
                (write, self.next_version)
            })
            .collect();
        self.open.push(Logged { id, writes });
    }

    fn commit(&mut self, number: usize) {
        let transaction = self.open.remove(number);
        self.log.push(transaction.clone());
        self.invisible.push(transaction);
    }

    fn appear(&mut self, number: usize) {
        let transaction = self.invisible.remove(number);
        for (key, version) in effects(&transaction) {
            self.visible.insert(key, version);
        }
    }

    fn snapshot(&self) -> Snapshot {
        let unseen = self.open.iter().chain(&self.invisible).map(|logged| logged.id).collect();
        Snapshot { unseen, next: self.next_id }
    }
}

fn effects(transaction: &Logged) -> Vec<(u8, Version)> {
    let mut effects = Vec::new();
    for (write, version) in &transaction.writes {
        match write {
            Write::Put(key) => effects.push((*key, (*version, true))),
            Write::Delete(key) => effects.push((*key, (*version, false))),
            Write::Move(old, new) => effects.extend([(*old, (*version, false)), (*new, (*version, true))]),
            Write::Truncate => effects.extend((0..KEYS).map(|key| (key, (*version, false)))),
        }
    }
    effects
}

struct ChunkRead {
    look: Look,
    snapshot: Snapshot,
    rows: Vec<([u8; 1], Version)>,
    /// The last key that was looked at
    until: u8,
    /// The log has to be followed to here.
    passed: usize,
}

/// A source: what is durable, and what a crash loses.
struct Source {
    // Durable
    output: Vec<(u8, Version)>,
    followed: usize,
    /// The next key to read
    progress: u8,
    // Lost in a crash
    windows: Windows<Snapshot>,
    asked: Option<(Look, Snapshot)>,
    chunk: Option<ChunkRead>,
    limit: usize,
}

impl Source {
    fn new(limit: usize) -> Self {
        Self { output: Vec::new(), followed: 0, progress: 0, windows: Windows::new(limit, None), asked: None, chunk: None, limit }
    }

    fn crash(&mut self) {
        self.windows = Windows::new(self.limit, None);
        self.asked = None;
        self.chunk = None;
    }

    fn follow(&mut self, database: &Database) {
        if let Some(logged) = database.log.get(self.followed) {
            for (write, _) in &logged.writes {
                match write {
                    Write::Put(key) | Write::Delete(key) => self.windows.touch(&logged.id, TABLE, &[*key]),
                    Write::Move(old, new) => {
                        self.windows.touch(&logged.id, TABLE, &[*old]);
                        self.windows.touch(&logged.id, TABLE, &[*new]);
                    }
                    Write::Truncate => self.windows.truncate(&logged.id, TABLE),
                }
            }
            self.output.extend(effects(logged));
            self.followed += 1;
        }
        self.emit();
    }

    fn emit(&mut self) {
        let Some(mut chunk) = self.chunk.take_if(|chunk| chunk.passed <= self.followed) else { return };
        match self.windows.reconcile(chunk.look, &chunk.snapshot, TABLE, &mut chunk.rows, |(key, _)| key) {
            Reconciled::Emit { .. } => {
                self.output.extend(chunk.rows.iter().map(|(key, version)| (key[0], *version)));
                self.progress = chunk.until;
            }
            Reconciled::ReadAgain => {}
        }
    }

    fn look(&mut self, database: &Database) {
        match self.asked.take() {
            Some((look, snapshot)) => self.windows.learn(look, &snapshot),
            None => self.asked = Some((self.windows.look(), database.snapshot())),
        }
    }

    fn read(&mut self, database: &Database, size: u8) {
        if self.chunk.is_some() || self.progress >= KEYS {
            return;
        }
        let Some(look) = self.windows.begin_read() else { return };
        let until = (self.progress + size).min(KEYS);
        let rows = database
            .visible
            .range(self.progress..until)
            .filter(|(_, version)| version.1)
            .map(|(key, version)| ([*key], *version))
            .collect();
        self.chunk = Some(ChunkRead { look, snapshot: database.snapshot(), rows, until, passed: database.log.len() });
    }
}

/// Plays the steps, then lets everything come to its end, and says what is wrong with the output.
fn play(steps: Vec<Step>, limit: usize) -> Result<(), String> {
    let mut database = Database { next_version: u64::from(KEYS), ..Database::default() };
    database.visible = (0..KEYS).filter(|key| key % 3 != 0).map(|key| (key, (u64::from(key), true))).collect();
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
            Step::Follow => source.follow(&database),
            Step::Look => source.look(&database),
            Step::Read(size) => source.read(&database, size),
            Step::Crash => source.crash(),
        }
    }
    while !database.open.is_empty() {
        database.commit(0);
    }
    while !database.invisible.is_empty() {
        database.appear(0);
    }
    for _ in 0..200 {
        source.look(&database);
        source.read(&database, 3);
        source.follow(&database);
    }
    if source.progress < KEYS {
        return Err(format!("the snapshot does not come to its end: {}", source.progress));
    }
    if source.windows.weight() > limit {
        return Err("more is kept than allowed".into());
    }
    judge(&source.output, &database)
}

fn judge(output: &[(u8, Version)], database: &Database) -> Result<(), String> {
    let mut replica: BTreeMap<u8, Version> = BTreeMap::new();
    for (key, version) in output {
        match replica.get(key) {
            Some(known) if known.0 > version.0 => return Err(format!("key {key}: {version:?} stands behind {known:?}")),
            Some(_) | None => replica.insert(*key, *version),
        };
    }
    let alive = |rows: &BTreeMap<u8, Version>| {
        rows.iter().filter(|(_, version)| version.1).map(|(key, version)| (*key, *version)).collect::<Vec<_>>()
    };
    let (copy, original) = (alive(&replica), alive(&database.visible));
    if copy == original { Ok(()) } else { Err(format!("the copy is {copy:?}, the table {original:?}")) }
}

fn write() -> impl Strategy<Value = Write> {
    let key = || 0..KEYS;
    prop_oneof![
        6 => key().prop_map(Write::Put),
        3 => key().prop_map(Write::Delete),
        2 => (key(), key()).prop_map(|(old, new)| Write::Move(old, new)),
        1 => Just(Write::Truncate),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => proptest::collection::vec(write(), 1..4).prop_map(Step::Write),
        5 => (any::<usize>(), proptest::bool::weighted(0.8)).prop_map(|(number, commits)| Step::Commit(number, commits)),
        4 => any::<usize>().prop_map(Step::Appear),
        8 => Just(Step::Follow),
        6 => Just(Step::Look),
        5 => (1..6_u8).prop_map(Step::Read),
        1 => Just(Step::Crash),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn nothing_is_lost_nothing_stale_stands_behind_newer_and_the_copy_ends_equal(
        steps in proptest::collection::vec(step(), 0..120),
        // One transaction of three keys fits at least; the small limits are crossed often.
        limit in prop_oneof![Just(6 * ENTRY), Just(12 * ENTRY), Just(1 << 20)],
    ) {
        if let Err(wrong) = play(steps, limit) {
            prop_assert!(false, "{wrong}");
        }
    }
}

/// A commit that stands in the log, was emitted, and is invisible to a read that begins afterwards.
fn a_commit_emitted_before_it_is_visible() -> (Database, Source) {
    let mut database = Database { next_version: u64::from(KEYS), ..Database::default() };
    database.visible.insert(1, (1, true));
    let mut source = Source::new(1 << 20);
    source.look(&database);
    source.look(&database);
    database.begin(vec![Write::Put(1)]);
    database.commit(0);
    source.follow(&database);
    (database, source)
}

#[test]
fn a_row_whose_newer_commit_was_emitted_before_it_was_visible_is_dropped() {
    let (mut database, mut source) = a_commit_emitted_before_it_is_visible();
    source.read(&database, KEYS);
    source.follow(&database);
    database.appear(0);
    assert_eq!(source.progress, KEYS);
    assert_eq!(judge(&source.output, &database), Ok(()));
}

#[test]
fn two_marks_around_the_read_would_emit_the_stale_row() {
    let (mut database, mut source) = a_commit_emitted_before_it_is_visible();
    let low = source.followed;
    let rows: Vec<_> = database.visible.clone().into_iter().collect();
    let high = database.log.len();
    let between: HashSet<u8> = database.log[low..high].iter().flat_map(effects).map(|(key, _)| key).collect();
    source.output.extend(rows.into_iter().filter(|(key, _)| !between.contains(key)));
    database.appear(0);
    assert!(judge(&source.output, &database).unwrap_err().contains("stands behind"));
}

#[test]
fn a_new_session_waits_for_what_an_earlier_one_emitted_before_it_was_visible() {
    let (mut database, mut source) = a_commit_emitted_before_it_is_visible();
    source.crash();
    for _ in 0..4 {
        source.look(&database);
    }
    assert_eq!(source.windows.waits_for(), [0]);
    source.read(&database, KEYS);
    assert!(source.chunk.is_none(), "nothing is read while the commit is invisible and unknown");
    database.appear(0);
    source.look(&database);
    source.look(&database);
    source.read(&database, KEYS);
    source.follow(&database);
    assert_eq!(source.progress, KEYS);
    assert_eq!(judge(&source.output, &database), Ok(()));
}

#[test]
fn a_transaction_known_in_part_does_not_count_as_come_by() {
    let database = Database { next_id: 1, ..Database::default() };
    let running = Snapshot { unseen: HashSet::from([0]), next: 1 };
    let mut windows = Windows::<Snapshot>::new(1 << 20, Some(0));
    windows.touch(&0, TABLE, &[1]);
    let look = windows.look();
    windows.learn(look, &running);
    assert_eq!(windows.waits_for(), [0]);
    let look = windows.look();
    windows.learn(look, &database.snapshot());
    assert!(windows.is_settled());
}

#[test]
fn a_read_under_way_keeps_what_a_later_look_sees() {
    let unseen = Snapshot { unseen: HashSet::from([0]), next: 1 };
    let seen = Snapshot { unseen: HashSet::new(), next: 1 };
    let mut windows = Windows::<Snapshot>::new(1 << 20, None);
    let look = windows.look();
    windows.learn(look, &Snapshot { unseen: HashSet::new(), next: 0 });
    let read = windows.begin_read().unwrap();
    windows.touch(&0, TABLE, &[1]);
    let look = windows.look();
    windows.learn(look, &seen);
    let mut rows = vec![[1_u8], [2]];
    assert_eq!(windows.reconcile(read, &unseen, TABLE, &mut rows, |key| key), Reconciled::Emit { dropped: 1 });
    assert_eq!(rows, [[2]]);
    assert_eq!(windows.weight(), 0, "nobody needs it any more");
}

#[test]
fn too_many_keys_void_the_read() {
    let nothing = Snapshot { unseen: HashSet::new(), next: 0 };
    let mut windows = Windows::<Snapshot>::new(10 * ENTRY, None);
    let look = windows.look();
    windows.learn(look, &nothing);
    let read = windows.begin_read().unwrap();
    (0..20).for_each(|key| windows.touch(&0, TABLE, &[key]));
    let mut rows = vec![[1_u8]];
    assert_eq!(windows.reconcile(read, &nothing, TABLE, &mut rows, |key| key), Reconciled::ReadAgain);
    assert!(rows.is_empty());
    assert!(!windows.is_settled());
}
