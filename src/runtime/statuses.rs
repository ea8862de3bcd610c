//! What connectors and tasks are doing, and which topics they use, told to whoever reads the status topic.
//!
//! A publisher looks at the worker a few times a second and writes what differs from what it wrote last. So a broker that is away
//! for a while holds up nobody and is told the newest state afterwards, and a state that passed between two looks, which nobody
//! could have acted on, is left out.
//!
//! A task that is no longer there is UNASSIGNED while its connector is to run, for another worker or the next start may
//! take it, and is removed where it will not come back. When the worker has ended, all but what has failed is UNASSIGNED: as Connect
//! does it (4.3, `AbstractHerder`).

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tailwater_api::Result;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::runtime::worker::{ConnectorInfo, RunState, RunStatus, Worker};
use crate::state::TargetState;
use crate::state::kafka::{KafkaStatuses, StatusChange, TopicUse};

/// Time between two looks.
const LOOK: Duration = Duration::from_millis(300);
/// How long the last words may take.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Writes the status topic until it is ended.
pub struct StatusPublisher {
    stop: watch::Sender<bool>,
    publishing: JoinHandle<()>,
}

impl StatusPublisher {
    /// Begins to write what `worker` does.
    #[must_use]
    pub fn start(worker: Worker, statuses: KafkaStatuses) -> Self {
        let (stop, stopped) = watch::channel(false);
        Self { stop, publishing: tokio::spawn(publish(worker, statuses, stopped)) }
    }

    /// Says that nobody runs the connectors any more. To be called when the worker has been shut down.
    pub async fn end(mut self) {
        self.stop.send_replace(true);
        if tokio::time::timeout(LAST_WORDS, &mut self.publishing).await.is_err() {
            self.publishing.abort();
            tracing::warn!("the status topic does not say that this worker has ended: Kafka does not answer");
        }
    }
}

async fn publish(worker: Worker, statuses: KafkaStatuses, mut stop: watch::Receiver<bool>) {
    let mut published = Published::new(statuses.places(), statuses.uses());
    let mut fails = false;
    loop {
        let is_last = *stop.borrow();
        let changes = published.changes(&worker.list().await, is_last);
        let written = write(&statuses, &changes).await;
        match written {
            Ok(()) => {
                published.apply(changes);
                fails = false;
            }
            // What comes of it is said once; the state of a task says the rest.
            Err(error) if !fails => {
                tracing::warn!(error.kind = error.kind().code(), error.mend = error.remedy(), "{error}; it is tried again");
                fails = true;
            }
            Err(error) => tracing::debug!("{error}"),
        }
        if is_last {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            _ = stop.changed() => {}
        }
    }
}

async fn write(statuses: &KafkaStatuses, changes: &[StatusChange]) -> Result<()> {
    if changes.is_empty() { Ok(()) } else { statuses.put(changes).await }
}

/// What stands in the topic.
struct Published {
    /// Of a connector, or one of its tasks; `None` where an earlier worker wrote it
    statuses: BTreeMap<(String, Option<u32>), Option<RunStatus>>,
    uses: BTreeSet<TopicUse>,
}

impl Published {
    fn new(places: Vec<(String, Option<u32>)>, uses: Vec<TopicUse>) -> Self {
        Self { statuses: places.into_iter().map(|place| (place, None)).collect(), uses: uses.into_iter().collect() }
    }

    /// What brings the topic to what the worker shows.
    fn changes(&self, connectors: &[ConnectorInfo], is_last: bool) -> Vec<StatusChange> {
        let mut changes = Vec::new();
        for info in connectors {
            let unassigned = |status: &RunStatus| RunStatus { state: RunState::Unassigned, trace: None, ..status.clone() };
            for status in std::iter::once(&info.connector).chain(&info.tasks) {
                let status = if is_last && status.state != RunState::Failed { unassigned(status) } else { status.clone() };
                self.set(&info.name, status, &mut changes);
            }
        }
        let missing = |(name, task): &(String, Option<u32>)| match connectors.iter().find(|info| info.name == *name) {
            Some(info) => task.is_some_and(|task| !info.tasks.iter().any(|status| status.task == Some(task))),
            None => true,
        };
        for (name, task) in self.statuses.keys().filter(|place| missing(place)) {
            let may_come_back =
                connectors.iter().any(|info| info.name == *name && info.target != TargetState::Stopped && info.tasks.is_empty());
            if may_come_back {
                let status = RunStatus { task: *task, state: RunState::Unassigned, trace: None };
                self.set(name, status, &mut changes);
            } else {
                changes.push(StatusChange::Gone(name.clone(), *task));
            }
        }
        let used = |info: &ConnectorInfo| {
            let (connector, topics) = (info.name.clone(), info.topics.clone());
            topics.into_iter().map(move |topic| TopicUse { connector: connector.clone(), topic })
        };
        let uses: BTreeSet<TopicUse> = connectors.iter().flat_map(used).collect();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX));
        changes.extend(uses.difference(&self.uses).map(|used| StatusChange::Used(used.clone(), now)));
        changes.extend(self.uses.difference(&uses).map(|used| StatusChange::Forgotten(used.clone())));
        changes
    }

    fn set(&self, connector: &str, status: RunStatus, changes: &mut Vec<StatusChange>) {
        let known = self.statuses.get(&(connector.to_owned(), status.task)).and_then(Option::as_ref);
        if known != Some(&status) {
            changes.push(StatusChange::Status(connector.to_owned(), status));
        }
    }

    fn apply(&mut self, changes: Vec<StatusChange>) {
        for change in changes {
            match change {
                StatusChange::Status(connector, status) => drop(self.statuses.insert((connector, status.task), Some(status))),
                StatusChange::Gone(connector, task) => drop(self.statuses.remove(&(connector, task))),
                StatusChange::Used(used, _) => drop(self.uses.insert(used)),
                StatusChange::Forgotten(used) => drop(self.uses.remove(&used)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tailwater_api::state::JsonMap;

    use super::*;

    fn status(task: Option<u32>, state: RunState) -> RunStatus {
        RunStatus { task, state, trace: None }
    }

    fn connector(name: &str, target: TargetState, tasks: &[RunState]) -> ConnectorInfo {
        let state = if target == TargetState::Stopped { RunState::Stopped } else { RunState::Running };
        ConnectorInfo {
            name: name.to_owned(),
            kind: None,
            config: JsonMap::new(),
            target,
            connector: status(None, state),
            tasks: (0..).zip(tasks).map(|(task, state)| status(Some(task), *state)).collect(),
            file: None,
            topics: Vec::new(),
        }
    }

    fn said(connector: &str, task: Option<u32>, state: RunState) -> StatusChange {
        StatusChange::Status(connector.to_owned(), status(task, state))
    }

    #[test]
    fn only_what_changed_is_written_and_what_an_earlier_worker_said_is_replaced() {
        let mut published = Published::new(vec![("shop".to_owned(), None), ("old".to_owned(), None), ("old".to_owned(), Some(0))], vec![]);
        let connectors = [connector("shop", TargetState::Running, &[RunState::Running])];
        let changes = published.changes(&connectors, false);
        let gone = |task| StatusChange::Gone("old".to_owned(), task);
        let expected = [said("shop", None, RunState::Running), said("shop", Some(0), RunState::Running), gone(None), gone(Some(0))];
        assert_eq!(changes, expected);
        published.apply(changes);
        assert_eq!(published.changes(&connectors, false), []);
    }

    #[test]
    fn a_task_between_two_runs_is_unassigned_and_one_that_does_not_come_back_is_removed() {
        let mut published = Published::new(vec![], vec![]);
        let two = [RunState::Running, RunState::Running];
        published.apply(published.changes(&[connector("shop", TargetState::Running, &two)], false));
        let between = published.changes(&[connector("shop", TargetState::Running, &[])], false);
        assert_eq!(between, [said("shop", Some(0), RunState::Unassigned), said("shop", Some(1), RunState::Unassigned)]);
        let fewer = published.changes(&[connector("shop", TargetState::Running, &two[..1])], false);
        assert_eq!(fewer, [StatusChange::Gone("shop".to_owned(), Some(1))]);
        let stopped = published.changes(&[connector("shop", TargetState::Stopped, &[])], false);
        let gone = |task| StatusChange::Gone("shop".to_owned(), Some(task));
        assert_eq!(stopped, [said("shop", None, RunState::Stopped), gone(0), gone(1)]);
    }

    #[test]
    fn the_last_words_leave_only_failures_as_they_are() {
        let mut published = Published::new(vec![], vec![]);
        let connectors = [connector("shop", TargetState::Running, &[RunState::Running, RunState::Failed])];
        published.apply(published.changes(&connectors, false));
        let last = published.changes(&connectors, true);
        assert_eq!(last, [said("shop", None, RunState::Unassigned), said("shop", Some(0), RunState::Unassigned)]);
    }

    #[test]
    fn uses_of_topics_come_and_are_forgotten() {
        let used = |topic: &str| TopicUse { connector: "shop".to_owned(), topic: topic.to_owned() };
        let mut published = Published::new(vec![], vec![used("a"), used("b")]);
        let mut shop = connector("shop", TargetState::Stopped, &[]);
        shop.topics = vec!["b".to_owned(), "c".to_owned()];
        let changes = published.changes(std::slice::from_ref(&shop), false);
        assert!(matches!(&changes[1], StatusChange::Used(new, now) if *new == used("c") && *now > 0), "{changes:?}");
        assert_eq!(changes[2..], [StatusChange::Forgotten(used("a"))]);
        published.apply(changes);
        assert_eq!(published.changes(&[shop], false), []);
    }
}
