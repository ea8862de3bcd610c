//! Which test covers which trap: situations that broke other products. The numbers are those of the project's list of
//! traps; those that are not here are none of the stream's.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Number, what happens, and names of tests, or of recorded cases where they hold a slash.
const TRAPS: &[(&str, &str, &[&str])] = &[
    (
        "T002",
        "the source forgets what is not durable",
        &["the_server_is_confirmed_only_what_is_durable", "only_resume_points_of_durable_batches_are_confirmed"],
    ),
    ("T009", "positions of another slot or server", &["a_position_of_another_server_is_refused"]),
    (
        "T012",
        "a slot shared by several",
        &["a_slot_in_use_is_tried_again_and_then_refused_with_its_holder", "a_slot_moved_by_somebody_else_is_a_gap"],
    ),
    ("T019", "a snapshot without a slot", &["initial_only_reads_without_a_slot_and_ends"]),
    ("T030", "which unique index is a key", &["postgres/no-primary-key"]),
    (
        "T034",
        "unchanged large values under each replica identity",
        &[
            "before_images_follow_the_replica_identity_and_unchanged_values_stay_known",
            "values_that_the_log_does_not_hold_are_read_again_where_that_is_asked_for",
            "postgres/toast-index-identity",
            "postgres/toast-full",
            "postgres/toast-reselect",
        ],
    ),
    (
        "T035",
        "key-only old rows",
        &[
            "filters_keys_and_skipped_operations_are_heeded",
            "replica_identities_are_set_and_tables_of_which_the_log_tells_no_keys_are_known",
        ],
    ),
    ("T036", "changed and swapped keys", &["keys_swapped_twice_in_one_transaction_are_told_step_by_step", "postgres/key-changes"]),
    ("T037", "no replica identity", &["tables_without_identity_are_named_by_a_probe", "postgres/update-refused-without-identity"]),
    ("T038", "replica identity changed while running", &["postgres/identity-changed"]),
    (
        "T040",
        "partitions come and go",
        &[
            "partitions_come_and_go_under_their_own_names_or_their_roots",
            "a_table_attached_with_its_rows_to_a_published_one_is_read_and_one_made_as_a_partition_is_not",
            "a_partition_that_is_detached_is_told_of_where_its_rows_went_under_its_roots_name",
            "postgres/partitions-root",
            "postgres/partitions-leaves",
        ],
    ),
    ("T041", "a leaf with other columns than its root", &["partitions_come_and_go_under_their_own_names_or_their_roots"]),
    (
        "T042",
        "row filters and column lists",
        &["rows_that_move_in_and_out_of_a_filter_come_and_go", "postgres/publication-disabled-with-filter"],
    ),
    ("T043", "a transaction larger than memory", &["a_transaction_larger_than_memory_passes_and_a_kill_in_its_middle_repeats_nothing"]),
    (
        "T046",
        "a slot that the server gave up",
        &[
            "a_slot_whose_log_was_removed_is_refused",
            "a_slot_that_was_idle_for_too_long_is_refused",
            "the_time_left_is_the_safe_log_over_the_rate",
        ],
    ),
    (
        "T044",
        "transactions in progress, aborted whole or in part",
        &[
            "only_what_is_committed_is_seen_and_each_transaction_whole",
            "a_crash_at_any_point_repeats_nothing_whether_parts_are_sent_or_not",
            "changes_of_aborted_subtransactions_are_left_out_and_what_is_said_of_tables_stays",
            "nothing_is_seen_of_a_prepared_transaction_before_its_commit_nor_of_one_that_is_rolled_back",
            "a_crash_at_any_point_around_prepared_transactions_repeats_nothing",
            "each_committed_transaction_is_emitted_once",
            "postgres/transaction-interleaved",
        ],
    ),
    (
        "T047",
        "a slot dropped, recreated or moved",
        &["a_lost_slot_is_refused_unless_a_snapshot_is_allowed", "a_slot_moved_by_somebody_else_is_a_gap"],
    ),
    (
        "T048",
        "failover",
        &[
            "a_server_set_back_or_promoted_is_continued_only_where_it_has_all_that_was_published",
            "a_failover_slot_is_made_where_the_server_knows_them",
            "of_several_servers_the_first_is_followed_that_is_as_asked",
        ],
    ),
    ("T049", "places of the log while idle", &["the_position_moves_while_only_other_tables_are_written"]),
    ("T050", "an idle table on a busy server", &["the_position_moves_while_only_other_tables_are_written"]),
    (
        "T051",
        "slot creation waits",
        &[
            "a_start_that_waits_for_open_transactions_names_them_and_goes_on_when_they_end",
            "the_log_goes_on_while_a_snapshot_waits_for_open_transactions",
            "a_snapshot_that_waits_for_open_transactions_is_stopped_by_a_signal",
        ],
    ),
    (
        "T052",
        "a slot still held by our former session",
        &["a_slot_in_use_is_tried_again_and_then_refused_with_its_holder", "every_crash_while_streaming_loses_nothing_and_repeats_nothing"],
    ),
    (
        "T053",
        "a publication younger than the slot",
        &["a_publication_that_is_missing_is_an_error_of_the_stream", "each_mode_of_creation_makes_its_publication"],
    ),
    (
        "T054",
        "tables recreated, renamed, moved",
        &["tables_made_dropped_recreated_and_renamed_while_streaming_are_followed", "postgres/table-created-and-recreated"],
    ),
    ("T056", "columns retyped", &["definitions_between_rows_of_one_transaction_each_hold_for_the_rows_behind_them", "postgres/ddl-retype"]),
    (
        "T057",
        "columns added, dropped, renamed within a transaction",
        &["definitions_between_rows_of_one_transaction_each_hold_for_the_rows_behind_them", "postgres/ddl-add-drop-rename"],
    ),
    (
        "T058",
        "definitions of an idle table, then a restart",
        &["definitions_changed_while_the_source_is_down_hold_for_the_rows_behind_them"],
    ),
    ("T059", "truncates", &["partitions_come_and_go_under_their_own_names_or_their_roots", "postgres/truncate-many"]),
    ("T064", "a row larger than a message", &["a_stream_ends_in_the_words_of_the_server"]),
    ("T065", "names of every kind", &["postgres/names-odd"]),
    ("T066", "logical messages", &["logical_messages_become_records_in_and_outside_transactions", "postgres/logical-messages-exclude"]),
    ("T067", "a slot without places", &["a_slot_that_is_missing_lost_or_not_ours_is_refused"]),
    ("T068", "origins", &["changes_with_an_origin_are_left_out_where_that_is_asked_for", "postgres/origins"]),
    ("T069", "a slot of another database", &["a_slot_of_another_database_or_plug_in_is_refused_and_left_alone"]),
    ("T070", "tables that are not logged", &["tables_that_are_not_logged_are_left_out"]),
    (
        "T133",
        "an incremental snapshot by a surrogate key",
        &["t133_each_row_is_read_by_a_surrogate_key_or_its_table_is_left_out", "postgres/incremental-surrogate-key"],
    ),
    ("T134", "an incremental snapshot over a timestamptz key", &["postgres/incremental-key-timestamptz"]),
    ("T135", "creates skipped and a key changed", &["postgres/skip-creates"]),
    ("T136", "a key column that a filter leaves out", &["filters_keys_and_skipped_operations_are_heeded"]),
    (
        "T137",
        "an identity that does not hold the key",
        &["replica_identities_are_set_and_tables_of_which_the_log_tells_no_keys_are_known", "postgres/identity-autoset"],
    ),
    (
        "T141",
        "partitions, inheritance, filters in the snapshot",
        &["rows_of_partitions_and_of_inheriting_tables_are_read_once", "postgres/inheritance", "postgres/publication-disabled-with-filter"],
    ),
    (
        "T149",
        "a prepared transaction holds up the slot",
        &["a_start_that_waits_for_open_transactions_names_them_and_goes_on_when_they_end"],
    ),
    ("T150", "a refused configuration", &["all_faults_of_a_configuration_are_named_at_once"]),
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
    for folder in ["connectors/postgres/src", "connectors/postgres/tests", "tests/integration"] {
        functions(&workspace().join(folder), &mut known);
    }
    let pending = std::fs::read_to_string(workspace().join("tests/integration/golden/pending.yaml")).unwrap();
    let mut numbers = BTreeSet::new();
    for (number, what, names) in TRAPS {
        assert!(numbers.insert(number), "{number} stands twice");
        assert!(!names.is_empty(), "{number} {what}");
        for name in *names {
            if name.contains('/') {
                assert!(workspace().join("tests/golden").join(name).join("case.yaml").exists(), "{number} {what}: no case {name}");
                assert!(!pending.lines().any(|line| line == format!("- {name}")), "{number} {what}: {name} is pending");
            } else {
                assert!(known.contains(*name), "{number} {what}: no test {name}");
            }
        }
    }
}
