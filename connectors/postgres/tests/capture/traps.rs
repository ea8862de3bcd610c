//! Which test covers which trap: situations that broke other products, by the numbers of the project's list of traps. Those of
//! logical decoding and of PostgreSQL's snapshots are all here.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The numbers that concern this connector.
fn numbers() -> impl Iterator<Item = u32> {
    (1..=70).chain(133..=141).chain(149..=150)
}

/// What answers a trap.
enum Answer {
    /// Names of tests, or of recorded cases where they hold a slash
    Tests(&'static [&'static str]),
    /// Why it needs no test
    Unneeded(&'static str),
}
use Answer::{Tests, Unneeded};

/// Number, what happens, and the answer.
const TRAPS: &[(&str, &str, Answer)] = &[
    (
        "T001",
        "killed at every step",
        Tests(&[
            "a_crash_at_each_named_point_repeats_nothing",
            "every_crash_during_the_snapshot_loses_nothing_and_repeats_nothing",
            "every_crash_while_streaming_loses_nothing_and_repeats_nothing",
            "killed_at_random_a_copy_in_sqlite_is_equal_and_nothing_comes_twice",
        ]),
    ),
    (
        "T002",
        "the source forgets what is not durable",
        Tests(&["the_server_is_confirmed_only_what_is_durable", "only_resume_points_of_durable_batches_are_confirmed"]),
    ),
    (
        "T003",
        "a snapshot that waits for its own last confirmation",
        Tests(&["every_crash_during_the_snapshot_loses_nothing_and_repeats_nothing"]),
    ),
    (
        "T004",
        "rows of a snapshot that are only in memory",
        Tests(&["every_crash_during_the_snapshot_loses_nothing_and_repeats_nothing", "what_did_not_reach_the_database_is_not_counted"]),
    ),
    (
        "T005",
        "an exported snapshot that is gone",
        Tests(&[
            "resumes_from_every_resume_point_of_a_snapshot",
            "a_crash_while_several_connections_read_loses_nothing_and_repeats_nothing",
        ]),
    ),
    (
        "T006",
        "a snapshot longer than every timeout",
        Tests(&["a_snapshot_longer_than_every_timeout_of_the_server_goes_on", "outlives_a_stall_longer_than_the_servers_timeout"]),
    ),
    (
        "T007",
        "writes to a chunk that is being read",
        Tests(&[
            "a_table_read_in_chunks_under_writers_and_crashes_ends_equal",
            "nothing_is_lost_nothing_stale_stands_behind_newer_and_the_copy_ends_equal",
            "postgres/incremental-window-conflict",
        ]),
    ),
    (
        "T008",
        "a row deleted before its chunk is read",
        Tests(&[
            "a_table_read_in_chunks_under_writers_and_crashes_ends_equal",
            "nothing_is_lost_nothing_stale_stands_behind_newer_and_the_copy_ends_equal",
        ]),
    ),
    ("T009", "positions of another slot or server", Tests(&["a_position_of_another_server_is_refused"])),
    (
        "T010",
        "a log that ages out during the snapshot",
        Tests(&["a_slot_whose_log_was_removed_is_refused", "the_time_left_is_the_room_over_the_rate"]),
    ),
    (
        "T011",
        "no event after the snapshot",
        Tests(&["resumes_from_every_resume_point_of_a_snapshot", "a_stop_takes_a_restart_to_the_same_place", "advances_while_idle"]),
    ),
    (
        "T012",
        "a slot shared by several",
        Tests(&["a_slot_in_use_is_tried_again_and_then_refused_with_its_holder", "a_slot_moved_by_somebody_else_is_a_gap"]),
    ),
    (
        "T013",
        "a table added while it is written",
        Tests(&[
            "a_table_made_while_a_filtered_publication_is_followed_is_published_and_read",
            "a_table_added_to_the_filters_is_read_where_that_is_asked_for_and_else_followed",
            "a_crash_while_a_new_table_is_read_loses_nothing_and_repeats_nothing",
            "postgres/publication-filtered",
        ]),
    ),
    ("T014", "a table left out for a while", Tests(&["a_table_that_the_filters_left_out_for_a_while_is_read_again"])),
    (
        "T015",
        "one of several tables cannot be read",
        Tests(&[
            "a_table_that_cannot_be_read_is_told_of_and_keeps_nothing_else_from_being_read",
            "a_role_without_rights_is_refused_with_the_statement",
            "a_statement_that_fails_ends_the_snapshot_and_nothing_else",
            "i10_a_table_that_cannot_be_read_in_chunks_is_errored_and_the_others_are_read",
        ]),
    ),
    (
        "T016",
        "wrong estimates of rows",
        Tests(&["figures_say_how_far_each_table_is", "the_rest_follows_from_what_this_run_has_read_and_how_long_it_took"]),
    ),
    (
        "T017",
        "a row that was read arrives behind a newer event",
        Tests(&[
            "a_commit_in_the_log_that_no_read_sees_yet_is_not_followed_by_its_older_row",
            "after_a_restart_reads_wait_until_such_a_commit_is_visible",
            "a_row_read_while_its_transaction_was_open_on_the_primary_does_not_follow_its_event",
        ]),
    ),
    (
        "T018",
        "deletes missed between two snapshots",
        Tests(&[
            "t018_rows_deleted_while_the_slot_was_lost_are_gone_behind_a_new_snapshot_and_every_crash_of_it",
            "t018_a_table_that_the_filters_bring_back_begins_anew",
            "t018_behind_a_lost_slot_the_target_equals_the_source",
        ]),
    ),
    ("T019", "a snapshot without a slot", Tests(&["initial_only_reads_without_a_slot_and_ends"])),
    (
        "T020",
        "a filter of the snapshot changed between runs",
        Unneeded(
            "what a signal narrows a table down by is stored with its request, and a table that the filters bring back is read anew (T014); a changed list of columns holds for the rows behind it, in a schema of its own",
        ),
    ),
    (
        "T021",
        "keys of texts in collations that are not octets' order",
        Tests(&["i9_each_row_is_read_once_along_keys_of_every_type", "a_table_read_in_chunks_under_writers_and_crashes_ends_equal"]),
    ),
    ("T022", "enums as keys", Tests(&["i9_each_row_is_read_once_along_keys_of_every_type"])),
    ("T023", "unsigned keys", Tests(&["i9_each_row_is_read_once_along_keys_of_every_type"])),
    ("T024", "uuids, octets, padded texts, addresses as keys", Tests(&["i9_each_row_is_read_once_along_keys_of_every_type"])),
    ("T025", "infinite and not-a-number keys", Tests(&["i9_each_row_is_read_once_along_keys_of_every_type"])),
    (
        "T026",
        "a key in another order than its columns",
        Tests(&["i9_each_row_is_read_once_along_keys_of_every_type", "postgres/composite-keys"]),
    ),
    ("T027", "keys of mixed BSON types", Unneeded("PostgreSQL compares the values of a key's columns as one type each")),
    (
        "T028",
        "sparse and skewed keys",
        Tests(&[
            "i9_each_row_is_read_once_along_keys_of_every_type",
            "t133_each_row_is_read_by_a_surrogate_key_or_its_table_is_left_out",
            "i6_a_chunk_gives_way_where_the_log_needs_the_room",
        ]),
    ),
    (
        "T029",
        "rows without a key that move while they are read",
        Tests(&[
            "several_connections_read_each_row_once_in_the_order_of_the_pages_of_its_range",
            "a_table_rewritten_after_the_snapshot_was_taken_loses_no_row",
            "ddl_that_waits_between_two_ranges_of_a_table_waits_for_its_last",
        ]),
    ),
    ("T030", "which unique index is a key", Tests(&["postgres/no-primary-key", "postgres/unique-index-as-key"])),
    (
        "T031",
        "a key changed into the range that is read",
        Tests(&["a_changed_key_touches_both", "a_table_read_in_chunks_under_writers_and_crashes_ends_equal"]),
    ),
    (
        "T032",
        "partitions of partitions, odd names",
        Tests(&[
            "rows_of_partitions_of_partitions_are_read_once_whatever_their_names",
            "rows_of_partitions_and_of_inheriting_tables_are_read_once",
        ]),
    ),
    (
        "T033",
        "pages in no order",
        Tests(&["ranges_of_pages_touch_each_other_and_the_last_is_open", "each_page_is_read_once_and_a_table_ends_behind_its_last"]),
    ),
    (
        "T034",
        "unchanged large values under each replica identity",
        Tests(&[
            "before_images_follow_the_replica_identity_and_unchanged_values_stay_known",
            "values_that_the_log_does_not_hold_are_read_again_where_that_is_asked_for",
            "postgres/toast-index-identity",
            "postgres/toast-full",
            "postgres/toast-reselect",
        ]),
    ),
    (
        "T035",
        "key-only old rows",
        Tests(&[
            "filters_keys_and_skipped_operations_are_heeded",
            "replica_identities_are_set_and_tables_of_which_the_log_tells_no_keys_are_known",
        ]),
    ),
    (
        "T036",
        "changed and swapped keys",
        Tests(&[
            "keys_swapped_twice_in_one_transaction_are_told_step_by_step",
            "postgres/key-changes",
            "a_key_change_is_a_delete_a_tombstone_and_a_create_that_name_each_other",
        ]),
    ),
    ("T037", "no replica identity", Tests(&["tables_without_identity_are_named_by_a_probe", "postgres/update-refused-without-identity"])),
    ("T038", "replica identity changed while running", Tests(&["postgres/identity-changed"])),
    ("T039", "generated columns", Tests(&["postgres/generated-columns", "postgres/generated-columns-18"])),
    (
        "T040",
        "partitions come and go",
        Tests(&[
            "partitions_come_and_go_under_their_own_names_or_their_roots",
            "a_table_attached_with_its_rows_to_a_published_one_is_read_and_one_made_as_a_partition_is_not",
            "a_partition_that_is_detached_is_told_of_where_its_rows_went_under_its_roots_name",
            "postgres/partitions-root",
            "postgres/partitions-leaves",
        ]),
    ),
    ("T041", "a leaf with other columns than its root", Tests(&["partitions_come_and_go_under_their_own_names_or_their_roots"])),
    (
        "T042",
        "row filters and column lists",
        Tests(&[
            "rows_that_move_in_and_out_of_a_filter_come_and_go",
            "postgres/publication-disabled-with-filter",
            "a_publication_that_leaves_out_a_part_of_a_key_is_refused",
        ]),
    ),
    (
        "T043",
        "a transaction larger than memory",
        Tests(&["a_transaction_larger_than_memory_passes_and_a_kill_in_its_middle_repeats_nothing"]),
    ),
    (
        "T044",
        "transactions in progress, aborted whole or in part",
        Tests(&[
            "only_what_is_committed_is_seen_and_each_transaction_whole",
            "a_crash_at_any_point_repeats_nothing_whether_parts_are_sent_or_not",
            "changes_of_aborted_subtransactions_are_left_out_and_what_is_said_of_tables_stays",
            "nothing_is_seen_of_a_prepared_transaction_before_its_commit_nor_of_one_that_is_rolled_back",
            "a_crash_at_any_point_around_prepared_transactions_repeats_nothing",
            "each_committed_transaction_is_emitted_once",
            "postgres/transaction-interleaved",
        ]),
    ),
    (
        "T045",
        "a session killed in the middle of its transaction",
        Tests(&["what_killed_sessions_left_takes_no_room", "a_server_that_crashes_is_followed_again_from_the_same_place"]),
    ),
    (
        "T046",
        "a slot that the server gave up",
        Tests(&[
            "a_slot_whose_log_was_removed_is_refused",
            "a_slot_that_was_idle_for_too_long_is_refused",
            "the_time_left_is_the_room_over_the_rate",
        ]),
    ),
    (
        "T047",
        "a slot dropped, recreated or moved",
        Tests(&["a_lost_slot_is_refused_unless_a_snapshot_is_allowed", "a_slot_moved_by_somebody_else_is_a_gap"]),
    ),
    (
        "T048",
        "failover",
        Tests(&[
            "a_server_set_back_or_promoted_is_continued_only_where_it_has_all_that_was_published",
            "a_failover_slot_is_made_where_the_server_knows_them",
            "of_several_servers_the_first_is_followed_that_is_as_asked",
        ]),
    ),
    ("T049", "places of the log while idle", Tests(&["the_position_moves_while_only_other_tables_are_written"])),
    ("T050", "an idle table on a busy server", Tests(&["the_position_moves_while_only_other_tables_are_written"])),
    (
        "T051",
        "slot creation waits",
        Tests(&[
            "a_start_that_waits_for_open_transactions_names_them_and_goes_on_when_they_end",
            "the_log_goes_on_while_a_snapshot_waits_for_open_transactions",
            "a_snapshot_that_waits_for_open_transactions_is_stopped_by_a_signal",
        ]),
    ),
    (
        "T052",
        "a slot still held by our former session",
        Tests(&[
            "a_slot_in_use_is_tried_again_and_then_refused_with_its_holder",
            "every_crash_while_streaming_loses_nothing_and_repeats_nothing",
        ]),
    ),
    (
        "T053",
        "a publication younger than the slot",
        Tests(&["a_publication_that_is_missing_is_an_error_of_the_stream", "each_mode_of_creation_makes_its_publication"]),
    ),
    (
        "T054",
        "tables recreated, renamed, moved",
        Tests(&["tables_made_dropped_recreated_and_renamed_while_streaming_are_followed", "postgres/table-created-and-recreated"]),
    ),
    (
        "T055",
        "enums, composites and domains altered",
        Tests(&[
            "labels_that_an_enum_gets_while_streaming_are_in_the_schema_of_the_first_row_that_has_them",
            "postgres/types-enums",
            "postgres/types-domains",
        ]),
    ),
    (
        "T056",
        "columns retyped",
        Tests(&["definitions_between_rows_of_one_transaction_each_hold_for_the_rows_behind_them", "postgres/ddl-retype"]),
    ),
    (
        "T057",
        "columns added, dropped, renamed within a transaction",
        Tests(&["definitions_between_rows_of_one_transaction_each_hold_for_the_rows_behind_them", "postgres/ddl-add-drop-rename"]),
    ),
    (
        "T058",
        "definitions of an idle table, then a restart",
        Tests(&["definitions_changed_while_the_source_is_down_hold_for_the_rows_behind_them"]),
    ),
    ("T059", "truncates", Tests(&["partitions_come_and_go_under_their_own_names_or_their_roots", "postgres/truncate-many"])),
    (
        "T060",
        "extreme numbers and times",
        Tests(&[
            "snapshot_and_stream_write_in_every_mode_what_the_server_makes_of_its_values",
            "postgres/types-numeric-precise-special",
            "postgres/types-temporal-infinity",
        ]),
    ),
    (
        "T061",
        "arrays",
        Tests(&[
            "snapshot_and_stream_write_in_every_mode_what_the_server_makes_of_its_values",
            "postgres/types-arrays-dimensions",
            "any_octets_are_decoded_or_refused",
        ]),
    ),
    (
        "T062",
        "JSON",
        Tests(&["snapshot_and_stream_write_in_every_mode_what_the_server_makes_of_its_values", "postgres/types-uuid-json-xml"]),
    ),
    (
        "T063",
        "types of their own",
        Tests(&[
            "snapshot_and_stream_write_in_every_mode_what_the_server_makes_of_its_values",
            "postgres/types-hstore-ltree",
            "postgres/types-network",
            "postgres/types-postgis",
            "postgres/types-pgvector",
        ]),
    ),
    ("T064", "a row larger than a message", Tests(&["a_stream_ends_in_the_words_of_the_server"])),
    (
        "T065",
        "names of every kind",
        Tests(&[
            "postgres/names-odd",
            "a_table_of_as_many_columns_as_the_server_takes_is_captured_and_names_are_no_patterns",
            "names_that_become_equal_are_told_apart_and_shards_share_a_topic",
        ]),
    ),
    (
        "T066",
        "logical messages",
        Tests(&["logical_messages_become_records_in_and_outside_transactions", "postgres/logical-messages-exclude"]),
    ),
    ("T067", "a slot without places", Tests(&["a_slot_that_is_missing_lost_or_not_ours_is_refused"])),
    ("T068", "origins", Tests(&["changes_with_an_origin_are_left_out_where_that_is_asked_for", "postgres/origins"])),
    ("T069", "a slot of another database", Tests(&["a_slot_of_another_database_or_plug_in_is_refused_and_left_alone"])),
    ("T070", "tables that are not logged", Tests(&["tables_that_are_not_logged_are_left_out"])),
    (
        "T133",
        "an incremental snapshot by a surrogate key",
        Tests(&["t133_each_row_is_read_by_a_surrogate_key_or_its_table_is_left_out", "postgres/incremental-surrogate-key"]),
    ),
    ("T134", "an incremental snapshot over a timestamptz key", Tests(&["postgres/incremental-key-timestamptz"])),
    ("T135", "creates skipped and a key changed", Tests(&["postgres/skip-creates"])),
    ("T136", "a key column that a filter leaves out", Tests(&["filters_keys_and_skipped_operations_are_heeded"])),
    (
        "T137",
        "an identity that does not hold the key",
        Tests(&[
            "t137_a_key_that_the_log_does_not_tell_is_named_at_the_start_with_the_statement_that_mends_it",
            "replica_identities_are_set_and_tables_of_which_the_log_tells_no_keys_are_known",
            "postgres/identity-autoset",
        ]),
    ),
    ("T138", "a partial or nullable unique index", Tests(&["postgres/unique-index-as-key", "postgres/no-primary-key"])),
    (
        "T139",
        "values that others write as null",
        Tests(&[
            "snapshot_and_stream_write_in_every_mode_what_the_server_makes_of_its_values",
            "postgres/types-numeric-precise-special",
            "postgres/types-arrays-temporal-and-other",
            "postgres/column-defaults",
        ]),
    ),
    (
        "T140",
        "what ends other connectors",
        Tests(&[
            "postgres/fails-domain-over-enum",
            "postgres/fails-bytea-escape",
            "postgres/fails-toast-required-numeric",
            "names_that_become_equal_are_told_apart_and_shards_share_a_topic",
        ]),
    ),
    (
        "T141",
        "partitions, inheritance, filters in the snapshot",
        Tests(&[
            "rows_of_partitions_and_of_inheriting_tables_are_read_once",
            "postgres/inheritance",
            "postgres/publication-disabled-with-filter",
            "rows_of_partitions_of_partitions_are_read_once_whatever_their_names",
        ]),
    ),
    (
        "T149",
        "a prepared transaction holds up the slot",
        Tests(&["a_start_that_waits_for_open_transactions_names_them_and_goes_on_when_they_end"]),
    ),
    ("T150", "a refused configuration", Tests(&["all_faults_of_a_configuration_are_named_at_once"])),
];

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The names of all functions below a folder of sources.
fn functions(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
        let path = entry.expect("the folder can be read").path();
        if path.is_dir() {
            functions(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).expect("the source can be read");
            let names = text.split("fn ").skip(1).filter_map(|rest| rest.split(['(', '<']).next());
            found.extend(names.map(str::to_owned));
        }
    }
}

#[test]
fn each_trap_names_tests_that_exist() {
    let mut known = BTreeSet::new();
    for folder in ["connectors", "src", "tests/integration"] {
        functions(&workspace().join(folder), &mut known);
    }
    let pending = std::fs::read_to_string(workspace().join("tests/integration/golden/pending.yaml")).unwrap();
    for (number, what, answer) in TRAPS {
        let names = match answer {
            Tests(names) => *names,
            Unneeded(why) => {
                assert!(!why.is_empty(), "{number} {what}");
                continue;
            }
        };
        assert!(!names.is_empty(), "{number} {what}");
        for name in names {
            if name.contains('/') {
                assert!(workspace().join("tests/golden").join(name).join("case.yaml").exists(), "{number} {what}: no case {name}");
                assert!(!pending.lines().any(|line| line == format!("- {name}")), "{number} {what}: {name} is pending");
            } else {
                assert!(known.contains(*name), "{number} {what}: no test {name}");
            }
        }
    }
}

#[test]
fn each_trap_is_answered_once() {
    let answered: Vec<&str> = TRAPS.iter().map(|(number, ..)| *number).collect();
    let expected: Vec<String> = numbers().map(|number| format!("T{number:03}")).collect();
    assert_eq!(answered, expected);
}
