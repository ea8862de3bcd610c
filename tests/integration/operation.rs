//! What operators get beside the program: container, layout of an installation, alert rules, dashboard, documents. What these say
//! about the program is what the program says.
//!
//! `TAILWATER_DOCS_UPDATE=1` writes the parts of `docs/` anew that are made from the sources.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use regex::Regex;
use serde_json::Value;
use tailwater_api::ErrorKind;
use tempfile::TempDir;

use crate::harness::{run_tailwater, said};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn text(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn yaml(path: &str) -> Value {
    serde_saphyr::from_str(&text(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The part of a document between the marks of `name`.
fn part<'a>(document: &'a str, name: &str) -> &'a str {
    let (begin, end) = (format!("<!-- {name} -->\n"), format!("<!-- end of {name} -->"));
    let begin = document.find(&begin).unwrap_or_else(|| panic!("no part {name}")) + begin.len();
    &document[begin..begin + document[begin..].find(&end).unwrap()]
}

/// The part of a document must be `expected`.
fn is_held(path: &str, name: &str, expected: &str) {
    let document = text(path);
    let found = part(&document, name);
    if std::env::var_os("TAILWATER_DOCS_UPDATE").is_some() {
        let mark = format!("<!-- {name} -->\n");
        fs::write(root().join(path), document.replace(&format!("{mark}{found}"), &format!("{mark}{expected}"))).unwrap();
        return;
    }
    assert!(
        found == expected,
        "the part {name:?} of {path} is not what the sources say; TAILWATER_DOCS_UPDATE=1 writes it anew:\n{expected}"
    );
}

/// Rust sources of the program and of its connectors, without their tests.
fn sources() -> Vec<(PathBuf, String)> {
    let mut folders = vec![root().join("src"), root().join("connectors")];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            if path.is_dir() && !["tests", "testkit", "benches"].contains(&name.as_str()) {
                folders.push(path);
            } else if name.ends_with(".rs") && !["tests.rs", "testing.rs", "golden.rs"].contains(&name.as_str()) {
                let text = fs::read_to_string(&path).unwrap();
                let program = text.split("#[cfg(test)]\nmod tests {").next().unwrap().to_owned();
                found.push((path, program));
            }
        }
    }
    found
}

/// Name, kind and help of every figure that the program or a connector reports.
fn figures() -> BTreeMap<String, (&'static str, BTreeSet<String>)> {
    let declared = Regex::new(r#"\b(counter|gauge)\(\s*"([a-z_]+)",\s*"([^"]+)""#).unwrap();
    let mut figures: BTreeMap<String, (&str, BTreeSet<String>)> = BTreeMap::new();
    for (path, text) in sources() {
        for captures in declared.captures_iter(&text) {
            let (kind, name, help) = (&captures[1], &captures[2], captures[3].to_owned());
            let (kind, name) = match kind {
                "counter" => ("counter", format!("tailwater_{}_total", name.strip_suffix("_total").unwrap_or(name))),
                _ => ("gauge", format!("tailwater_{name}")),
            };
            let (known, helps) = figures.entry(name.clone()).or_insert_with(|| (kind, BTreeSet::new()));
            assert_eq!(*known, kind, "{name} is two things: {}", path.display());
            helps.insert(help);
        }
    }
    figures.insert("tailwater_build_info".into(), ("gauge", BTreeSet::from(["Version of this worker.".into()])));
    figures.insert("tailwater_task_state".into(), ("gauge", BTreeSet::from(["1 for the state that a task has.".into()])));
    assert!(figures.len() > 15, "{figures:?}");
    figures
}

/// The names that a query in Prometheus' language asks for.
fn asked(query: &str) -> BTreeSet<String> {
    let name = Regex::new(r"\b(tailwater|kafka_connect|debezium_metrics)_\w+").unwrap();
    name.find_iter(query).map(|found| found.as_str().to_owned()).collect()
}

#[test]
fn every_figure_stands_in_the_document() {
    let rows: String = figures()
        .iter()
        .map(|(name, (kind, helps))| {
            format!("| `{name}` | {kind} | {} |\n", helps.iter().map(String::as_str).collect::<Vec<_>>().join(" "))
        })
        .collect();
    is_held("docs/operating.md", "metrics", &format!("\n| name | kind | meaning |\n| --- | --- | --- |\n{rows}\n"));
    let known_names = text("src/telemetry/known_names.rs");
    let known_names = known_names.split("#[cfg(test)]").next().unwrap();
    let quoted = Regex::new(r#""((?:kafka_connect|debezium_metrics)_\w+)""#).unwrap();
    // The format ends the names of counters itself; Debezium's are gauges.
    let ended = |name: &str| if name.ends_with("_poll") || name.ends_with("_read") { format!("{name}_total") } else { name.to_owned() };
    let rows: String = quoted.captures_iter(known_names).map(|name| format!("- `{}`\n", ended(&name[1]))).collect();
    is_held("docs/operating.md", "known names", &format!("\n{rows}\n"));
}

#[test]
fn every_error_code_stands_in_the_document_with_a_remedy() {
    let document = text("docs/operating.md");
    let rows: Vec<Vec<&str>> = part(&document, "error codes")
        .lines()
        .filter(|line| line.starts_with("| `"))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect();
    let documented: BTreeSet<String> = rows.iter().map(|row| row[0].trim_matches('`').to_owned()).collect();
    let codes: BTreeSet<String> = ErrorKind::ALL.iter().map(|kind| kind.code().to_owned()).collect();
    assert_eq!(documented, codes);
    for row in rows {
        assert!(row.len() == 4 && row.iter().all(|cell| !cell.is_empty()), "{row:?}");
        let is_transient = ErrorKind::ALL.iter().any(|kind| kind.code() == row[0].trim_matches('`') && kind.is_transient());
        assert!(!is_transient || row[2] == "tries again", "{row:?}");
    }
}

/// An entry of `differences.yaml`.
#[derive(serde::Deserialize)]
struct Difference {
    case: String,
    debezium: String,
    tailwater: String,
    why: String,
}

#[test]
fn every_meant_difference_stands_in_the_document() {
    let differences: Vec<Difference> = serde_saphyr::from_str(&text("tests/integration/golden/differences.yaml")).unwrap();
    let rows: String = differences
        .iter()
        .map(|Difference { case, debezium, tailwater, why }| {
            let cells = [case, debezium, tailwater, why].map(|text| text.replace('|', "\\|"));
            format!("| {} |\n", cells.join(" | "))
        })
        .collect();
    is_held(
        "docs/moving-from-debezium.md",
        "differences",
        &format!("\n| case | Debezium, Connect | Tailwater | why |\n| --- | --- | --- | --- |\n{rows}\n"),
    );
}

#[test]
fn alert_rules_ask_for_figures_that_exist() {
    let figures = figures();
    let rules = yaml("packaging/prometheus/tailwater.rules.yaml");
    let rules: Vec<&Value> = rules["groups"].as_array().unwrap().iter().flat_map(|group| group["rules"].as_array().unwrap()).collect();
    assert!(rules.len() >= 5);
    for rule in rules {
        let expression = rule["expr"].as_str().unwrap();
        for name in asked(expression) {
            assert!(figures.contains_key(&name), "{} asks for {name}", rule["alert"]);
        }
        assert!(!asked(expression).is_empty() || expression.starts_with("up{"), "{rule}");
        assert!(
            rule["labels"]["severity"].is_string()
                && rule["annotations"]["summary"].is_string()
                && rule["annotations"]["description"].is_string(),
            "{rule}"
        );
    }
}

#[test]
fn the_dashboard_asks_for_figures_that_exist() {
    let figures = figures();
    let dashboard: Value = serde_json::from_str(&text("packaging/grafana/tailwater.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let ids: BTreeSet<_> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert!(panels.len() >= 8 && ids.len() == panels.len());
    for panel in panels {
        for target in panel["targets"].as_array().unwrap() {
            let names = asked(target["expr"].as_str().unwrap());
            assert!(!names.is_empty() && names.iter().all(|name| figures.contains_key(name)), "{}: {names:?}", panel["title"]);
        }
    }
}

/// Instructions of a Dockerfile (Dockerfile reference, Docker 27), continued lines joined.
fn instructions(dockerfile: &str) -> Vec<(String, String)> {
    let joined = dockerfile.replace("\\\n", " ");
    let lines = joined.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| line.split_once(' ').map(|(word, rest)| (word.to_owned(), rest.trim().to_owned())).unwrap_or_else(|| panic!("{line}")))
        .collect()
}

#[test]
fn the_image_runs_without_root_and_starts_the_program() {
    const KNOWN: [&str; 13] =
        ["FROM", "RUN", "CMD", "LABEL", "EXPOSE", "ENV", "COPY", "ENTRYPOINT", "VOLUME", "USER", "WORKDIR", "ARG", "STOPSIGNAL"];
    let instructions = instructions(&text("Dockerfile"));
    assert_eq!(instructions[0].0, "FROM");
    let mut stages = BTreeSet::new();
    for (word, rest) in &instructions {
        assert!(KNOWN.contains(&word.as_str()), "{word}");
        if let ("FROM", Some((_, stage))) = (word.as_str(), rest.split_once(" AS ")) {
            stages.insert(stage.to_owned());
        }
        if let ("COPY", Some(from)) = (word.as_str(), rest.strip_prefix("--from=")) {
            assert!(stages.contains(from.split(' ').next().unwrap()), "{rest}");
        }
    }
    let last = |wanted: &str| instructions.iter().rev().find(|(word, _)| word == wanted).map(|(_, rest)| rest.as_str()).unwrap();
    assert!(last("USER").parse::<u32>().is_ok_and(|user| user > 0), "a number, so that Kubernetes can see that it is not root");
    let list = |word: &str| serde_json::from_str::<Vec<String>>(last(word)).unwrap();
    assert_eq!(list("ENTRYPOINT"), ["/usr/bin/tailwater"]);
    // Every option of the command is one of the program.
    let help = said(&run_tailwater(["run", "--help"]));
    for option in list("CMD").iter().filter(|word| word.starts_with("--")) {
        assert!(help.contains(option.as_str()), "{option}: {help}");
    }
    let rust = rust_version(&text("Cargo.toml"));
    assert!(instructions[0].1.contains(&format!("rust:{rust}-")), "the image builds with rust-version {rust}");
}

/// `rust-version` of the workspace.
fn rust_version(manifest: &str) -> String {
    let line = manifest.lines().find(|line| line.starts_with("rust-version = \"")).unwrap();
    line.split('"').nth(1).unwrap().to_owned()
}

#[test]
fn the_composition_has_only_known_keys_and_names_what_it_declares() {
    // Compose Specification, "Services top-level elements": those that this file may use.
    const SERVICE: [&str; 14] = [
        "build",
        "image",
        "command",
        "environment",
        "volumes",
        "ports",
        "depends_on",
        "healthcheck",
        "restart",
        "read_only",
        "tmpfs",
        "stop_grace_period",
        "user",
        "networks",
    ];
    let composition = yaml("docker-compose.yml");
    for key in composition.as_object().unwrap().keys() {
        assert!(["services", "volumes", "networks"].contains(&key.as_str()), "{key}");
    }
    let services = composition["services"].as_object().unwrap();
    let names: Vec<&str> = services.keys().map(String::as_str).collect();
    assert_eq!(names, ["tailwater", "postgres", "kafka"]);
    for (name, service) in services {
        let service = service.as_object().unwrap();
        for key in service.keys() {
            assert!(SERVICE.contains(&key.as_str()), "{name}: {key}");
        }
        assert!(service.contains_key("image"), "{name}");
        for volume in service.get("volumes").and_then(Value::as_array).into_iter().flatten() {
            let from = volume.as_str().unwrap().split(':').next().unwrap();
            let is_there = if from.starts_with('.') { root().join(from).exists() } else { composition["volumes"].get(from).is_some() };
            assert!(is_there, "{name}: {from}");
        }
        for port in service.get("ports").and_then(Value::as_array).into_iter().flatten() {
            assert!(port.as_str().unwrap().starts_with("127.0.0.1:"), "{name}: {port} is open to others");
        }
        for (needed, how) in service.get("depends_on").and_then(Value::as_object).into_iter().flatten() {
            assert!(how["condition"] != "service_healthy" || services[needed].get("healthcheck").is_some(), "{name} waits for {needed}");
        }
    }
    let mut files: Vec<_> = fs::read_dir(root().join("config/compose")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    for file in files {
        let output = run_tailwater(["check".as_ref(), file.as_os_str()]);
        assert!(output.status.success(), "{}: {}", file.display(), said(&output));
    }
}

#[test]
fn an_installation_has_everything_in_its_place_and_keeps_the_configuration() {
    let folder = TempDir::new().unwrap();
    let install = || {
        let output = Command::new(root().join("packaging/install"))
            .args(["--program", env!("CARGO_BIN_EXE_tailwater"), "--destination"])
            .arg(folder.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", said(&output));
    };
    install();
    let at = |path: &str| folder.path().join(path);
    assert_eq!(fs::metadata(at("usr/bin/tailwater")).unwrap().permissions().mode() & 0o777, 0o755);
    for path in [
        "etc/tailwater/connectors",
        "usr/share/tailwater/grafana/tailwater.json",
        "usr/share/tailwater/prometheus/tailwater.rules.yaml",
        "usr/share/doc/tailwater/copyright",
        "usr/share/doc/tailwater/operating.md",
        "usr/share/doc/tailwater/examples/worker.yaml",
    ] {
        assert!(at(path).exists(), "{path}");
    }
    // The unit names what is there.
    let unit = fs::read_to_string(at("usr/lib/systemd/system/tailwater.service")).unwrap();
    let start = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap();
    for path in start.split(' ').filter(|word| word.starts_with('/')) {
        assert!(at(&path[1..]).exists(), "{path}");
    }
    let worker = at("etc/tailwater/worker.yaml");
    let loaded = run_tailwater([
        "check".as_ref(),
        "--config".as_ref(),
        worker.as_os_str(),
        root().join("config/examples/generator.yaml").as_os_str(),
    ]);
    assert!(loaded.status.success(), "{}", said(&loaded));
    fs::write(&worker, "log.level: debug\n").unwrap();
    install();
    assert_eq!(fs::read_to_string(&worker).unwrap(), "log.level: debug\n");
}
