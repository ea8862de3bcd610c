//! [`Windows`] alone: what is remembered and forgotten, and what becomes of rows, case by case.

use std::collections::HashSet;

use super::model::Snapshot;
use super::*;

/// A table that is read
const TABLE: u32 = 1;
/// What its keys are
const FORM: &str = "id";

type Touch = fn(&mut Windows<Snapshot, u64>);

/// No event of these tests says a part of a row.
fn cannot(_: &u64, _: &mut [u8; 1]) -> bool {
    false
}

fn key(row: &[u8; 1], octets: &mut Vec<u8>) {
    octets.extend_from_slice(row);
}

#[test]
fn a_backlog_that_all_reads_see_is_not_remembered() {
    let sees = Snapshot { unseen: HashSet::from([3]), next: 5 };
    let mut windows = Windows::<Snapshot, u64>::new(10 * ENTRY, None);
    let look = windows.look();
    windows.learn(look, &Snapshot { unseen: HashSet::new(), next: 0 });
    let read = windows.begin_read().unwrap();
    windows.touch(&1, TABLE, FORM, &[1]);
    assert!(windows.weight() > 0, "it is not known yet what the read sees");
    windows.learn(read, &sees);
    windows.touch(&3, TABLE, FORM, &[3]);
    (0..100).for_each(|key| windows.touch(&2, TABLE, FORM, &[key]));
    windows.lose(&4);
    let mut rows = vec![[1_u8], [2], [3]];
    assert_eq!(windows.reconcile(read, TABLE, FORM, &mut rows, key, cannot), Reconciled::Emit { dropped: 1 });
    assert_eq!(rows, [[1], [2]]);
}

#[test]
fn a_transaction_known_in_part_does_not_count_as_come_by() {
    let running = Snapshot { unseen: HashSet::from([0]), next: 1 };
    let over = Snapshot { unseen: HashSet::new(), next: 1 };
    let mut windows = Windows::<Snapshot, u64>::new(1 << 20, Some(0));
    windows.touch(&0, TABLE, FORM, &[1]);
    let look = windows.look();
    windows.learn(look, &running);
    assert_eq!(windows.waits_for(), [0]);
    let look = windows.look();
    windows.learn(look, &over);
    assert!(windows.is_settled());
}

#[test]
fn a_read_under_way_keeps_what_a_later_look_sees() {
    let unseen = Snapshot { unseen: HashSet::from([0]), next: 1 };
    let seen = Snapshot { unseen: HashSet::new(), next: 1 };
    let mut rows = vec![[1_u8], [2]];
    let mut windows = Windows::<Snapshot, u64>::new(1 << 20, None);
    let look = windows.look();
    windows.learn(look, &Snapshot { unseen: HashSet::new(), next: 0 });
    let read = windows.begin_read().unwrap();
    windows.learn(read, &unseen);
    windows.touch(&0, TABLE, FORM, &[1]);
    let look = windows.look();
    windows.learn(look, &seen);
    for _ in 0..2 {
        assert!(matches!(windows.reconcile(read, TABLE, FORM, &mut rows, key, cannot), Reconciled::Emit { .. }));
        assert_eq!(rows, [[2]], "so with each piece of the read");
        rows = vec![[1_u8], [2]];
    }
    windows.end_read(read);
    assert_eq!(windows.weight(), 0, "nobody needs it any more");
}

#[test]
fn a_read_that_begins_later_may_have_looked_earlier() {
    let unseen = Snapshot { unseen: HashSet::from([0]), next: 1 };
    let mut windows = Windows::<Snapshot, u64>::new(1 << 20, None);
    let look = windows.look();
    windows.learn(look, &Snapshot { unseen: HashSet::new(), next: 0 });
    windows.touch(&0, TABLE, FORM, &[1]);
    let (look, read) = (windows.look(), windows.begin_read().unwrap());
    windows.learn(look, &Snapshot { unseen: HashSet::new(), next: 1 });
    windows.learn(read, &unseen);
    let mut rows = vec![[1_u8], [2]];
    assert_eq!(windows.reconcile(read, TABLE, FORM, &mut rows, key, cannot), Reconciled::Emit { dropped: 1 });
}

#[test]
fn an_answer_from_before_all_was_forgotten_says_nothing_about_what_runs_since() {
    let nothing_runs = Snapshot { unseen: HashSet::new(), next: 0 };
    let mut windows = Windows::<Snapshot, u64>::new(1 << 20, None);
    let (early, look) = (windows.look(), windows.look());
    windows.learn(look, &nothing_runs);
    assert!(windows.is_settled());
    windows.restart();
    windows.learn(early, &nothing_runs);
    assert!(!windows.is_settled());
}

#[test]
fn too_many_keys_void_the_read() {
    let nothing = Snapshot { unseen: HashSet::new(), next: 0 };
    let mut windows = Windows::<Snapshot, u64>::new(10 * ENTRY, None);
    let look = windows.look();
    windows.learn(look, &nothing);
    let read = windows.begin_read().unwrap();
    windows.learn(read, &nothing);
    (0..20).for_each(|key| windows.touch(&0, TABLE, FORM, &[key]));
    let mut rows = vec![[1_u8]];
    assert_eq!(windows.reconcile(read, TABLE, FORM, &mut rows, key, cannot), Reconciled::Forgotten);
    assert!(rows.is_empty());
    assert!(!windows.is_settled());
}

#[test]
fn a_read_is_made_anew_where_a_key_that_it_does_not_see_touched_has_another_form_or_is_not_known() {
    let nothing = Snapshot { unseen: HashSet::new(), next: 0 };
    let touches: [Touch; 3] = [
        |windows| windows.touch(&0, TABLE, "id bigint", &[9]),
        |windows| windows.touch_unknown(&0, TABLE),
        |windows| {
            windows.touch(&0, TABLE, FORM, &[9]);
            windows.touch(&0, TABLE, "id bigint", &[9]);
        },
    ];
    for touch in touches {
        let mut windows = Windows::<Snapshot, u64>::new(1 << 20, None);
        let look = windows.look();
        windows.learn(look, &nothing);
        let [read, of_other] = [(); 2].map(|()| windows.begin_read().unwrap());
        [read, of_other].iter().for_each(|look| windows.learn(*look, &nothing));
        touch(&mut windows);
        let mut rows = vec![[1_u8]];
        assert_eq!(windows.reconcile(of_other, TABLE + 1, FORM, &mut rows, key, cannot), Reconciled::Emit { dropped: 0 });
        assert_eq!(windows.reconcile(read, TABLE, FORM, &mut rows, key, cannot), Reconciled::Unclear(Unclear::Keys));
        assert!(rows.is_empty());
        windows.end_read(read);
        windows.end_read(of_other);
        let later = windows.begin_read().unwrap();
        windows.learn(later, &Snapshot { unseen: HashSet::new(), next: 1 });
        rows = vec![[1_u8]];
        assert_eq!(
            windows.reconcile(later, TABLE, FORM, &mut rows, key, cannot),
            Reconciled::Emit { dropped: 0 },
            "it sees the transaction"
        );
    }
}

#[test]
fn a_row_of_which_events_say_a_part_is_emitted_with_that_and_one_of_which_any_says_all_is_dropped() {
    let nothing = Snapshot { unseen: HashSet::new(), next: 0 };
    let mut windows = Windows::<Snapshot, u8>::new(1 << 20, None);
    let look = windows.look();
    windows.learn(look, &nothing);
    let read = windows.begin_read().unwrap();
    windows.learn(read, &nothing);
    for transaction in [0, 1] {
        windows.touch_partly(&transaction, TABLE, FORM, &[1], 1, || 2);
        windows.touch_partly(&transaction, TABLE, FORM, &[1], 1, || 3);
    }
    windows.touch_partly(&0, TABLE, FORM, &[2], 1, || 1);
    windows.touch(&1, TABLE, FORM, &[2]);
    windows.touch(&0, TABLE, FORM, &[3]);
    windows.touch_partly(&0, TABLE, FORM, &[3], 1, || 1);
    let key = |row: &Vec<u8>, octets: &mut Vec<u8>| octets.push(row[0]);
    let put = |part: &u8, row: &mut Vec<u8>| {
        row.push(*part);
        true
    };
    let mut rows = vec![vec![1], vec![2], vec![3], vec![4]];
    assert_eq!(windows.reconcile(read, TABLE, FORM, &mut rows, key, put), Reconciled::Emit { dropped: 2 });
    assert_eq!(rows, [vec![1, 2, 3, 2, 3], vec![4]], "in the order of the log");
    assert_eq!(windows.reconcile(read, TABLE, FORM, &mut rows, key, |_, _| false), Reconciled::Unclear(Unclear::Columns));
    assert!(rows.is_empty());
}

#[test]
fn a_read_of_a_row_that_moved_or_of_which_too_much_is_said_is_made_anew_and_no_other() {
    let nothing = Snapshot { unseen: HashSet::new(), next: 0 };
    let limit = 100 * ENTRY;
    let touches: [(Touch, Unclear); 4] = [
        (|windows| windows.touch_unclearly(&0, TABLE, FORM, &[1]), Unclear::Moved),
        (|windows| windows.touch_partly(&0, TABLE, FORM, &[1], 100 * ENTRY, || unreachable!("it is not asked")), Unclear::TooMuch),
        (|windows| (0..20).for_each(|part| windows.touch_partly(&0, TABLE, FORM, &[1], ENTRY, || part)), Unclear::TooMuch),
        (|windows| (1..50).for_each(|key| windows.touch_partly(&0, TABLE, FORM, &[key], 2 * ENTRY, || 1)), Unclear::TooMuch),
    ];
    for (touch, why) in touches {
        let mut windows = Windows::<Snapshot, u64>::new(limit, None);
        let look = windows.look();
        windows.learn(look, &nothing);
        let read = windows.begin_read().unwrap();
        windows.learn(read, &nothing);
        touch(&mut windows);
        assert!(windows.weight() <= limit && windows.is_settled());
        let mut rows = vec![[250_u8]];
        assert_eq!(windows.reconcile(read, TABLE, FORM, &mut rows, key, cannot), Reconciled::Emit { dropped: 0 });
        rows.push([1]);
        assert_eq!(windows.reconcile(read, TABLE, FORM, &mut rows, key, cannot), Reconciled::Unclear(why));
        // An event that says all stands for all parts, and for no move.
        windows.touch(&1, TABLE, FORM, &[1]);
        windows.touch_partly(&1, TABLE, FORM, &[1], 1, || unreachable!("nobody needs it"));
        let expected = match why {
            Unclear::Moved => Reconciled::Unclear(Unclear::Moved),
            Unclear::Keys | Unclear::Columns | Unclear::TooMuch => Reconciled::Emit { dropped: 1 },
        };
        assert_eq!(windows.reconcile(read, TABLE, FORM, &mut vec![[1]], key, cannot), expected);
    }
}
