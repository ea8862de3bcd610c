//! Connectors that are made, paused, stopped, changed, deleted, that fail and come back.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_is_done_stays_running_and_is_not_run_again() {
    let house = House::new();
    let worker = house.worker().await;
    create(&worker, "done", generator("done", 10)).await;
    eventually("all is there", async || house.log.records("done").len() == 10).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(task_state(&worker, "done").await.0, RunState::Running);
    assert_eq!(house.log.records("done").len(), 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn i10_a_panicking_connector_touches_no_other() {
    let house = House::new();
    let worker = house.worker().await;
    create(&worker, "panics", config(&[("connector.class", "scripted-source"), ("script.failing.runs", "9"), ("script.failure", "panic")]))
        .await;
    create(&worker, "calm-source", generator("calm", 2000)).await;
    create(&worker, "calm-sink", sink("calm", &[])).await;
    let trace = eventually_failed(&worker, "panics").await;
    assert!(trace.starts_with("bug: cannot run the task: it panicked: as the script says"), "{trace}");
    eventually("the others go on", async || deeds("calm-sink").written.len() == 2000).await;
    assert_eq!(task_state(&worker, "calm-source").await.0, RunState::Running);
    assert_eq!(deeds("panics").runs, 1, "a bug is not tried again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_failed_for_a_while_comes_back_by_itself() {
    let house = House::new();
    let worker = house.worker().await;
    let script = [("connector.class", "scripted-source"), ("script.failing.runs", "2"), ("retriable.restart.connector.wait.ms", "200")];
    create(&worker, "comes-back", config(&script)).await;
    let trace = eventually_failed(&worker, "comes-back").await;
    let first = trace.lines().next().unwrap();
    assert!(first.starts_with("unreachable: cannot follow the script; next try at 20"), "{first}");
    eventually("it runs", async || deeds("comes-back").confirmed == 1).await;
    assert_eq!(task_state(&worker, "comes-back").await, (RunState::Running, String::new()));
    assert_eq!(deeds("comes-back").runs, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn retries_end_where_the_user_says() {
    let house = House::new();
    let worker = house.worker().await;
    let script = [
        ("connector.class", "scripted-source"),
        ("script.failing.runs", "100"),
        ("retriable.restart.connector.wait.ms", "1"),
        ("errors.max.retries", "2"),
    ];
    create(&worker, "gives-up", config(&script)).await;
    eventually("it gave up", async || deeds("gives-up").runs == 3).await;
    let trace = eventually_failed(&worker, "gives-up").await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(deeds("gives-up").runs == 3 && !trace.is_empty());
    worker.restart("gives-up", Restart { include_tasks: true, only_failed: true }).await.unwrap();
    eventually("a restart tries again", async || deeds("gives-up").runs == 6).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_ends_as_planned_is_no_failure_and_no_retry_and_another_restart_is() {
    let house = House::new();
    let worker = house.worker().await;
    let script = |failure| {
        config(&[
            ("connector.class", "scripted-source"),
            ("script.failing.runs", "3"),
            ("script.failure", failure),
            ("retriable.restart.connector.wait.ms", "1"),
            ("errors.max.retries", "0"),
        ])
    };
    create(&worker, "planned", script("planned")).await;
    eventually("it runs", async || deeds("planned").confirmed == 1).await;
    assert_eq!((deeds("planned").runs, task_state(&worker, "planned").await), (4, (RunState::Running, String::new())));
    create(&worker, "shut-down", script("restarting")).await;
    let trace = eventually_failed(&worker, "shut-down").await;
    assert!(trace.starts_with("restarting: ") && deeds("shut-down").runs == 1, "{trace}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_sink_moves_nothing_and_stays_paused_over_a_restart_of_the_worker() {
    let house = House::new();
    house.fill("pauses", 5).await;
    let worker = house.worker().await;
    create(&worker, "pauses", sink("pauses", &[])).await;
    eventually("it wrote", async || deeds("pauses").written.len() == 5).await;
    worker.set_target("pauses", TargetState::Paused).await.unwrap();
    eventually("it pauses", async || task_state(&worker, "pauses").await.0 == RunState::Paused).await;
    house.fill("pauses", 5).await;
    worker.shutdown().await;

    let worker = house.worker().await;
    eventually("it is paused again", async || task_state(&worker, "pauses").await.0 == RunState::Paused).await;
    assert_eq!(worker.get("pauses").await.unwrap().connector.state, RunState::Paused);
    assert_eq!(deeds("pauses").written.len(), 5);
    assert_eq!(house.log.retained_for(), ["pauses"], "a paused sink keeps the log");
    worker.set_target("pauses", TargetState::Running).await.unwrap();
    eventually("it goes on", async || deeds("pauses").written.len() == 10).await;
    assert_eq!(deeds("pauses").written, (0..10).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_connector_has_no_tasks_and_starts_where_it_stopped() {
    let house = House::new();
    let worker = house.worker().await;
    create(&worker, "stops", config(&[("connector.class", "generator"), ("generator.topics", "stops"), ("generator.rate", "5000")])).await;
    eventually("some are there", async || house.log.records("stops").len() > 100).await;
    worker.set_target("stops", TargetState::Stopped).await.unwrap();
    let info = worker.get("stops").await.unwrap();
    assert_eq!((info.connector.state, info.tasks.len()), (RunState::Stopped, 0));
    let stopped_at = house.log.records("stops").len();
    worker.set_target("stops", TargetState::Paused).await.unwrap();
    eventually("it pauses with its task", async || task_state(&worker, "stops").await.0 == RunState::Paused).await;
    worker.set_target("stops", TargetState::Running).await.unwrap();
    eventually("it goes on", async || house.log.records("stops").len() > stopped_at + 100).await;
    worker.shutdown().await;
    let ids =
        house.log.records("stops").iter().map(|record| record.key.value.as_struct().unwrap()[0].as_integer().unwrap()).collect::<Vec<_>>();
    assert!(ids.iter().copied().eq(0..ids.len() as i64), "nothing is missing and nothing comes twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_does_not_drain_is_ended_at_the_deadline() {
    let house = House::new();
    house.fill("stalls", 5).await;
    let worker = house.worker_with(1 << 20, Duration::from_millis(200)).await;
    create(&worker, "stalls", sink("stalls", &[("script.behaviour", "stall")])).await;
    eventually("it runs", async || deeds("stalls").runs == 1).await;
    let began = std::time::Instant::now();
    worker.shutdown().await;
    assert!(began.elapsed() >= Duration::from_millis(200) && began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    assert_eq!(house.log.committed_offset("stalls", "stalls"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn names_files_and_faults_are_refused_clearly() {
    let house = House::new();
    let worker = house.worker().await;
    let file = || Some(PathBuf::from("shop.yaml"));
    worker.create("owned", generator("owned", 1), TargetState::Running, file()).await.unwrap();
    let again = worker.create("owned", generator("owned", 1), TargetState::Running, None).await;
    assert!(matches!(again, Err(Refused::Exists(name)) if name == "owned"));
    assert!(matches!(worker.delete("owned", None).await, Err(Refused::OwnedByFile(path)) if path == Path::new("shop.yaml")));
    assert!(matches!(worker.put_config("owned", generator("b", 1), None).await, Err(Refused::OwnedByFile(_))));
    create(&worker, "free", generator("free", 1)).await;
    assert!(matches!(worker.put_config("free", generator("b", 1), file()).await, Err(Refused::Exists(_))));
    assert!(matches!(worker.delete("nobody", None).await, Err(Refused::Unknown(_))));
    assert!(matches!(worker.restart_task("free", 7).await, Err(Refused::Unknown(_))));
    let faulty = config(&[("connector.class", "generator"), ("generator.rows", "many")]);
    assert!(
        matches!(worker.put_config("free", faulty, None).await, Err(Refused::Invalid(report)) if report.faults[0].key == "generator.rows")
    );
    worker.delete("owned", file()).await.unwrap();
    assert_eq!(worker.list().await.iter().map(|info| info.name.clone()).collect::<Vec<_>>(), ["free"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_configuration_again_changes_nothing() {
    let house = House::new();
    let worker = house.worker().await;
    let script = config(&[("connector.class", "scripted-source")]);
    assert!(worker.put_config("same", script.clone(), None).await.unwrap().1);
    eventually("it runs", async || deeds("same").runs == 1).await;
    assert!(!worker.put_config("same", script.clone(), None).await.unwrap().1);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(deeds("same").runs, 1);
    let mut other = script;
    other.extend(config(&[("script.behaviour", "other")]));
    worker.put_config("same", other, None).await.unwrap();
    eventually("it runs anew", async || deeds("same").runs == 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_connector_keeps_its_offsets() {
    let house = House::new();
    let worker = house.worker().await;
    create(&worker, "deleted", generator("deleted", 100)).await;
    eventually("all is there", async || house.log.records("deleted").len() == 100).await;
    worker.delete("deleted", None).await.unwrap();
    create(&worker, "deleted", generator("deleted", 150)).await;
    eventually("it goes on", async || house.log.records("deleted").len() == 150).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i15_a_stored_connector_with_faults_does_not_run_and_keeps_no_other_from_starting() {
    let house = House::new();
    let stored = |name: &str, config| StoredConnector { name: name.into(), config, target: TargetState::Running, file: None };
    house.store.put(stored("a-faulty", config(&[("connector.class", "blackhole")]))).await.unwrap();
    house.store.put(stored("b-unknown", config(&[("connector.class", "no.such.Class")]))).await.unwrap();
    house.store.put(stored("c-sound", generator("c-sound", 1))).await.unwrap();
    let worker = house.worker().await;
    for (name, word) in [("a-faulty", "topics"), ("b-unknown", "no.such.Class")] {
        let info = worker.get(name).await.unwrap();
        assert_eq!((info.connector.state, info.tasks.len()), (RunState::Failed, 0));
        let trace = info.connector.trace.unwrap();
        assert!(trace.starts_with("misconfigured: cannot read the configuration: ") && trace.contains(word), "{trace}");
    }
    eventually("the other runs", async || house.log.records("c-sound").len() == 1).await;
    assert!(matches!(
        worker.create("d", config(&[("connector.class", "blackhole")]), TargetState::Running, None).await,
        Err(Refused::Invalid(_))
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_that_panics_fails_its_connector_and_no_other() {
    let house = House::new();
    let worker = house.worker().await;
    create(&worker, "plan-panics", config(&[("connector.class", "scripted-source"), ("script.failure", "panic in plan")])).await;
    create(&worker, "plan-other", generator("plan-other", 1)).await;
    let info = worker.get("plan-panics").await.unwrap();
    assert_eq!(info.connector.state, RunState::Failed);
    assert!(info.connector.trace.unwrap().starts_with("bug: "));
    worker.shutdown().await;
    let worker = house.worker().await;
    eventually("the other runs", async || task_state(&worker, "plan-other").await.0 == RunState::Running).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_is_being_restarted_is_shown_all_the_time() {
    let house = House::new();
    house.log.hold_durability.send_replace(true);
    let worker = house.worker().await;
    create(&worker, "restarts", config(&[("connector.class", "scripted-source")])).await;
    eventually("it runs", async || deeds("restarts").runs == 1).await;
    worker.restart("restarts", Restart { include_tasks: true, only_failed: false }).await.unwrap();
    // It drains until its records are durable.
    for _ in 0..20 {
        let tasks = worker.get("restarts").await.unwrap().tasks;
        assert!(tasks.len() == 1 && tasks[0].task == Some(0), "{tasks:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    house.log.release();
    eventually("it runs again", async || deeds("restarts").runs == 2).await;
}
