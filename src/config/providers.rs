//! Secret providers: `${file:path:key}`, `${env:NAME}`, `${dir:path:file}`.
//!
//! The syntax is Connect's (`ConfigTransformer`, Kafka 4.3): `${provider:[path:]key}`, several in one value, not
//! resolved again in what they give. Two things differ: a secret that is not there is a fault, where Connect leaves the
//! text as it is and the database later refuses a wrong password; and text without a colon between the braces is not a
//! placeholder (so is it in Connect).

use std::path::{Component, Path, PathBuf};

use fancy_regex::Regex;
use tailwater_api::config::{ConfigReport, ConfigValues, split_list};

use super::document::fault;
use super::nearest::nearest;
use super::properties;

/// A file of secrets larger than this is none (I6).
const MAX_BYTES: u64 = 1 << 20;

/// The configured providers, `config.providers` of the worker file; `file`, `env` and `dir` are always there.
#[derive(Clone)]
pub struct Providers(Vec<(String, Provider)>);

#[derive(Clone)]
enum Provider {
    /// Keys of `.properties` files
    File { allowed: Vec<PathBuf> },
    /// Whole files of a directory
    Directory { allowed: Vec<PathBuf> },
    /// Environment variables whose whole name matches
    Environment { allowed: Option<Regex> },
}

impl Default for Providers {
    fn default() -> Self {
        Self(vec![
            ("file".to_owned(), Provider::File { allowed: Vec::new() }),
            ("env".to_owned(), Provider::Environment { allowed: None }),
            ("dir".to_owned(), Provider::Directory { allowed: Vec::new() }),
        ])
    }
}

/// `${provider:[path:]key}`
struct Placeholder<'a> {
    provider: &'a str,
    path: Option<&'a str>,
    key: &'a str,
}

/// What stands between placeholders, and the placeholders.
enum Part<'a> {
    Text(&'a str),
    Placeholder(Placeholder<'a>),
}

fn parts(value: &str) -> Vec<Part<'_>> {
    let mut parts = Vec::new();
    let mut rest = value;
    while let Some(start) = rest.find("${") {
        let Some(length) = rest[start..].find('}') else { break };
        let inner = &rest[start + 2..start + length];
        let (text, after) = (&rest[..start], &rest[start + length + 1..]);
        match inner.split_once(':') {
            Some((provider, place)) => {
                let (path, key) = place.split_once(':').map_or((None, place), |(path, key)| (Some(path), key));
                parts.push(Part::Text(text));
                parts.push(Part::Placeholder(Placeholder { provider, path, key }));
            }
            None => parts.push(Part::Text(&rest[..=start + length])),
        }
        rest = after;
    }
    parts.push(Part::Text(rest));
    parts
}

/// Whether `value` holds a placeholder.
#[must_use]
pub fn has_placeholder(value: &str) -> bool {
    parts(value).iter().any(|part| matches!(part, Part::Placeholder(_)))
}

impl Providers {
    /// Reads `config.providers` and `config.providers.NAME.{class,param.*}` of the worker file.
    ///
    /// # Errors
    /// All faults.
    pub fn from_config(config: &ConfigValues) -> Result<Self, ConfigReport> {
        let mut providers = Self::default();
        let mut report = ConfigReport::default();
        for name in config.get("config.providers").map(split_list).unwrap_or_default() {
            match provider(&name, config) {
                Ok(provider) => {
                    providers.0.retain(|(known, _)| *known != name);
                    providers.0.push((name, provider));
                }
                Err((key, message)) => report.faults.push(fault(&key, message)),
            }
        }
        if report.faults.is_empty() { Ok(providers) } else { Err(report) }
    }

    /// Replaces every placeholder by what its provider says. A secret that is not there is a fault of its key, which names
    /// provider, path and key, never a value (I14).
    ///
    /// # Errors
    /// All faults.
    pub fn resolve(&self, config: &ConfigValues) -> Result<ConfigValues, ConfigReport> {
        let mut resolved = ConfigValues::default();
        let mut report = ConfigReport::default();
        for (key, value) in config.iter() {
            let mut text = String::with_capacity(value.len());
            for part in parts(value) {
                match part {
                    Part::Text(part) => text.push_str(part),
                    Part::Placeholder(placeholder) => match self.look_up(&placeholder) {
                        Ok(secret) => text.push_str(&secret),
                        Err(message) => report.faults.push(fault(key, message)),
                    },
                }
            }
            resolved.set(key, text);
        }
        if report.faults.is_empty() { Ok(resolved) } else { Err(report) }
    }

    fn look_up(&self, placeholder: &Placeholder<'_>) -> Result<String, String> {
        let Placeholder { provider: name, path, key } = *placeholder;
        let Some((_, provider)) = self.0.iter().find(|(known, _)| known == name) else {
            let known: Vec<&str> = self.0.iter().map(|(name, _)| name.as_str()).collect();
            let meant = nearest(name, known.iter().copied()).map(|near| format!("; is {near} meant?")).unwrap_or_default();
            return Err(format!("names the secret provider {name:?}, which is not configured; there are {}{meant}", known.join(", ")));
        };
        match (provider, path) {
            (Provider::Environment { allowed }, None) => {
                let is_allowed = allowed.as_ref().is_none_or(|pattern| pattern.is_match(key).unwrap_or(false));
                if !is_allowed {
                    return Err(format!(
                        "asks the secret provider {name} for the variable {key}, which its allowlist.pattern does not cover"
                    ));
                }
                std::env::var(key).map_err(|_| format!("asks the secret provider {name} for the variable {key}, which is not set"))
            }
            (Provider::Environment { .. }, Some(path)) => Err(format!(
                "asks the secret provider {name} for the path {path}; it takes the name of a variable alone: ${{{name}:{key}}}"
            )),
            (Provider::File { .. }, None) => Err(format!("must name a file and a key of it: ${{{name}:/path/to/file.properties:{key}}}")),
            (Provider::Directory { .. }, None) => {
                Err(format!("must name a directory and a file of it: ${{{name}:/path/to/directory:{key}}}"))
            }
            (Provider::File { allowed }, Some(path)) => {
                let file = allowed_path(name, path, allowed)?;
                let text = read(name, &file)?;
                let properties = properties::parse(&text)
                    .map_err(|(line, _)| format!("asks the secret provider {name} for {path}, whose line {line} is malformed"))?;
                // Java keeps the last of equal keys.
                let found = properties.into_iter().rev().find(|property| property.key == key);
                found
                    .map(|property| property.value)
                    .ok_or_else(|| format!("asks the secret provider {name} for the key {key}, which {path} does not have"))
            }
            (Provider::Directory { allowed }, Some(path)) => {
                let directory = allowed_path(name, path, allowed)?;
                let mut components = Path::new(key).components();
                if !matches!((components.next(), components.next()), (Some(Component::Normal(_)), None)) {
                    return Err(format!("asks the secret provider {name} for {key:?}, which is no name of a file in {path}"));
                }
                read(name, &directory.join(key))
            }
        }
    }
}

/// The provider that the worker file declares under `name`.
fn provider(name: &str, config: &ConfigValues) -> Result<Provider, (String, String)> {
    let class_key = format!("config.providers.{name}.class");
    let parameter = |parameter: &str| config.get(&format!("config.providers.{name}.param.{parameter}"));
    let allowed = || parameter("allowed.paths").map(split_list).unwrap_or_default().into_iter().map(PathBuf::from).collect();
    let class = config.get(&class_key).unwrap_or(name).trim();
    match class.rsplit('.').next().unwrap_or(class) {
        "file" | "FileConfigProvider" => Ok(Provider::File { allowed: allowed() }),
        "dir" | "DirectoryConfigProvider" => Ok(Provider::Directory { allowed: allowed() }),
        "env" | "EnvVarConfigProvider" => {
            let Some(pattern) = parameter("allowlist.pattern") else { return Ok(Provider::Environment { allowed: None }) };
            let compiled = Regex::new(&format!("^(?:{pattern})$"));
            let key = format!("config.providers.{name}.param.allowlist.pattern");
            let allowed = compiled.map_err(|error| (key, format!("is no regular expression: {error}")))?;
            Ok(Provider::Environment { allowed: Some(allowed) })
        }
        _ => Err((class_key, format!("names {class:?}; there are FileConfigProvider, DirectoryConfigProvider and EnvVarConfigProvider"))),
    }
}

/// `path`, if the provider may read it. A `..` could leave an allowed directory, so there is none.
fn allowed_path(name: &str, path: &str, allowed: &[PathBuf]) -> Result<PathBuf, String> {
    let path = PathBuf::from(path);
    let climbs = path.components().any(|component| component == Component::ParentDir);
    if allowed.is_empty() || (!climbs && allowed.iter().any(|allowed| path.starts_with(allowed))) {
        Ok(path)
    } else {
        Err(format!("asks the secret provider {name} for {}, which its allowed.paths do not cover", path.display()))
    }
}

fn read(name: &str, path: &Path) -> Result<String, String> {
    let describe = |error: std::io::Error| format!("asks the secret provider {name} for {}, which cannot be read: {error}", path.display());
    if std::fs::metadata(path).map_err(describe)?.len() > MAX_BYTES {
        return Err(format!("asks the secret provider {name} for {}, which is larger than {MAX_BYTES} bytes", path.display()));
    }
    std::fs::read_to_string(path).map_err(describe)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(entries: &[(&str, &str)]) -> ConfigValues {
        entries.iter().copied().collect()
    }

    fn resolved(providers: &Providers, value: &str) -> Result<String, String> {
        let faults = |report: ConfigReport| report.faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
        let values = providers.resolve(&values(&[("k", value)])).map_err(faults)?;
        Ok(values.get("k").unwrap().to_owned())
    }

    #[test]
    fn each_provider_gives_its_secret() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("db.properties");
        std::fs::write(&file, "user=cdc\npassword = s3cret\\u0021\n").unwrap();
        std::fs::write(folder.path().join("token"), "abc").unwrap();
        let providers = Providers::default();
        assert_eq!(resolved(&providers, &format!("${{file:{}:password}}", file.display())).unwrap(), "s3cret!");
        assert_eq!(resolved(&providers, &format!("${{dir:{}:token}}", folder.path().display())).unwrap(), "abc");
        let name = env!("CARGO_PKG_NAME");
        assert_eq!(resolved(&providers, "a-${env:CARGO_PKG_NAME}-${env:CARGO_PKG_NAME}").unwrap(), format!("a-{name}-{name}"));
    }

    #[test]
    fn what_is_no_placeholder_stays() {
        for text in ["$3", "outbox.${routedByValue}", "${", "${env:X", "a}b", "", "$${}"] {
            assert_eq!(resolved(&Providers::default(), text).unwrap(), text);
            assert!(!has_placeholder(text));
        }
        assert!(has_placeholder("x${env:Y}"));
    }

    #[test]
    fn a_missing_secret_is_a_fault_that_names_provider_path_and_key() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("db.properties");
        std::fs::write(&file, "password=hunter2\n").unwrap();
        let providers = Providers::default();
        let message = resolved(&providers, &format!("${{file:{}:pasword}}", file.display())).unwrap_err();
        assert!(
            message.starts_with("k: ")
                && message.contains("provider file")
                && message.contains("db.properties")
                && message.contains("pasword")
        );
        assert!(!message.contains("hunter2"));
        assert!(resolved(&providers, "${env:NO_SUCH_VARIABLE}").unwrap_err().contains("NO_SUCH_VARIABLE"));
        assert!(resolved(&providers, "${evn:X}").unwrap_err().contains("is env meant?"));
        assert!(resolved(&providers, "${file:x}").unwrap_err().contains("must name a file"));
        assert!(resolved(&providers, "${dir:/tmp:../etc/passwd}").unwrap_err().contains("no name of a file"));
        assert!(resolved(&providers, "${file:/no/such:x}${env:NO_SUCH}").unwrap_err().matches("asks").count() == 2);
    }

    #[test]
    fn connects_classes_and_limits_hold() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("f"), "k=v").unwrap();
        let allowed = folder.path().to_str().unwrap();
        let providers = Providers::from_config(&values(&[
            ("config.providers", "secrets,environment"),
            ("config.providers.secrets.class", "org.apache.kafka.common.config.provider.FileConfigProvider"),
            ("config.providers.secrets.param.allowed.paths", allowed),
            ("config.providers.environment.class", "org.apache.kafka.common.config.provider.EnvVarConfigProvider"),
            ("config.providers.environment.param.allowlist.pattern", "CARGO_PKG_.*"),
        ]))
        .unwrap_or_else(|report| panic!("{report:?}"));
        assert_eq!(resolved(&providers, &format!("${{secrets:{allowed}/f:k}}")).unwrap(), "v");
        assert!(resolved(&providers, &format!("${{secrets:{allowed}/../f:k}}")).unwrap_err().contains("allowed.paths"));
        assert!(resolved(&providers, "${secrets:/etc/passwd:k}").unwrap_err().contains("allowed.paths"));
        assert!(resolved(&providers, "${environment:CARGO_PKG_NAME}").is_ok());
        assert!(resolved(&providers, "${environment:PATH}").unwrap_err().contains("allowlist.pattern"));
        let refused = Providers::from_config(&values(&[("config.providers", "vault"), ("config.providers.vault.class", "a.b.Vault")]));
        assert!(refused.is_err_and(|report| report.faults[0].key == "config.providers.vault.class"));
    }
}
