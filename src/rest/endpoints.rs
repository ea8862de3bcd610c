//! The list of endpoints. Routes, roles, the log of changes and `/openapi.json` are made from it, so none of them can miss one.

use axum::Router;
use axum::middleware::from_fn_with_state;
use axum::routing::{MethodRouter, delete, get, patch, post, put};

use super::{Api, access, connectors, loggers, openapi, plugins, service, snapshots, topics};
use crate::config::rest_options::Role;

/// A parameter of the query.
pub(super) struct Parameter {
    pub(super) name: &'static str,
    /// A type of JSON Schema
    pub(super) kind: &'static str,
    pub(super) doc: &'static str,
}

/// One method of one path.
pub(super) struct Endpoint {
    pub(super) method: &'static str,
    pub(super) path: &'static str,
    pub(super) summary: &'static str,
    /// Who may use it; everybody without a name where `None`
    pub(super) role: Option<Role>,
    pub(super) query: &'static [Parameter],
    /// Name of the body's schema
    pub(super) body: Option<&'static str>,
    /// Statuses of good answers with the name of their schema; every other answer is an error
    pub(super) answers: &'static [(u16, Option<&'static str>)],
    route: fn() -> MethodRouter<Api>,
}

const fn endpoint(
    method: &'static str,
    path: &'static str,
    role: Option<Role>,
    summary: &'static str,
    answers: &'static [(u16, Option<&'static str>)],
    route: fn() -> MethodRouter<Api>,
) -> Endpoint {
    Endpoint { method, path, summary, role, query: &[], body: None, answers, route }
}

impl Endpoint {
    const fn query(mut self, query: &'static [Parameter]) -> Self {
        self.query = query;
        self
    }

    const fn body(mut self, schema: &'static str) -> Self {
        self.body = Some(schema);
        self
    }
}

const fn parameter(name: &'static str, kind: &'static str, doc: &'static str) -> Parameter {
    Parameter { name, kind, doc }
}

const READ: Option<Role> = Some(Role::Read);
const OPERATE: Option<Role> = Some(Role::Operate);
const ADMINISTER: Option<Role> = Some(Role::Administer);
const INFO: (u16, Option<&str>) = (200, Some("ConnectorInfo"));
const MADE: (u16, Option<&str>) = (201, Some("ConnectorInfo"));
const MESSAGE: (u16, Option<&str>) = (200, Some("Message"));
const ACCEPTED: (u16, Option<&str>) = (202, None);
const NO_CONTENT: (u16, Option<&str>) = (204, None);

pub(super) const ENDPOINTS: &[Endpoint] = &[
    endpoint("GET", "/", READ, "Version of the API.", &[(200, Some("Root"))], || get(service::root)),
    endpoint("GET", "/health", None, "Whether the worker answers.", &[(200, Some("Health")), (503, Some("Health"))], || {
        get(service::health)
    }),
    endpoint("GET", "/metrics", READ, "Figures for Prometheus (OpenMetrics).", &[(200, Some("Metrics"))], || get(service::metrics)),
    endpoint("GET", "/openapi.json", READ, "This description.", &[(200, Some("Object"))], || get(openapi::show)),
    endpoint("GET", "/connectors", READ, "Names of all connectors, or with expand objects by name.", &[(200, Some("Listing"))], || {
        get(connectors::list)
    })
    .query(&[parameter("expand", "string", "info, status, or given twice both")]),
    endpoint("POST", "/connectors", ADMINISTER, "Makes a connector.", &[MADE], || post(connectors::create)).body("Create"),
    endpoint("GET", "/connectors/{name}", READ, "One connector.", &[INFO], || get(connectors::info)),
    endpoint("DELETE", "/connectors/{name}", ADMINISTER, "Removes a connector and keeps its offsets.", &[NO_CONTENT], || {
        delete(connectors::delete)
    }),
    endpoint("GET", "/connectors/{name}/config", READ, "Its configuration, secrets hidden.", &[(200, Some("Config"))], || {
        get(connectors::config)
    }),
    endpoint("PUT", "/connectors/{name}/config", ADMINISTER, "Replaces the configuration, or makes the connector.", &[INFO, MADE], || {
        put(connectors::put_config)
    })
    .body("GivenConfig"),
    endpoint("PATCH", "/connectors/{name}/config", ADMINISTER, "Changes single keys; null removes one.", &[INFO], || {
        patch(connectors::patch_config)
    })
    .body("GivenConfig"),
    endpoint("GET", "/connectors/{name}/status", READ, "States of the connector and its tasks.", &[(200, Some("Status"))], || {
        get(connectors::status)
    }),
    endpoint("GET", "/connectors/{name}/guarantee", READ, "How often a change gets through it.", &[(200, Some("Guarantee"))], || {
        get(connectors::guarantee)
    }),
    endpoint("GET", "/connectors/{name}/snapshot", READ, "How far its snapshot is.", &[(200, Some("SnapshotProgress"))], || {
        get(snapshots::show)
    }),
    endpoint("GET", "/connectors/{name}/topics", READ, "Topics that it writes or reads.", &[(200, Some("TopicsOf"))], || {
        get(connectors::topics)
    }),
    endpoint("PUT", "/connectors/{name}/topics/reset", OPERATE, "Forgets which topics it has used so far.", &[ACCEPTED], || {
        put(connectors::reset_topics)
    }),
    endpoint("GET", "/connectors/{name}/offsets", READ, "Where it stands.", &[(200, Some("Offsets"))], || get(connectors::offsets)),
    endpoint(
        "PATCH",
        "/connectors/{name}/offsets",
        ADMINISTER,
        "Moves offsets of a stopped connector; null removes one.",
        &[MESSAGE],
        || patch(connectors::alter_offsets),
    )
    .body("Offsets"),
    endpoint("DELETE", "/connectors/{name}/offsets", ADMINISTER, "Removes all offsets of a stopped connector.", &[MESSAGE], || {
        delete(connectors::reset_offsets)
    }),
    endpoint("PUT", "/connectors/{name}/pause", OPERATE, "Lets nothing flow; tasks stay.", &[ACCEPTED], || put(connectors::pause)),
    endpoint("PUT", "/connectors/{name}/resume", OPERATE, "Lets a paused or stopped connector run.", &[ACCEPTED], || {
        put(connectors::resume)
    }),
    endpoint("PUT", "/connectors/{name}/stop", OPERATE, "Ends the tasks.", &[NO_CONTENT], || put(connectors::stop)),
    endpoint("POST", "/connectors/{name}/restart", OPERATE, "Starts it anew.", &[(202, Some("Status")), NO_CONTENT], || {
        post(connectors::restart)
    })
    .query(&[
        parameter("includeTasks", "string", "true, in any case: its tasks too; anything else is false"),
        parameter("onlyFailed", "string", "true, in any case: only what has failed; anything else is false"),
    ]),
    endpoint(
        "POST",
        "/connectors/{name}/signals",
        OPERATE,
        "Asks a source that runs for something, as a row of Debezium's signalling table does; answers once that is durable.",
        &[(202, Some("SignalTaken"))],
        || post(connectors::signal),
    )
    .body("Signal"),
    endpoint("GET", "/connectors/{name}/tasks", READ, "Its tasks and their configurations.", &[(200, Some("Tasks"))], || {
        get(connectors::tasks)
    }),
    endpoint("GET", "/connectors/{name}/tasks/{task}/status", READ, "State of a task.", &[(200, Some("TaskStatus"))], || {
        get(connectors::task_status)
    }),
    endpoint("POST", "/connectors/{name}/tasks/{task}/restart", OPERATE, "Starts a task anew.", &[NO_CONTENT], || {
        post(connectors::restart_task)
    }),
    endpoint("GET", "/connector-plugins", READ, "What is compiled in.", &[(200, Some("Plugins"))], || get(plugins::list)).query(&[
        parameter("connectorsOnly", "string", "anything but true also lists converters, transforms and predicates; true where not given"),
    ]),
    endpoint("GET", "/connector-plugins/{plugin}/config", READ, "The keys of a plug-in.", &[(200, Some("ConfigKeys"))], || {
        get(plugins::config)
    })
    .query(&[parameter("version", "string", "Version of the plug-in; there is only the worker's own")]),
    endpoint(
        "PUT",
        "/connector-plugins/{plugin}/config/validate",
        // It resolves placeholders and connects to where the caller says.
        ADMINISTER,
        "Checks a configuration and, where that finds nothing, connects; faults stand as errors of their keys.",
        &[(200, Some("Validation"))],
        || put(plugins::validate),
    )
    .body("GivenConfig"),
    endpoint("GET", "/admin/loggers", READ, "Levels of the log.", &[(200, Some("Loggers"))], || get(loggers::list)),
    endpoint("GET", "/admin/loggers/{logger}", READ, "Level of one logger.", &[(200, Some("Logger"))], || get(loggers::get)),
    endpoint(
        "PUT",
        "/admin/loggers/{logger}",
        OPERATE,
        "Sets the level of a logger and of those below it.",
        &[(200, Some("Names")), NO_CONTENT],
        || put(loggers::set),
    )
    .query(&[parameter("scope", "string", "cluster answers 204; anything else is this worker")])
    .body("SetLevel"),
    endpoint("GET", "/topics", READ, "Topics of the log.", &[(200, Some("Topics"))], || get(topics::list)),
    endpoint(
        "GET",
        "/topics/{topic}/records",
        READ,
        "Records of a topic, through the converters of its source.",
        &[(200, Some("Records"))],
        || get(topics::records),
    )
    .query(&[
        parameter("partition", "integer", "Number of the partition, from 0"),
        parameter("offset", "integer", "The first offset; 0 where not given"),
        parameter("limit", "integer", "Most records; 100 where not given, never above 10000"),
    ]),
    endpoint(
        "GET",
        "/topics/{topic}/follow",
        READ,
        "Records of a topic, one a line, each as soon as it is durable.",
        &[(200, None)],
        || get(topics::follow),
    )
    .query(&[
        parameter("partition", "integer", "Number of the partition, from 0"),
        parameter("offset", "integer", "The first offset; 0 where not given"),
        parameter("limit", "integer", "The answer ends behind so many records; without end where not given"),
    ]),
];

/// All routes, each behind its guard.
pub(super) fn routes(api: &Api) -> Router<Api> {
    let guarded = |endpoint: &'static Endpoint| (endpoint.route)().layer(from_fn_with_state((api.clone(), endpoint), access::guard));
    ENDPOINTS.iter().fold(Router::new(), |router, endpoint| router.route(endpoint.path, guarded(endpoint)))
}
