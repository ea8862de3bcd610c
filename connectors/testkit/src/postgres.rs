//! Throwaway PostgreSQL servers.
//!
//! One `initdb` per version fills a template in the cache folder; a server is a copy of it, which takes a tenth of a
//! second. Each test starts its own server, because the creation of a replication slot waits for every open writing
//! transaction of the whole server.
//!
//! The server is a child process on a free port of the loopback interface. PostgreSQL refuses to run as root: as root
//! it runs as the user `postgres`, in a folder that this user owns.
//!
//! Nothing stays behind. A watchdog process reads from a pipe whose other end this process holds: when the handle is
//! dropped, or this process dies in whatever way, the pipe closes, and the watchdog ends the server and removes its
//! folder. A signal bound to the parent's death would not do, since it follows the thread that started the child.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Signal, geteuid};
use tailwater_api::{Error, ErrorKind, Result};
use tempfile::TempDir;
use tokio_postgres::{Client, NoTls};

use crate::child_process::{end, logged, watchdog};
use crate::servers::{cache_dir, failed, free_port, run};

/// Where the server says its process id, in its folder.
const PID_FILE: &str = "data/postmaster.pid";

/// Major versions that tests run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Version {
    /// PostgreSQL 15, from Debian's package
    V15,
    /// PostgreSQL 16 with pgvector, which the other versions lack
    V16,
    /// PostgreSQL 17
    V17,
    /// PostgreSQL 18
    V18,
}

impl Version {
    /// Every version.
    pub const ALL: [Self; 4] = [Self::V15, Self::V16, Self::V17, Self::V18];

    /// The major number.
    #[must_use]
    pub const fn major(self) -> u32 {
        match self {
            Self::V15 => 15,
            Self::V16 => 16,
            Self::V17 => 17,
            Self::V18 => 18,
        }
    }

    /// Folder of the server's programs.
    #[must_use]
    pub fn programs(self) -> PathBuf {
        match self {
            Self::V15 => PathBuf::from("/usr/lib/postgresql/15/bin"),
            Self::V16 | Self::V17 | Self::V18 => cache_dir().join(format!("postgresql-{}/bin", self.major())),
        }
    }
}

/// What every server starts with; settings given to [`PostgresServer::start`] come after these and win.
const DEFAULTS: &[(&str, &str)] = &[
    ("wal_level", "logical"),
    // The machine does not lose power in a test; a test about that sets it on.
    ("fsync", "off"),
    ("max_wal_senders", "20"),
    ("max_replication_slots", "20"),
    ("shared_buffers", "64MB"),
    ("timezone", "UTC"),
    ("log_line_prefix", "%m [%p] %d "),
];

/// How long a start or stop may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running server of its own; ended and removed when dropped.
#[derive(Debug)]
pub struct PostgresServer {
    version: Version,
    settings: Vec<(String, String)>,
    port: u16,
    // Dropped in this order: the server, the watchdog, the folder.
    process: Option<Child>,
    watchdog: Child,
    directory: TempDir,
}

impl PostgresServer {
    /// Starts a server with the superuser `postgres`, who needs no password over TCP nor over the socket.
    ///
    /// # Errors
    /// `missing` where the version is not installed; see [`crate::required_or_skip`]. `misconfigured` with the
    /// server's log where it does not start.
    pub async fn start(version: Version, settings: &[(&str, &str)]) -> Result<Self> {
        let template = template(version)?;
        let directory = TempDir::with_prefix("tailwater-postgres-").map_err(|error| failed("make a folder", error))?;
        own(directory.path())?;
        let data = directory.path().join("data");
        run(unprivileged("cp")?.args(["-a", "--reflink=auto"]).arg(&template).arg(&data))?;
        let watchdog = watchdog(directory.path(), PID_FILE, "QUIT")?;
        let settings = DEFAULTS.iter().chain(settings).map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let mut server = Self { version, settings, port: 0, process: None, watchdog, directory };
        // Another process can take the port between its choice and its use.
        for attempt in 1.. {
            server.port = free_port()?;
            match server.launch().await {
                Err(_) if attempt < 5 && server.log().contains("Address already in use") => {
                    fs::remove_file(server.log_file()).map_err(|error| failed("remove the log", error))?;
                }
                outcome => return outcome.map(|()| server),
            }
        }
        unreachable!("the last attempt returns")
    }

    /// Major version.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// Port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Process id of the server's first process; 0 while it is down.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.as_ref().map_or(0, Child::id)
    }

    /// Folder that holds `data`, the socket and the log. The server's user may write in it.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// `postgres://postgres@127.0.0.1:PORT/DATABASE`
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    /// What the server has logged so far.
    #[must_use]
    pub fn log(&self) -> String {
        logged(&self.log_file())
    }

    /// Connects as superuser. The connection is driven by a task of the current runtime.
    ///
    /// # Errors
    /// `unreachable`
    pub async fn connect(&self, database: &str) -> Result<Client> {
        self.connect_as("postgres", "", database).await
    }

    /// Connects as another user.
    ///
    /// # Errors
    /// `unreachable`, also where the server refuses the user
    pub async fn connect_as(&self, user: &str, password: &str, database: &str) -> Result<Client> {
        let mut config = tokio_postgres::Config::new();
        config.host("127.0.0.1").port(self.port).user(user).password(password).dbname(database);
        let (client, connection) =
            config.connect(NoTls).await.map_err(|error| Error::new(ErrorKind::Unreachable, "connect to the test server").because(error))?;
        // Its end, also by an error, shows in the next call on the client.
        tokio::spawn(async move { drop(connection.await) });
        Ok(client)
    }

    /// Creates an empty database.
    ///
    /// # Errors
    /// The server refuses.
    pub async fn create_database(&self, name: &str) -> Result<()> {
        let client = self.connect("postgres").await?;
        let quoted = name.replace('"', "\"\"");
        client.batch_execute(&format!("CREATE DATABASE \"{quoted}\"")).await.map_err(|error| failed("create a database", error))
    }

    /// Replaces `pg_hba.conf` and reloads, to demand passwords for instance.
    ///
    /// # Errors
    /// The file cannot be written or the server is down.
    pub async fn set_access_rules(&self, rules: &str) -> Result<()> {
        let client = self.connect("postgres").await?;
        fs::write(self.data().join("pg_hba.conf"), rules).map_err(|error| failed("write pg_hba.conf", error))?;
        client.batch_execute("SELECT pg_reload_conf()").await.map_err(|error| failed("reload", error))
    }

    /// Adds or replaces settings that hold from the next start on.
    pub fn set(&mut self, settings: &[(&str, &str)]) {
        self.settings.extend(settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    }

    /// Starts a standby of this server, which is down for a moment meanwhile: the standby begins with a copy of its data. The
    /// primary keeps what the standby needs, so that no slot there is lost to a conflict.
    ///
    /// # Errors
    /// One of the two does not stop or start in time.
    pub async fn standby(&mut self) -> Result<Self> {
        self.stop()?;
        let directory = TempDir::with_prefix("tailwater-postgres-").map_err(|error| failed("make a folder", error))?;
        own(directory.path())?;
        let data = directory.path().join("data");
        run(unprivileged("cp")?.args(["-a", "--reflink=auto"]).arg(self.data()).arg(&data))?;
        run(unprivileged("touch")?.arg(data.join("standby.signal")))?;
        self.launch().await?;
        let client = self.connect("postgres").await?;
        let slot = "SELECT pg_create_physical_replication_slot('standby', true)";
        client.batch_execute(slot).await.map_err(|error| failed("make the slot of a standby", error))?;
        let primary = format!("host=127.0.0.1 port={} user=postgres dbname=postgres", self.port);
        let own = [("primary_conninfo", &*primary), ("primary_slot_name", "standby"), ("hot_standby_feedback", "on")];
        let own = own.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let settings = self.settings.iter().cloned().chain(own).collect();
        let watchdog = watchdog(directory.path(), PID_FILE, "QUIT")?;
        let mut standby = Self { version: self.version, settings, port: free_port()?, process: None, watchdog, directory };
        standby.launch().await?;
        Ok(standby)
    }

    /// Stops without waiting for clients (`fast`), then starts on the same port.
    ///
    /// # Errors
    /// The server does not stop or start in time.
    pub async fn restart(&mut self) -> Result<()> {
        self.stop()?;
        self.launch().await
    }

    /// Starts a stopped or killed server again on its port.
    ///
    /// # Errors
    /// The server does not start in time.
    pub async fn start_again(&mut self) -> Result<()> {
        self.launch().await
    }

    /// Stops without waiting for clients (`fast`), and returns when the server has ended.
    ///
    /// # Errors
    /// It does not end in time.
    pub fn stop(&mut self) -> Result<()> {
        self.end(Signal::INT)
    }

    /// Ends the server as a crash does (SIGKILL of its first process; the others end at once when they see it).
    ///
    /// # Errors
    /// It does not end in time.
    pub fn kill(&mut self) -> Result<()> {
        self.end(Signal::KILL)?;
        // A new server refuses to start while a process of the old one is attached to its shared memory.
        std::thread::sleep(Duration::from_millis(200));
        Ok(())
    }

    async fn launch(&mut self) -> Result<()> {
        let log = File::options().create(true).append(true).open(self.log_file()).map_err(|error| failed("open the log", error))?;
        let errors = log.try_clone().map_err(|error| failed("open the log", error))?;
        let mut command = unprivileged(self.version.programs().join("postgres"))?;
        command.arg("-D").arg(self.data()).args(["-p", &self.port.to_string(), "-k"]).arg(self.directory.path());
        command.args(["-c", "listen_addresses=127.0.0.1"]);
        for (name, value) in &self.settings {
            command.arg("-c").arg(format!("{name}={value}"));
        }
        command.stdin(Stdio::null()).stdout(log).stderr(errors);
        self.process = Some(command.spawn().map_err(|error| failed("start postgres", error))?);
        let deadline = Instant::now() + PATIENCE;
        while self.connect("postgres").await.is_err() {
            let process = self.process.as_mut().expect("it was set above");
            let ended = process.try_wait().map_err(|error| failed("watch postgres", error))?;
            if ended.is_some() || Instant::now() > deadline {
                self.end(Signal::QUIT)?;
                return Err(Error::new(ErrorKind::Misconfigured, "start postgres").because(self.log()));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    fn end(&mut self, signal: Signal) -> Result<()> {
        let log = self.log_file();
        end(&mut self.process, signal, "postgres", PATIENCE, &log)
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    fn log_file(&self) -> PathBuf {
        self.directory.path().join("log")
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        // SIGQUIT ends at once and without a checkpoint.
        drop(self.end(Signal::QUIT));
        if let Some(mut process) = self.process.take() {
            // It takes too long. The watchdog waits until the process is gone, which a child that ended is not before it is waited for.
            drop(process.kill());
            drop(process.wait());
        }
        drop(self.watchdog.stdin.take());
        drop(self.watchdog.wait());
    }
}

/// The folder of a fresh cluster of this version, made once for all tests and processes.
fn template(version: Version) -> Result<PathBuf> {
    let initdb = version.programs().join("initdb");
    if !initdb.exists() {
        return Err(not_installed(version, &format!("there is no {}", initdb.display())));
    }
    if geteuid().is_root() && postgres_user().is_none() {
        return Err(not_installed(version, "root cannot run it, and there is no user postgres"));
    }
    let folder = cache_dir().join("initdb");
    fs::create_dir_all(&folder).map_err(|error| failed("make the cache folder", error))?;
    own(&folder)?;
    let lock = File::create(folder.join("lock")).map_err(|error| failed("open the lock of the templates", error))?;
    lock.lock().map_err(|error| failed("lock the templates", error))?;
    let built = fs::metadata(version.programs().join("postgres")).map_err(|error| failed("look at postgres", error))?.mtime();
    // An upgraded server gets a new template.
    let template = folder.join(format!("{}-{built}", version.major()));
    if !template.exists() {
        let unfinished = folder.join(format!("{}-unfinished", version.major()));
        if unfinished.exists() {
            fs::remove_dir_all(&unfinished).map_err(|error| failed("remove an unfinished template", error))?;
        }
        run(unprivileged(initdb)?.arg("-D").arg(&unfinished).args([
            "-U",
            "postgres",
            "-A",
            "trust",
            "--no-locale",
            "-E",
            "UTF8",
            "--no-sync",
        ]))?;
        fs::rename(&unfinished, &template).map_err(|error| failed("name the template", error))?;
    }
    Ok(template)
}

fn not_installed(version: Version, why: &str) -> Error {
    Error::new(ErrorKind::Missing, format!("start PostgreSQL {}", version.major())).because(why).mend("scripts/install-test-servers")
}

/// A command that runs without root's rights.
fn unprivileged(program: impl AsRef<std::ffi::OsStr>) -> Result<Command> {
    if !geteuid().is_root() {
        return Ok(Command::new(program));
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--init-groups", "--"]).arg(program);
    // The folder that the tests run in may be closed to that user.
    command.current_dir("/");
    Ok(command)
}

/// User and group of the account that runs servers for root.
fn postgres_user() -> Option<(u32, u32)> {
    let accounts = fs::read_to_string("/etc/passwd").ok()?;
    let account = accounts.lines().find_map(|line| line.strip_prefix("postgres:"))?;
    let mut fields = account.split(':').skip(1);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

/// Gives `folder` to the user that runs the server.
fn own(folder: &Path) -> Result<()> {
    if geteuid().is_root()
        && let Some((user, group)) = postgres_user()
    {
        chown(folder, Some(user), Some(group)).map_err(|error| failed("give a folder to the user postgres", error))?;
    }
    // PostgreSQL asks for this of the folder of its data; the tests themselves must be able to write in it too.
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).map_err(|error| failed("close a folder to others", error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::required_or_skip;

    async fn started(version: Version) -> Option<PostgresServer> {
        required_or_skip(PostgresServer::start(version, &[]).await)
    }

    async fn text(client: &Client, query: &str) -> String {
        client.query_one(query, &[]).await.unwrap().get(0)
    }

    #[tokio::test]
    async fn every_version_starts_ready_for_logical_decoding() {
        for version in Version::ALL {
            let Some(server) = started(version).await else { continue };
            let client = server.connect("postgres").await.unwrap();
            assert_eq!(text(&client, "SHOW wal_level").await, "logical");
            assert!(text(&client, "SHOW server_version").await.starts_with(&version.major().to_string()));
            server.create_database("a \"quoted\" one").await.unwrap();
            server.connect("a \"quoted\" one").await.unwrap();
        }
    }

    #[tokio::test]
    async fn committed_rows_survive_a_restart_and_a_kill_on_the_same_port() {
        let Some(mut server) = started(Version::V15).await else { return };
        let port = server.port();
        server.connect("postgres").await.unwrap().batch_execute("CREATE TABLE t (a int); INSERT INTO t VALUES (1)").await.unwrap();
        server.restart().await.unwrap();
        server.connect("postgres").await.unwrap().batch_execute("INSERT INTO t VALUES (2)").await.unwrap();
        server.kill().unwrap();
        assert!(server.connect("postgres").await.is_err());
        server.start_again().await.unwrap();
        assert_eq!(server.port(), port);
        assert_eq!(text(&server.connect("postgres").await.unwrap(), "SELECT count(*)::text FROM t").await, "2");
    }

    #[tokio::test]
    async fn a_standby_follows_its_primary() {
        let Some(mut primary) = started(Version::V15).await else { return };
        let standby = primary.standby().await.unwrap();
        primary.connect("postgres").await.unwrap().batch_execute("CREATE TABLE t (a int)").await.unwrap();
        let client = standby.connect("postgres").await.unwrap();
        let deadline = Instant::now() + PATIENCE;
        while text(&client, "SELECT concat(pg_is_in_recovery(), to_regclass('t'))").await != "tt" {
            assert!(Instant::now() < deadline, "{}", standby.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    #[tokio::test]
    async fn a_dropped_server_leaves_neither_process_nor_folder() {
        let Some(server) = started(Version::V15).await else { return };
        let (pid, folder) = (server.pid(), server.directory().to_owned());
        drop(server);
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
        assert!(!folder.exists());
    }

    #[tokio::test]
    async fn the_watchdog_ends_a_server_whose_test_process_is_gone() {
        let Some(mut server) = started(Version::V15).await else { return };
        let folder = server.directory().to_owned();
        // What the kernel does with the pipe when the process dies.
        drop(server.watchdog.stdin.take());
        let mut process = server.process.take().unwrap();
        tokio::task::spawn_blocking(move || process.wait()).await.unwrap().unwrap();
        server.watchdog.wait().unwrap();
        assert!(!folder.exists());
    }

    #[tokio::test]
    async fn a_setting_that_the_server_refuses_is_shown_with_its_log() {
        let Some(server) = started(Version::V15).await else { return };
        drop(server);
        let error = PostgresServer::start(Version::V15, &[("wal_level", "no_such_level")]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Misconfigured);
        assert!(error.to_string().contains("no_such_level"), "{error}");
    }
}
