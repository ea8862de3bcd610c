//! Clients that only ask, and the first question to a cluster.
//!
//! librdkafka tries every connection again for ever, and a call that waits for an answer ends by its timeout, whatever keeps brokers
//! from answering. Why a connection fails comes as an event of its own. An observer keeps the event that no further try mends, wrong
//! credentials or a certificate that nobody trusts, so that who asks first is told that and not that time is up.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::client::{ClientContext, OAuthToken};
use rdkafka::config::{FromClientConfigAndContext as _, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{DeliveryResult, ProducerContext};
use tailwater_api::{Error, ErrorKind, Result};

use super::client::token::unsecured;
use super::contents::OFFSETS;
use super::errors::{failed, refused};
use super::{PATIENCE, blocking, log};

/// How long one question waits before events are looked at.
const QUESTION: Duration = Duration::from_millis(500);
/// Pause between two looks at the events of a client that nobody polls.
const EVENTS: Duration = Duration::from_secs(1);

/// A client that only asks.
pub type ObservingClient = BaseConsumer<Observer>;

/// The context of clients that only ask, or write what others wait for.
#[derive(Default)]
pub struct Observer {
    /// Why brokers refuse the connection, or else why it last failed
    failure: Mutex<Option<(KafkaError, String)>>,
}

impl ClientContext for Observer {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log(level, facility, message);
        // A connection that ends after it was made is told of here alone.
        if facility == "FAIL" {
            self.note(KafkaError::Global(RDKafkaErrorCode::BrokerTransportFailure), message);
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!("Kafka cannot be asked at the moment: {reason}");
        self.note(error, reason);
    }

    fn generate_oauth_token(&self, config: Option<&str>) -> Result<OAuthToken, Box<dyn std::error::Error>> {
        unsecured(config)
    }
}

impl ConsumerContext for Observer {}

impl ProducerContext for Observer {
    type DeliveryOpaque = ();

    fn delivery(&self, _: &DeliveryResult<'_>, (): ()) {}
}

impl Observer {
    fn note(&self, error: KafkaError, reason: &str) {
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        let is_refused = |error: &KafkaError, reason: &str| refused("ask", error, reason).is_some();
        let says_more = failure.as_ref().is_none_or(|(known, why)| is_refused(&error, reason) || !is_refused(known, why));
        // That no broker is left comes behind every failure, and says nothing.
        if says_more && error.rdkafka_error_code() != Some(RDKafkaErrorCode::AllBrokersDown) {
            *failure = Some((error, reason.to_owned()));
        }
    }

    fn refusal(&self, doing: &str) -> Option<Error> {
        let failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.as_ref().and_then(|(error, reason)| refused(doing, error, reason))
    }

    /// Why the connection last failed.
    fn reason(&self) -> Option<String> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(|(_, reason)| reason.clone())
    }
}

/// Makes a client that only asks.
///
/// # Errors
/// librdkafka refuses its settings.
pub fn observing_client(config: &ClientConfig) -> Result<ObservingClient> {
    let client = ObservingClient::from_config_and_context(config, Observer::default());
    let client = client.map_err(|error| failed("make a Kafka client", &error))?;
    // A token that it needs is asked for by an event.
    serve_events(&client);
    Ok(client)
}

fn serve_events(client: &ObservingClient) {
    // It reads nothing: what comes are events, which its context has seen by now.
    while client.poll(Duration::ZERO).is_some() {}
}

/// Connects to the cluster that `config` names, and says its identity. The events of the client are looked at as long as it lives.
///
/// # Errors
/// `unauthorised` where brokers refuse the connection, `unreachable` or `timed-out` where none answers.
pub async fn connect(config: &ClientConfig) -> Result<(Arc<ObservingClient>, String)> {
    let servers = config.get("bootstrap.servers").unwrap_or_default().to_owned();
    let client = Arc::new(observing_client(config)?);
    let asked = Arc::clone(&client);
    let cluster = blocking(move || {
        let doing = format!("connect to Kafka at {servers}");
        let deadline = Instant::now() + PATIENCE;
        // Any question shows whether the brokers answer, and if not, why.
        while let Err(error) = asked.fetch_metadata(Some(OFFSETS), QUESTION) {
            serve_events(&asked);
            if let Some(refusal) = asked.client().context().refusal(&doing) {
                return Err(refusal);
            }
            if Instant::now() > deadline {
                let failed = failed(doing, &error);
                return Err(match asked.client().context().reason() {
                    Some(reason) => failed.because(reason),
                    None => failed,
                });
            }
        }
        let cluster = asked.client().fetch_cluster_id(PATIENCE);
        cluster.ok_or_else(|| Error::new(ErrorKind::Unreachable, doing).because("no broker has said the identity of its cluster"))
    });
    let cluster = cluster.await?;
    let served = Arc::downgrade(&client);
    tokio::spawn(async move {
        while let Some(client) = served.upgrade() {
            serve_events(&client);
            // The last owner drops it off the async threads; this is never the last for long.
            drop(client);
            tokio::time::sleep(EVENTS).await;
        }
    });
    Ok((client, cluster))
}
