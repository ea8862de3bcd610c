//! Who may use the REST API and how: TLS, users and roles, limits, the log of changes, secrets.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::harness::{Daemon, Home, Options, run_tailwater, said, wait_until};

const USERS: &str = "rest.users: {alice: {password: 'pass word:1', role: administer}, olga: {password: two, role: operate}, prometheus: {token: tok3, role: read}}\n";
const ROWS: &str = "name: rows\nconnector: generator\ngenerator.topics: rows\ngenerator.rows: 10\n";

/// Makes a certificate for `localhost` that is its own root.
fn certificate(folder: &Path) {
    let made = Command::new("openssl")
        .args(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -days 2 -nodes -subj /CN=localhost -addext subjectAltName=DNS:localhost"
                .split(' '),
        )
        .arg("-keyout")
        .arg(folder.join("rest.key"))
        .arg("-out")
        .arg(folder.join("rest.crt"))
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", said(&made));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_is_encrypted_and_a_renewed_certificate_is_used_without_a_restart() {
    let home = Home::new();
    let folder = home.path("tls");
    std::fs::create_dir(&folder).unwrap();
    certificate(&folder);
    let old = home.path("old.crt");
    std::fs::copy(folder.join("rest.crt"), &old).unwrap();
    let worker = format!("rest.tls: {{certificate: {0}/rest.crt, key: {0}/rest.key}}\n", folder.display());
    let daemon =
        Daemon::start(&home, &Options::default().worker(worker).connector("rows.yaml", ROWS).expect("keeps the certificate")).await;
    let url = daemon.url().replace("127.0.0.1", "localhost");
    assert!(url.starts_with("https://"), "{url}");
    let list = |ca: &Path| run_tailwater(["connector", "list", "--url", &url, "--ca", ca.to_str().unwrap()]);
    let listed = list(&old);
    assert!(listed.status.success() && said(&listed).contains("rows"), "{}", said(&listed));

    // A file that is no certificate leaves the one before it in place.
    std::fs::write(folder.join("rest.crt"), "nonsense").unwrap();
    wait_until("the complaint", async || daemon.log_text().contains("keeps the certificate that it had")).await;
    assert!(list(&old).status.success());
    certificate(&folder);
    let new = folder.join("rest.crt");
    wait_until("the new certificate", async || list(&new).status.success()).await;
    assert!(!list(&old).status.success());
    // Who speaks in clear is told nothing and holds up nobody.
    let clear = daemon.url().replace("https", "http");
    assert!(reqwest::get(format!("{clear}/health")).await.is_err());
    assert!(list(&new).status.success());
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_lets_other_users_in_and_a_worker_file_with_faults_changes_nothing() {
    let home = Home::new();
    let daemon = Daemon::start(&home, &Options::default().worker(USERS).expect("the worker file is not applied")).await;
    let status = async |who: &str| ask(&daemon, who, "GET", "/connectors", None).await.0;
    assert_eq!((status("token tok3").await, status("token new").await), (200, 401));
    home.write("worker.yaml", "rest.users: {prometheus: {token: new, role: read}}\n");
    daemon.reload();
    wait_until("the new token", async || status("token new").await == 200).await;
    assert_eq!((status("token tok3").await, status("alice/pass word:1").await), (401, 401));
    for (faulty, complaint) in
        [("rest.users: {prometheus: {role: read}}\n", "rest.users.prometheus.password"), ("{}\n", "names nobody any more")]
    {
        home.write("worker.yaml", faulty);
        daemon.reload();
        wait_until("the complaint", async || daemon.log_text().contains(complaint)).await;
        assert_eq!((status("token new").await, status("").await), (200, 401));
    }
    daemon.stop().await;
}

#[test]
fn a_certificate_that_cannot_be_used_is_refused_at_the_start() {
    let home = Home::new();
    let worker = home.write("worker.yaml", "rest.tls: {certificate: /no/such.crt, key: /no/such.key}\nrest.listen: 127.0.0.1:0\n");
    let output = run_tailwater(["run", "--config", worker.to_str().unwrap(), "--data-dir", home.data().to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(2));
    assert!(said(&output).contains("/no/such.crt"), "{}", said(&output));
}

/// Status and text of a request by somebody.
async fn ask(daemon: &Daemon, who: &str, method: &str, path: &str, body: Option<&Value>) -> (u16, String) {
    let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
    let mut request = reqwest::Client::new().request(method, format!("{}{path}", daemon.url()));
    request = match who.split_once(' ') {
        Some(("token", token)) => request.bearer_auth(token),
        Some(_) | None if !who.is_empty() => {
            let (name, password) = who.split_once('/').unwrap();
            request.basic_auth(name, Some(password))
        }
        Some(_) | None => request,
    };
    if let Some(body) = body {
        request = request.json(body);
    }
    let answer = request.send().await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn everybody_may_do_what_their_role_says_and_every_change_is_in_the_log() {
    let home = Home::new();
    let daemon = Daemon::start(&home, &Options::default().worker(USERS)).await;
    let config = json!({"connector.class": "generator", "generator.topics": "rows", "generator.rows": "1"});
    let (alice, olga, prometheus) = ("alice/pass word:1", "olga/two", "token tok3");
    assert_eq!(ask(&daemon, "", "GET", "/health", None).await.0, 200);
    let answers = [
        ("", "GET", "/connectors", None, 401),
        ("alice/wrong", "GET", "/metrics", None, 401),
        ("token two", "GET", "/connectors", None, 401),
        (prometheus, "GET", "/metrics", None, 200),
        (prometheus, "PUT", "/connectors/rows/config", Some(&config), 403),
        (olga, "PUT", "/connectors/rows/config", Some(&config), 403),
        (alice, "PUT", "/connectors/rows/config", Some(&config), 201),
        (prometheus, "PUT", "/connectors/rows/pause", None, 403),
        (olga, "PUT", "/connectors/rows/pause", None, 202),
        (olga, "DELETE", "/connectors/rows", None, 403),
        (prometheus, "GET", "/connectors/rows/config", None, 200),
        (alice, "DELETE", "/connectors/rows", None, 204),
    ];
    for (who, method, path, body, status) in answers {
        let (answered, text) = ask(&daemon, who, method, path, body).await;
        assert_eq!(answered, status, "{who} {method} {path}: {text}");
        if status > 400 {
            let text: Value = serde_json::from_str(&text).unwrap();
            assert_eq!(text["error_code"], status, "{text}");
        }
    }
    let output = run_tailwater(["connector", "list", "--url", daemon.url(), "--token", "tok3"]);
    assert!(output.status.success(), "{}", said(&output));

    // The log comes through a pipe.
    wait_until("the last change in the log", async || daemon.log_text().contains("\"status\":204")).await;
    let log = daemon.log_text();
    let changes: Vec<Value> =
        log.lines().filter(|line| line.contains("a change was asked for")).map(|line| serde_json::from_str(line).unwrap()).collect();
    let told: Vec<_> = changes
        .iter()
        .map(|change| (change["user"].as_str().unwrap(), change["path"].as_str().unwrap(), change["status"].as_u64().unwrap()))
        .collect();
    let expected = [
        ("prometheus", "/connectors/rows/config", 403),
        ("olga", "/connectors/rows/config", 403),
        ("alice", "/connectors/rows/config", 201),
        ("prometheus", "/connectors/rows/pause", 403),
        ("olga", "/connectors/rows/pause", 202),
        ("olga", "/connectors/rows", 403),
        ("alice", "/connectors/rows", 204),
    ];
    assert_eq!(told, expected);
    assert!(changes.iter().all(|change| change["from"].as_str().unwrap().starts_with("127.0.0.1:") && change["method"].is_string()));
    for secret in ["pass word:1", "tok3"] {
        assert!(!log.contains(secret), "{secret} in {log}");
    }
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_large_or_comes_too_often_is_refused() {
    let home = Home::new();
    let daemon = Daemon::start(&home, &Options::default().worker("rest: {max.body.bytes: 1KiB, requests.per.second: 20}\n")).await;
    let body = json!({"connector.class": "generator", "generator.topics": "x".repeat(2000)});
    assert_eq!(daemon.request("PUT", "/connectors/large/config", Some(&body)).await.0, 413);
    let mut refused = None;
    for _ in 0..60 {
        let answer = reqwest::get(format!("{}/health", daemon.url())).await.unwrap();
        if answer.status() == 429 {
            refused = Some(answer);
        }
    }
    let refused = refused.expect("60 requests at once are more than 20 a second");
    assert_eq!(refused.headers()["retry-after"], "1");
    assert_eq!(refused.json::<Value>().await.unwrap()["error_code"], 429);
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    assert_eq!(daemon.request("GET", "/health", None).await.0, 200);
    daemon.stop().await;
}

/// A text that stands nowhere but in secrets.
const CANARY: &str = "canary-7f3a9";

#[tokio::test(flavor = "multi_thread")]
async fn i14_a_secret_shows_in_no_answer_no_figure_and_no_log() {
    let home = Home::new();
    let users = format!("rest.users: {{alice: {{password: {CANARY}, token: {CANARY}-t, role: administer}}}}\nlog.level: trace\n");
    let options = Options::default().worker(users).environment("REST_CANARY", CANARY).expect("connector=").expect("\"connector\"");
    let daemon = Daemon::start(&home, &options).await;
    let alice = format!("alice/{CANARY}");
    let config = |class: &str, secret: &str| {
        json!({
            "connector.class": class, "name": "canary", "topics": "none", "topic.prefix": "p", "generator.topics": "none", "generator.rows": "1",
            "database.hostname": "127.0.0.1", "database.port": "1", "database.user": "u", "database.dbname": "d",
            "database.password": secret, "connection.url": format!("postgres://u:{secret}@127.0.0.1:1/d"), "path": "/no/such/folder/x",
            "connection.password": secret, "unknown.token": secret, "consumer.override.sasl.jaas.config": format!("x password=\"{secret}\";"),
            "transforms": "t", "transforms.t.type": "no.such.Type", "transforms.t.secret": secret,
        })
    };
    let mut answers = String::new();
    let tell = async |method: &str, path: &str, body: Option<&Value>| ask(&daemon, &alice, method, path, body).await.1;
    for class in ["postgres", "sql", "file", "blackhole", "generator", "no.such.Class"] {
        for (number, secret) in [CANARY.to_owned(), format!("{CANARY}@/:?#[]"), "${env:REST_CANARY}".to_owned()].iter().enumerate() {
            let mut config = config(class, secret);
            answers += &tell("PUT", &format!("/connector-plugins/{class}/config/validate"), Some(&config)).await;
            answers += &tell("POST", "/connectors", Some(&json!({"name": "canary", "config": config.clone()}))).await;
            // Without the transform most of them can be made, and fail where they connect.
            for key in ["transforms", "transforms.t.type", "transforms.t.secret"] {
                config.as_object_mut().unwrap().remove(key);
            }
            answers += &tell("PUT", &format!("/connector-plugins/{class}/config/validate"), Some(&config)).await;
            let name = format!("canary-{class}-{number}");
            config["name"] = name.clone().into();
            answers += &tell("PUT", &format!("/connectors/{name}/config"), Some(&config)).await;
            answers += &tell("PATCH", &format!("/connectors/{name}/config"), Some(&json!({"ssl.key.password": secret}))).await;
            answers += &tell(
                "PUT",
                &format!("/connectors/{name}/config"),
                Some(&json!({"name": format!("{name}x"), "database.password": secret})),
            )
            .await;
        }
    }
    let names: Value = serde_json::from_str(&tell("GET", "/connectors", None).await).unwrap();
    let names: Vec<&str> = names.as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
    assert!(names.len() >= 5, "{names:?}\n{answers}");
    wait_until("a connector to fail", async || tell("GET", "/connectors?expand=status", None).await.contains("FAILED")).await;
    // Every endpoint that can be read.
    let openapi: Value = serde_json::from_str(&tell("GET", "/openapi.json", None).await).unwrap();
    for (path, methods) in openapi["paths"].as_object().unwrap() {
        if methods.get("get").is_some() {
            for name in &names {
                let path = path
                    .replace("{name}", name)
                    .replace("{plugin}", "postgres")
                    .replace("{task}", "0")
                    .replace("{logger}", "root")
                    .replace("{topic}", "none");
                // It would wait for records.
                let path = if path.ends_with("/follow") { path + "?limit=0" } else { path };
                answers += &tell("GET", &path, None).await;
            }
        }
    }
    answers += &tell("GET", "/connectors?expand=info&expand=status", None).await;
    for place in ["/connectors", "/no/such/path", "/connectors/canary/config"] {
        for method in ["POST", "PATCH", "DELETE"] {
            answers += &tell(method, place, Some(&json!(CANARY.len()))).await;
        }
    }
    for name in &names {
        tell("DELETE", &format!("/connectors/{name}"), None).await;
    }
    let log = daemon.log_text();
    for (what, text) in [("an answer", &answers), ("the log", &log)] {
        if let Some(at) = text.find(CANARY) {
            let around: String = text[..at + CANARY.len()].chars().rev().take(400).collect::<Vec<_>>().into_iter().rev().collect();
            panic!("the canary is in {what}: …{around}");
        }
    }
    assert!(answers.contains("[hidden]") && answers.contains("${env:REST_CANARY}"));
    daemon.stop().await;
}
