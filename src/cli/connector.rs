//! `connector`: list, status, create, pause, resume, stop, restart, signal, offsets, delete.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::{Value, json};

use super::client::{Address, Client};
use super::output::{Output, print, table};
use super::{Exit, Failure};
use crate::config::connector_file;
use crate::rest::segment;

#[derive(Subcommand)]
pub(super) enum Connector {
    /// Shows all connectors
    List {
        #[command(flatten)]
        address: Address,
        /// Form of the result
        #[arg(long, value_enum, default_value = "text")]
        output: Output,
    },
    /// Shows the states of a connector and its tasks
    Status {
        #[command(flatten)]
        named: Named,
        /// Form of the result
        #[arg(long, value_enum, default_value = "text")]
        output: Output,
    },
    /// Makes a connector from a file
    Create {
        /// YAML, JSON or .properties
        file: PathBuf,
        #[command(flatten)]
        address: Address,
    },
    /// Lets nothing flow; tasks stay
    Pause(Named),
    /// Lets a paused or stopped connector run
    Resume(Named),
    /// Ends the tasks
    Stop(Named),
    /// Starts a connector anew
    Restart {
        #[command(flatten)]
        named: Named,
        /// Its tasks too
        #[arg(long)]
        include_tasks: bool,
        /// Only what has failed
        #[arg(long)]
        only_failed: bool,
    },
    /// Asks a source that runs to read tables again, to rest from that, or to say something in the log
    Signal {
        #[command(flatten)]
        named: Named,
        /// execute-snapshot, stop-snapshot, pause-snapshot, resume-snapshot or log
        #[arg(value_name = "TYPE")]
        kind: String,
        /// What belongs to it, a JSON object: '{"data-collections": ["public.orders"]}'
        data: Option<String>,
        /// What notifications and offsets name it by; made up unless given
        #[arg(long)]
        id: Option<String>,
    },
    /// Shows where a connector stands, or moves it while it is stopped
    Offsets {
        #[command(flatten)]
        named: Named,
        /// Moves it to the offsets of this file, written as --output json prints them; null removes one
        #[arg(long, value_name = "FILE", conflicts_with_all = ["reset", "output"])]
        alter: Option<PathBuf>,
        /// Removes all offsets: it begins anew when it runs
        #[arg(long, conflicts_with = "output")]
        reset: bool,
        /// Form of the result
        #[arg(long, value_enum, default_value = "text")]
        output: Output,
    },
    /// Removes a connector; its offsets are kept
    Delete(Named),
}

#[derive(Args)]
pub(super) struct Named {
    /// Name of the connector
    name: String,
    #[command(flatten)]
    address: Address,
}

impl Named {
    fn path(&self, rest: &str) -> String {
        format!("/connectors/{}{rest}", segment(&self.name))
    }

    async fn act(&self, method: Method, rest: &str, done: &str) -> Result<Exit, Failure> {
        self.address.client()?.send(method, &self.path(rest), None).await?;
        print(&format!("{}: {done}\n", self.name))?;
        Ok(Exit::Done)
    }

    /// Prints the message that the worker answers.
    async fn tell(&self, method: Method, rest: &str, body: Option<String>) -> Result<Exit, Failure> {
        let answer = self.address.client()?.send(method, &self.path(rest), body).await?;
        let message = serde_json::from_str::<Value>(&answer).ok().and_then(|answer| answer["message"].as_str().map(str::to_owned));
        print(&format!("{}: {}\n", self.name, message.unwrap_or(answer)))?;
        Ok(Exit::Done)
    }

    async fn show(&self, rest: &str, output: Output, text: fn(&Value) -> String) -> Result<Exit, Failure> {
        show(&self.address.client()?, &self.path(rest), output, text).await
    }
}

/// Prints what the worker answers, as it is or as text.
pub(super) async fn show(client: &Client, path: &str, output: Output, text: fn(&Value) -> String) -> Result<Exit, Failure> {
    let answer = client.get(path).await?;
    match output {
        Output::Text => print(&text(&answer))?,
        Output::Json => print(&format!("{answer}\n"))?,
    }
    Ok(Exit::Done)
}

impl Connector {
    pub(super) async fn execute(self) -> Result<Exit, Failure> {
        match self {
            Self::List { address, output } => show(&address.client()?, "/connectors?expand=info&expand=status", output, list).await,
            Self::Status { named, output: Output::Json } => named.show("/status", Output::Json, status).await,
            Self::Status { named, output: Output::Text } => {
                let client = named.address.client()?;
                let answer = client.get(&named.path("/status")).await?;
                let mut shown = status(&answer);
                // A connector of a class that the worker does not have promises nothing.
                if let Ok(guarantee) = client.get(&named.path("/guarantee")).await {
                    let _ = write!(shown, "\n{}: {}\n", text(&guarantee["guarantee"]), text(&guarantee["why"]));
                }
                print(&shown)?;
                Ok(Exit::Done)
            }
            Self::Create { file, address } => create(&file, &address.client()?).await,
            Self::Pause(named) => named.act(Method::PUT, "/pause", "pausing").await,
            Self::Resume(named) => named.act(Method::PUT, "/resume", "resuming").await,
            Self::Stop(named) => named.act(Method::PUT, "/stop", "stopped").await,
            Self::Restart { named, include_tasks, only_failed } => {
                let path = format!("/restart?includeTasks={include_tasks}&onlyFailed={only_failed}");
                named.act(Method::POST, &path, "restarting").await
            }
            Self::Signal { named, kind, data, id } => signal(&named, &kind, data.as_deref(), id.as_deref()).await,
            Self::Offsets { named, alter: Some(file), .. } => {
                let offsets = std::fs::read_to_string(&file)
                    .map_err(|error| Failure { exit: Exit::Invalid, message: format!("cannot read {}: {error}", file.display()) })?;
                named.tell(Method::PATCH, "/offsets", Some(offsets)).await
            }
            Self::Offsets { named, reset: true, .. } => named.tell(Method::DELETE, "/offsets", None).await,
            Self::Offsets { named, output, .. } => named.show("/offsets", output, offsets).await,
            Self::Delete(named) => named.act(Method::DELETE, "", "deleted; its offsets are kept").await,
        }
    }
}

async fn create(file: &Path, client: &Client) -> Result<Exit, Failure> {
    let connector = connector_file::read(file).map_err(|report| Failure::invalid(&file.display().to_string(), &report))?;
    let body = json!({"name": connector.name, "config": connector.config}).to_string();
    client.send(Method::POST, "/connectors", Some(body)).await?;
    print(&format!("{}: made\n", connector.name))?;
    Ok(Exit::Done)
}

async fn signal(named: &Named, kind: &str, data: Option<&str>, id: Option<&str>) -> Result<Exit, Failure> {
    let data: Option<Value> = data
        .map(serde_json::from_str)
        .transpose()
        .map_err(|error| Failure { exit: Exit::Invalid, message: format!("the data of the signal are no JSON: {error}") })?;
    let body = json!({"id": id, "type": kind, "data": data}).to_string();
    let answer = named.address.client()?.send(Method::POST, &named.path("/signals"), Some(body)).await?;
    let id = serde_json::from_str::<Value>(&answer).ok().and_then(|answer| answer["id"].as_str().map(str::to_owned));
    print(&format!("{}: took the signal {}\n", named.name, id.unwrap_or_default()))?;
    Ok(Exit::Done)
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn list(answer: &Value) -> String {
    let connectors = answer.as_object().into_iter().flatten();
    let rows: Vec<[String; 5]> = connectors
        .map(|(name, expanded)| {
            let (info, status) = (&expanded["info"], &expanded["status"]);
            let tasks: Vec<String> = status["tasks"].as_array().into_iter().flatten().map(|task| text(&task["state"])).collect();
            [
                name.clone(),
                text(&info["type"]),
                text(&info["config"]["connector.class"]),
                text(&status["connector"]["state"]),
                tasks.join(","),
            ]
        })
        .collect();
    table(["NAME", "TYPE", "CONNECTOR", "STATE", "TASKS"], &rows)
}

fn status(answer: &Value) -> String {
    let row = |part: String, status: &Value| {
        let trace = status["trace"].as_str().unwrap_or_default().replace('\n', " ");
        [part, text(&status["state"]), trace]
    };
    let mut rows = vec![row("connector".to_owned(), &answer["connector"])];
    rows.extend(answer["tasks"].as_array().into_iter().flatten().map(|task| row(format!("task {}", task["id"]), task)));
    table(["PART", "STATE", "TRACE"], &rows)
}

fn offsets(answer: &Value) -> String {
    let offsets = answer["offsets"].as_array().into_iter().flatten();
    let rows: Vec<[String; 2]> = offsets.map(|entry| [entry["partition"].to_string(), entry["offset"].to_string()]).collect();
    table(["PARTITION", "OFFSET"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_become_tables() {
        let answer = json!({"shop": {
            "info": {"config": {"connector.class": "postgres"}, "type": "source"},
            "status": {"connector": {"state": "RUNNING"}, "tasks": [{"id": 0, "state": "FAILED"}]},
        }});
        assert_eq!(list(&answer), "NAME  TYPE    CONNECTOR  STATE    TASKS\nshop  source  postgres   RUNNING  FAILED\n");
        let answer = json!({"connector": {"state": "RUNNING"}, "tasks": [{"id": 0, "state": "FAILED", "trace": "a\nb"}]});
        assert_eq!(status(&answer), "PART       STATE    TRACE\nconnector  RUNNING\ntask 0     FAILED   a b\n");
        let answer = json!({"offsets": [{"partition": {"server": "shop"}, "offset": {"lsn": 1}}]});
        assert_eq!(offsets(&answer), "PARTITION          OFFSET\n{\"server\":\"shop\"}  {\"lsn\":1}\n");
    }
}
