use std::collections::BTreeMap;

use tailwater_api::config::{ConfigValues, read_config};
use tailwater_testkit::{PostgresServer, Version, required_or_skip};

use super::*;
use crate::catalog::{ColumnDefinition, OPERATIONS, PublishedTable, quote_identifier};
use crate::lsn::Lsn;
use crate::pgoutput::ReplicaIdentity;

fn table(oid: u32, name: &str, ancestors: &[u32]) -> TableDefinition {
    TableDefinition {
        oid,
        schema: "public".into(),
        schema_oid: 2200,
        name: name.into(),
        partitioned: name == "root",
        ancestors: ancestors.to_vec(),
        logged: true,
        identity: ReplicaIdentity::Default,
        has_primary_key: true,
        may_select: true,
        hides_rows: false,
        rows: 0.0,
        columns: Vec::new(),
        identity_columns: Vec::new(),
        key: vec!["id".into()],
    }
}

fn published(all_tables: bool, named: &[u32], tables: &[u32]) -> Publication {
    let tables = tables.iter().map(|&oid| PublishedTable { oid, columns: None, filtered_by: None }).collect();
    let operations = OPERATIONS.into_iter().map(|(operation, _)| operation).collect();
    let named = Named { tables: named.iter().map(|&table| (table, table)).collect(), schemas: BTreeMap::new(), by_root: false, operations };
    Publication { all_tables, named, tables, generated: false }
}

fn arrivals(entries: &[(&str, &str)], publication: &Publication, tables: &[TableDefinition]) -> Arrivals {
    let mut values: ConfigValues =
        [("topic.prefix", "shop"), ("database.hostname", "h"), ("database.user", "u"), ("database.dbname", "d"), ("slot.name", "s")]
            .into_iter()
            .collect();
    entries.iter().for_each(|(key, value)| values.set(*key, *value));
    let Ok((config, _)) = read_config::<PostgresConfig>(&values) else { panic!("faults") };
    let facts = ServerFacts {
        version: 150_000,
        in_recovery: false,
        wal_level: "logical".into(),
        wal_sender_timeout: 0,
        may_replicate: true,
        end: Lsn::INVALID,
        role: "u".into(),
        free_slots: 1,
    };
    Arrivals::new(
        &Arc::new(config),
        &facts,
        Some(publication),
        tables,
        HashMap::new(),
        watch::channel(HashSet::new()).1,
        watch::channel(Vec::new()).0,
    )
    .expect("it looks")
}

/// Of these, `attached` were not made as partitions.
fn seen(definitions: &[TableDefinition], publication: &Publication, attached: &[u32]) -> Seen {
    let (definitions, publication) = (definitions.to_vec(), publication.clone());
    Seen { definitions, publication, attached: attached.iter().copied().collect(), rewritten: HashSet::new() }
}

impl Arrivals {
    fn sees(&mut self, definitions: &[TableDefinition], publication: &Publication) -> Found {
        self.judge(&seen(definitions, publication, &[]), &HashMap::new())
    }

    /// `attached` was not made as a partition.
    fn sees_attached(&mut self, definitions: &[TableDefinition], publication: &Publication, attached: u32) -> Found {
        self.judge(&seen(definitions, publication, &[attached]), &HashMap::new())
    }
}

const READ: (&str, &str) = ("snapshot.new.tables", "read");
const FILTERED: (&str, &str) = ("publication.autocreate.mode", "filtered");

#[test]
fn a_table_that_is_published_from_its_birth_needs_nothing() {
    let all = published(true, &[], &[1, 2]);
    let mut arrivals = arrivals(&[READ], &all, &[table(1, "a", &[])]);
    assert_eq!(arrivals.sees(&[table(1, "a", &[]), table(2, "b", &[])], &all), Found::Nothing);
    arrivals.known.insert(2, Known { name: "public.b".into(), is_partition: false, is_logged: true });
    assert_eq!(arrivals.sees(&[table(1, "a", &[]), table(2, "b", &[])], &all), Found::Nothing, "nor at the next look");
}

#[test]
fn a_table_renamed_into_the_filters_is_read_where_that_is_asked_for() {
    let all = published(true, &[], &[1, 2]);
    let filter = ("table.include.list", "public.[ab]");
    let before = [table(1, "a", &[]), table(2, "hidden", &[])];
    let after = [table(1, "a", &[]), table(2, "b", &[])];
    let mut reading = arrivals(&[READ, filter], &all, &before);
    let Found::Restart { why, .. } = reading.sees(&after, &all) else { panic!("nothing was found") };
    assert!(why.contains("public.b"), "{why}");
}

#[test]
fn a_table_that_takes_an_owed_name_is_read_in_any_case_also_where_it_is_known_before_the_name_is_owed() {
    let all = published(true, &[], &[1, 2]);
    let tables = [table(1, "a", &[]), table(2, "b", &[])];
    let mut reading = arrivals(&[], &all, &tables);
    assert_eq!(reading.sees(&tables, &all), Found::Nothing);
    reading.owed = watch::channel(HashSet::from(["public.b".to_owned()])).1;
    let Found::Restart { why, .. } = reading.sees(&tables, &all) else { panic!("nothing was found") };
    assert!(why.contains("public.b"), "{why}");
}

#[test]
fn a_table_that_took_the_name_of_another_one_is_told_of_once_also_where_the_name_was_free_for_a_while() {
    let all = published(true, &[], &[1, 2, 3]);
    let mut told = arrivals(&[], &all, &[table(1, "a", &[]), table(2, "b", &[])]);
    let free = [table(1, "a", &[])];
    assert_eq!(told.sees(&free, &all), Found::Nothing);
    told.known = known(&free);
    let taken = [table(1, "a", &[]), table(3, "b", &[])];
    let Found::Untold(Untold { messages, .. }) = told.sees(&taken, &all) else { panic!("nothing was found") };
    assert!(messages.len() == 1 && messages[0].contains("data-collections public\\.b"), "{messages:?}");
    told.known = known(&taken);
    assert_eq!(told.sees(&taken, &all), Found::Nothing);
}

#[test]
fn a_root_that_somebody_adds_to_the_publication_is_read_where_that_is_asked_for() {
    let tables = [table(1, "a", &[]), table(2, "root", &[]), table(3, "leaf", &[2])];
    let disabled = ("publication.autocreate.mode", "disabled");
    for (named, by) in [(&[1, 2][..], "itself"), (&[1], "its schema")] {
        let mut reading = arrivals(&[READ, disabled], &published(false, &[1], &[1]), &tables);
        let added = published(false, named, &[1, 2]);
        let Found::Restart { why, .. } = reading.sees(&tables, &added) else { panic!("by {by}") };
        assert!(why.contains("public.root"), "by {by}: {why}");
    }
}

#[test]
fn a_table_made_before_the_publication_came_to_hold_it_is_not_taken_for_one_that_is_published_from_birth() {
    let before = published(false, &[1], &[1]);
    let after = published(false, &[1, 2], &[1, 2, 3]);
    let made = [table(1, "a", &[]), table(3, "leaf", &[])];
    let mut reading = arrivals(&[READ], &before, &made[..1]);
    assert!(matches!(reading.sees(&made, &after), Found::Restart { .. }));
    let mut reading = arrivals(&[READ], &after, &made[..1]);
    assert_eq!(reading.sees(&made, &after), Found::Nothing);
}

#[test]
fn a_publication_of_chosen_tables_is_extended() {
    let publication = published(false, &[1], &[1]);
    let mut arrivals = arrivals(&[FILTERED], &publication, &[table(1, "a", &[])]);
    let Found::Restart { why, .. } = arrivals.sees(&[table(1, "a", &[]), table(2, "b", &[])], &publication) else { panic!("nothing") };
    assert!(why.contains(r#"ADD TABLE "public"."b""#) && why.contains("snapshot.new.tables=read"), "{why}");
}

#[test]
fn i11_a_table_whose_schema_was_taken_out_and_added_again_is_told_of() {
    let by_schema = |membership| {
        let mut publication = published(false, &[], &[1]);
        publication.named.schemas.insert(2200, membership);
        publication
    };
    let tables = [table(1, "a", &[])];
    let mut arrivals = arrivals(&[], &by_schema(7), &tables);
    assert_eq!(arrivals.sees(&tables, &by_schema(7)), Found::Nothing);
    let Found::Untold(Untold { messages, .. }) = arrivals.sees(&tables, &by_schema(8)) else { panic!("nothing was found") };
    assert!(messages.len() == 1 && messages[0].contains("added to it again"), "{messages:?}");
}

#[test]
fn the_remedy_for_a_list_without_the_key_keeps_the_row_filter() {
    let column = |name: &str| ColumnDefinition {
        name: name.into(),
        type_oid: 23,
        type_modifier: -1,
        not_null: true,
        default: None,
        type_name: "integer".into(),
        generated: None,
        collation: 0,
    };
    let tables = [TableDefinition { columns: vec![column("id"), column("v")], ..table(1, "a", &[]) }];
    for (filtered_by, filter) in [(None, r#"("v", "id"); COMMIT;"#), (Some(7), r#"("v", "id") WHERE (…); COMMIT; with its row filter"#)] {
        let mut publication = published(false, &[1], &[1]);
        publication.tables[0] = PublishedTable { oid: 1, columns: Some(vec!["v".into()]), filtered_by };
        let arrivals = arrivals(&[], &publication, &tables);
        let refused = plan(&arrivals.config, &arrivals.facts, Some(&publication), &tables).expect_err("the key is cut");
        assert!(refused.remedy().is_some_and(|remedy| remedy.contains(filter)), "{refused}");
    }
}

#[test]
fn only_a_table_that_is_known_not_to_pass_the_filters_is_taken_out_of_the_publication() {
    let publication = published(false, &[1, 2, 9], &[1, 2, 9]);
    let tables = [table(1, "a", &[]), table(2, "b", &[])];
    let arrivals = arrivals(&[FILTERED, ("table.include.list", "public.a,public.new")], &publication, &tables);
    let statement = r#"ALTER PUBLICATION "dbz_publication" DROP TABLE "public"."b";"#.to_owned();
    assert_eq!(plan(&arrivals.config, &arrivals.facts, Some(&publication), &tables).ok(), Some(Step::Run(vec![statement])));
}

#[test]
fn a_table_that_the_role_may_not_publish_is_told_of_and_keeps_no_other_back() {
    let publication = published(false, &[1], &[1]);
    let statement = r#"ALTER PUBLICATION "dbz_publication" ADD TABLE "public"."b";"#.to_owned();
    let refused = HashMap::from([(statement, Some("must be owner of table b".to_owned()))]);
    let mut arrivals = arrivals(&[FILTERED], &publication, &[table(1, "a", &[])]);
    let strange = [table(1, "a", &[]), table(2, "b", &[])];
    let found = arrivals.judge(&seen(&strange, &publication, &[]), &refused);
    let Found::Untold(Untold { messages, .. }) = found else { panic!("nothing was found") };
    assert!(messages.len() == 2 && messages[0] == "must be owner of table b", "{messages:?}");
    assert!(messages[1].contains("does not publish the table public.b"), "{messages:?}");
    let further = [strange.as_slice(), &[table(3, "c", &[])]].concat();
    let found = arrivals.judge(&seen(&further, &publication, &[]), &refused);
    let Found::Restart { why, .. } = found else { panic!("{found:?}") };
    assert!(why.contains(r#"ADD TABLE "public"."c""#) && !why.contains(r#""b""#), "{why}");
}

#[test]
fn rows_of_a_table_attached_to_a_published_root_are_told_of_once() {
    let publication = published(true, &[], &[1]);
    let mut arrivals = arrivals(&[("publish.via.partition.root", "true")], &publication, &[table(1, "root", &[]), table(2, "leaf", &[])]);
    let after = [table(1, "root", &[]), table(2, "leaf", &[1])];
    let Found::Untold(Untold { messages, .. }) = arrivals.sees(&after, &publication) else { panic!("nothing was found") };
    assert!(messages.len() == 1 && messages[0].contains(r#"tableoid = '"public"."leaf"'::regclass"#), "{messages:?}");
    arrivals.known = known(&after);
    assert_eq!(arrivals.sees(&after, &publication), Found::Nothing);
}

#[test]
fn rows_of_a_partition_are_asked_for_where_the_key_of_its_root_can_be_followed() {
    let publication = published(true, &[], &[1]);
    let by_root = [("publish.via.partition.root", "true"), READ];
    let before = |key: &[&str]| {
        let key = key.iter().map(|&name| name.to_owned()).collect();
        [TableDefinition { key, ..table(1, "root", &[]) }, table(2, "leaf", &[])]
    };
    let after = |key: &[&str], is_partitioned| {
        let [root, leaf] = before(key);
        [root, TableDefinition { ancestors: vec![1], partitioned: is_partitioned, ..leaf }]
    };
    let found = arrivals(&by_root, &publication, &before(&["id"])).sees(&after(&["id"], false), &publication);
    let Found::Untold(Untold { messages, attached }) = found else { panic!("nothing was found") };
    assert!(messages.is_empty() && attached.len() == 1, "{messages:?}");
    assert_eq!(attached[0].condition, r#"tableoid = '"public"."leaf"'::regclass"#);
    let found = arrivals(&by_root, &publication, &before(&["id"])).sees(&after(&["id"], true), &publication);
    let Found::Untold(Untold { attached, .. }) = found else { panic!("nothing was found") };
    assert!(attached[0].condition.contains(r#"pg_partition_tree('"public"."leaf"')"#), "{attached:?}");
    let found = arrivals(&by_root, &publication, &before(&[])).sees(&after(&[], false), &publication);
    let Found::Untold(Untold { messages, attached }) = found else { panic!("nothing was found") };
    assert!(messages.len() == 1 && attached.is_empty(), "a root without a key");
}

#[test]
fn a_table_made_filled_and_attached_between_two_looks_is_none_that_was_made_as_a_partition() {
    let by_root = published(true, &[], &[1]);
    let after = [table(1, "root", &[]), table(2, "leaf", &[1])];
    let before = [table(1, "root", &[])];
    let mut told = arrivals(&[("publish.via.partition.root", "true")], &by_root, &before);
    assert_eq!(told.sees(&after, &by_root), Found::Nothing, "made as a partition");
    let Found::Untold(Untold { messages, .. }) = told.sees_attached(&after, &by_root, 2) else { panic!("nothing was found") };
    assert!(messages.len() == 1 && messages[0].contains("execute-snapshot"), "{messages:?}");

    let by_leaf = published(false, &[1], &[2]);
    let mut reading = arrivals(&[READ], &by_leaf, &before);
    assert_eq!(reading.sees(&after, &by_leaf), Found::Nothing, "made as a partition");
    let mut reading = arrivals(&[READ], &by_leaf, &before);
    let Found::Restart { why, .. } = reading.sees_attached(&after, &by_leaf, 2) else { panic!("nothing was found") };
    assert!(why.contains("public.leaf"), "{why}");
    let mut told = arrivals(&[], &by_leaf, &before);
    let Found::Untold(Untold { messages, .. }) = told.sees_attached(&after, &by_leaf, 2) else { panic!("nothing was found") };
    assert!(messages.len() == 1 && messages[0].contains("data-collections public.leaf"), "{messages:?}");
    assert_eq!(told.sees_attached(&after, &by_leaf, 2), Found::Nothing, "told once");
}

#[test]
fn a_partition_that_is_detached_is_told_of_where_its_rows_went_under_its_roots_name() {
    let before = [table(1, "root", &[]), table(2, "leaf", &[1])];
    let after = [table(1, "root", &[]), table(2, "leaf", &[])];
    let everything = published(true, &[], &[1, 2]);
    let root = [("publish.via.partition.root", "true")];
    let Found::Untold(Untold { messages, .. }) = arrivals(&root, &everything, &before).sees(&after, &everything) else {
        panic!("nothing was found")
    };
    assert!(messages.len() == 1 && messages[0].contains("under its own name"), "{messages:?}");
    let only_root = published(false, &[1], &[1]);
    let disabled = [root[0], ("publication.autocreate.mode", "disabled")];
    let Found::Untold(Untold { messages, .. }) = arrivals(&disabled, &only_root, &before).sees(&after, &only_root) else {
        panic!("nothing was found")
    };
    assert!(messages.iter().any(|message| message.contains(r#"ADD TABLE "public"."leaf""#)), "{messages:?}");
    let leaves = published(true, &[], &[2]);
    assert_eq!(arrivals(&[], &leaves, &before).sees(&after, &leaves), Found::Nothing);
}

#[test]
fn a_captured_table_that_nobody_publishes_is_told_of_once_and_remembered_where_it_was_published() {
    let disabled = ("publication.autocreate.mode", "disabled");
    let of_a = published(false, &[1], &[1]);
    let tables = [table(1, "a", &[]), table(2, "b", &[])];
    for is_new in [true, false] {
        let before = if is_new { of_a.clone() } else { published(false, &[1, 2], &[1, 2]) };
        let mut told = arrivals(&[disabled], &before, &tables[..if is_new { 1 } else { 2 }]);
        let found = told.sees(&tables, &of_a);
        let Found::Untold(Untold { messages, .. }) = found else { panic!("nothing was found") };
        assert!(messages.len() == 1 && messages[0].contains(r#"ADD TABLE "public"."b""#), "{messages:?}");
        assert_eq!(told.left.borrow().len(), usize::from(!is_new));
        told.known = known(&tables);
        assert_eq!(told.sees(&tables, &of_a), Found::Nothing, "told once");
    }
}

#[test]
fn a_table_that_leaves_a_publication_which_no_start_could_mend_keeps_the_others_running_and_is_remembered() {
    let (both, of_a) = (published(false, &[1, 2], &[1, 2]), published(false, &[1], &[1]));
    let tables = [table(1, "a", &[]), table(2, "b", &[])];
    let mut told = arrivals(&[FILTERED], &both, &tables);
    told.facts.in_recovery = true;
    let found = told.sees(&tables, &of_a);
    let Found::Untold(Untold { messages, .. }) = found else { panic!("{found:?}") };
    assert!(messages.len() == 2 && messages[0].contains("standby"), "{messages:?}");
    let statement = r#"on the primary: ALTER PUBLICATION "dbz_publication" ADD TABLE "public"."b";"#;
    assert!(messages.iter().all(|message| message.contains(statement)), "{messages:?}");
    assert_eq!(told.left.borrow().len(), 1);
    let found = told.sees(&tables, &both);
    let Found::Untold(Untold { messages, .. }) = found else { panic!("{found:?}") };
    assert!(messages.len() == 1 && messages[0].contains("were not published for some time"), "{messages:?}");
}

#[test]
fn a_table_that_left_the_publication_and_came_back_between_two_looks_is_told_of_once_and_not_read() {
    let before = published(false, &[1, 2], &[1, 2]);
    let mut after = before.clone();
    after.named.tables.insert(2, 7);
    let tables = [table(1, "a", &[]), table(2, "b", &[])];
    for entries in [&[READ][..], &[]] {
        let mut told = arrivals(entries, &before, &tables);
        let Found::Untold(Untold { messages, .. }) = told.sees(&tables, &after) else { panic!("nothing was found") };
        assert!(messages.len() == 1 && messages[0].contains(r"data-collections public\.b"), "{messages:?}");
        told.named = after.named.clone();
        assert_eq!(told.sees(&tables, &after), Found::Nothing);
    }
}

#[test]
fn a_table_of_which_the_log_does_not_tell_for_a_while_is_told_of_then_and_read_anew_where_that_is_asked_for() {
    let all = published(true, &[], &[1]);
    let tables = [table(1, "a", &[])];
    let unlogged = [TableDefinition { logged: false, ..table(1, "a", &[]) }];
    for (entries, is_read) in [(&[READ][..], true), (&[], false)] {
        let mut told = arrivals(entries, &all, &tables);
        let Found::Untold(Untold { messages, .. }) = told.sees(&unlogged, &published(true, &[], &[])) else { panic!("nothing was found") };
        assert!(messages.len() == 1 && messages[0].contains(r#"ALTER TABLE "public"."a" SET LOGGED;"#), "{messages:?}");
        assert_eq!(told.left.borrow().len(), 1);
        match told.sees(&tables, &all) {
            Found::Restart { why, .. } => assert!(is_read && why.contains("public.a"), "{why}"),
            Found::Untold(Untold { messages, .. }) => {
                assert!(!is_read && messages[0].contains(r"data-collections public\.a"), "{messages:?}");
            }
            Found::Nothing => panic!("nothing was found"),
        }
    }
}

#[test]
fn i11_a_table_that_is_logged_again_and_still_not_published_is_told_of() {
    let none = published(false, &[], &[]);
    let of = |logged| [TableDefinition { logged, ..table(1, "a", &[]) }];
    let mut told = arrivals(&[("publication.autocreate.mode", "disabled")], &none, &of(false));
    assert_eq!(told.sees(&of(false), &none), Found::Nothing, "the start told of it");
    let Found::Untold(Untold { messages, .. }) = told.sees(&of(true), &none) else { panic!("nothing was found") };
    assert!(messages.len() == 1 && messages[0].contains("does not publish the table public.a"), "{messages:?}");
    told.known = known(&of(true));
    assert_eq!(told.sees(&of(true), &none), Found::Nothing, "told once");
}

#[test]
fn what_no_start_would_find_is_told_and_asked_for_also_where_a_start_follows() {
    let publication = published(false, &[1], &[1]);
    let root = [FILTERED, READ, ("publish.via.partition.root", "true")];
    let mut arrivals = arrivals(&root, &publication, &[table(1, "root", &[])]);
    let tables = [table(1, "root", &[]), table(2, "leaf", &[1])];
    let Found::Restart { why, untold } = arrivals.sees_attached(&tables, &publication, 2) else { panic!("nothing was found") };
    assert!(why.contains("leaf") && untold.attached.len() == 1 && untold.messages.is_empty(), "{why}: {untold:?}");

    let before = published(false, &[1, 2], &[1, 2]);
    let mut after = before.clone();
    after.named.tables.insert(2, 7);
    let mut told = self::arrivals(&[FILTERED], &before, &[table(1, "a", &[]), table(2, "b", &[])]);
    let tables = [table(1, "a", &[]), table(2, "b", &[]), table(3, "c", &[])];
    let Found::Restart { untold, .. } = told.sees(&tables, &after) else { panic!("nothing was found") };
    assert!(untold.messages.len() == 1 && untold.messages[0].contains("taken out of the publication"), "{untold:?}");
}

#[test]
fn a_leaf_that_is_logged_again_is_told_of_under_the_name_of_its_root() {
    let all = published(true, &[], &[1]);
    let of = |logged| [table(1, "root", &[]), TableDefinition { logged, ..table(2, "leaf", &[1]) }];
    let mut told = arrivals(&[("publish.via.partition.root", "true")], &all, &of(true));
    assert!(matches!(told.sees(&of(false), &all), Found::Untold(_)));
    told.known = known(&of(false));
    let Found::Untold(Untold { messages, .. }) = told.sees(&of(true), &all) else { panic!("nothing was found") };
    assert!(messages.len() == 1 && messages[0].contains(r"data-collections public\.root"), "{messages:?}");
}

#[test]
fn a_new_table_that_was_unlogged_first_is_read() {
    let all = published(true, &[], &[1, 2]);
    let mut reading = arrivals(&[READ], &all, &[table(1, "a", &[])]);
    let definitions = &[table(1, "a", &[]), table(2, "b", &[])];
    let seen = Seen { rewritten: HashSet::from([2]), ..seen(definitions, &all, &[]) };
    let Found::Restart { why, .. } = reading.judge(&seen, &HashMap::new()) else { panic!("nothing was found") };
    assert!(why.contains("public.b"), "{why}");
    let mut told = arrivals(&[], &all, &definitions[..1]);
    let Found::Untold(Untold { messages, .. }) = told.judge(&seen, &HashMap::new()) else { panic!("nothing was found") };
    assert!(messages.len() == 1 && messages[0].contains(r"data-collections public\.b"), "{messages:?}");
}

#[test]
fn i10_a_new_table_that_this_role_may_not_publish_is_told_of_and_read_once_somebody_publishes_it() {
    let (before, after) = (published(false, &[1], &[1]), published(false, &[1, 2], &[1, 2]));
    let tables = [table(1, "a", &[]), table(2, "b", &[])];
    let mut reading = arrivals(&[READ, FILTERED], &before, &tables[..1]);
    let statement = r#"ALTER PUBLICATION "dbz_publication" ADD TABLE "public"."b";"#;
    let refused = HashMap::from([(statement.to_owned(), Some("must be owner of table b".to_owned()))]);
    let found = reading.judge(&seen(&tables, &before, &[]), &refused);
    let Found::Untold(Untold { messages, .. }) = found else { panic!("{found:?}") };
    assert!(messages.iter().any(|message| message.contains("must be owner")), "{messages:?}");
    reading.known = known(&tables);
    let found = reading.sees(&tables, &after);
    let Found::Restart { why, .. } = found else { panic!("{found:?}") };
    assert!(why.contains("public.b were not published"), "{why}");
}

#[test]
fn i10_no_start_is_made_for_whatever_reason_where_it_would_be_refused() {
    let (before, after) = (published(false, &[1], &[1]), published(false, &[1, 2, 3], &[1, 2, 3]));
    let tables = [table(1, "a", &[]), table(2, "b", &[]), table(3, "c", &[])];
    let mut reading = arrivals(&[READ, FILTERED], &before, &tables[..2]);
    reading.facts.in_recovery = true;
    reading.owed = watch::channel(HashSet::from(["public.b".to_owned()])).1;
    // Renamed into the filters, published since, and owed.
    for publication in [&before, &published(false, &[1, 2], &[1, 2])] {
        let found = reading.sees(&tables, publication);
        let Found::Untold(Untold { messages, .. }) = found else { panic!("{found:?}") };
        assert!(messages.iter().any(|message| message.contains("this server is a standby")), "{messages:?}");
        (reading.known, reading.named) = (known(&tables), publication.named.clone());
    }
    reading.owed = watch::channel(HashSet::new()).1;
    let found = reading.sees(&tables, &after);
    assert!(matches!(found, Found::Restart { .. }), "{found:?}");
}

#[test]
fn i10_a_table_that_came_with_rows_which_the_role_may_not_read_is_told_of() {
    let all = published(true, &[], &[1, 2]);
    let filter = ("table.include.list", "public.[ab]");
    let hidden = TableDefinition { may_select: false, ..table(2, "b", &[]) };
    let after = [table(1, "a", &[]), hidden];
    let mut reading = arrivals(&[READ, filter], &all, &[table(1, "a", &[]), table(2, "hidden", &[])]);
    reading.owed = watch::channel(HashSet::from(["public.b".to_owned()])).1;
    let found = reading.sees(&after, &all);
    let Found::Untold(Untold { messages, .. }) = found else { panic!("{found:?}") };
    assert!(messages.len() == 1 && messages[0].contains(r#"GRANT SELECT ON "public"."b" TO "u";"#), "{messages:?}");
    assert_eq!(reading.sees(&after, &all), Found::Nothing, "told once");
    let granted = [table(1, "a", &[]), table(2, "b", &[])];
    assert!(matches!(reading.sees(&granted, &all), Found::Restart { .. }), "its name is owed");
}

#[tokio::test]
async fn a_look_that_finds_no_news_does_not_read_the_definitions() {
    let Some(server) = required_or_skip(PostgresServer::start(Version::V15, &[]).await) else { return };
    let port = server.port().to_string();
    let settings =
        [("database.hostname", "127.0.0.1"), ("database.port", &*port), ("database.user", "postgres"), ("database.dbname", "postgres")];
    let mut arrivals = arrivals(&settings, &published(true, &[], &[]), &[]);
    let sql = SqlConnection::connect(&arrivals.config).await.expect("it connects");
    let publication = quote_identifier(&arrivals.config.publication);
    sql.batch_execute(&format!("CREATE TABLE t (id int PRIMARY KEY); CREATE PUBLICATION {publication} FOR ALL TABLES"))
        .await
        .expect("it is made");
    arrivals.look(&sql).await.expect("it looks");
    // Would go with a look at the definitions.
    arrivals.known.insert(1, Known { name: "public.gone".into(), is_partition: false, is_logged: true });
    assert_eq!(arrivals.look(&sql).await.expect("it looks"), Found::Nothing);
    assert!(arrivals.known.contains_key(&1), "without an include list, tables of the server are no news");
}
