//! Requests to a source that runs: to read tables again, to pause that, to say something in the log.
//!
//! They have Debezium's form (3.6, "Sending signals to a Debezium connector"): an id, a type, and data, which is a JSON object. They
//! come in over several channels. Those of the daemon (its REST API, a topic) reach a source through
//! [`SourceContext::take_signals`](crate::source::SourceContext::take_signals); others (a table, a file) a source reads itself.

use serde_json::Value;
use tokio::sync::oneshot;

use crate::error::Result;

/// A signal as it came in, not understood yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signal {
    /// What notifications and progress name it by
    pub id: String,
    /// Its type: `execute-snapshot`
    pub kind: String,
    /// A JSON object, or nothing
    pub data: String,
}

impl Signal {
    /// Reads `{"id": …, "type": …, "data": {…}}`, as files and topics hold it. The data may also be a text, as the signalling table has
    /// it, or missing.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn from_json(octets: &[u8]) -> std::result::Result<Self, String> {
        let mut members = match serde_json::from_slice(octets) {
            Ok(Value::Object(members)) => members,
            Ok(_) => return Err("it is no JSON object".to_owned()),
            Err(error) => return Err(format!("it is no JSON: {error}")),
        };
        let (Some(Value::String(id)), Some(Value::String(kind))) = (members.remove("id"), members.remove("type")) else {
            return Err("it has no id or no type, which are texts".to_owned());
        };
        let data = match members.remove("data") {
            None | Some(Value::Null) => String::new(),
            Some(Value::String(text)) => text,
            Some(value) => value.to_string(),
        };
        Ok(Self { id, kind, data })
    }
}

/// A signal whose sender waits for an answer.
#[derive(Debug)]
pub struct SignalRequest {
    /// What is asked for
    pub signal: Signal,
    answer: oneshot::Sender<Result<()>>,
}

impl SignalRequest {
    /// The request, and where its answer comes. The answer is good once the source will carry out the signal even after
    /// a crash; no answer comes where the source ends before.
    #[must_use]
    pub fn new(signal: Signal) -> (Self, oneshot::Receiver<Result<()>>) {
        let (answer, answered) = oneshot::channel();
        (Self { signal, answer }, answered)
    }

    /// Whether nobody waits for the answer any more: then the signal is not carried out.
    #[must_use]
    pub fn is_abandoned(&self) -> bool {
        self.answer.is_closed()
    }

    /// Answers.
    pub fn answer(self, result: Result<()>) {
        // Who asked may have gone away meanwhile.
        let _ = self.answer.send(result);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_is_an_object_with_id_type_and_data() {
        let signal = |text: &str| Signal::from_json(text.as_bytes());
        let read = signal(r#"{"id": "1", "type": "log", "data": {"message": "x", "level": 2}}"#).unwrap();
        assert_eq!(read, Signal { id: "1".into(), kind: "log".into(), data: r#"{"message":"x","level":2}"#.into() });
        assert_eq!(signal(r#"{"id": "1", "type": "log", "data": "{}"}"#).unwrap().data, "{}");
        for none in [r#"{"id": "1", "type": "pause-snapshot"}"#, r#"{"id": "1", "type": "pause-snapshot", "data": null}"#] {
            assert_eq!(signal(none).unwrap().data, "");
        }
        for wrong in ["", "[]", "{", r#"{"id": 1, "type": "log"}"#, r#"{"id": "1"}"#, r#"{"type": "log"}"#] {
            assert!(signal(wrong).is_err(), "{wrong}");
        }
    }
}
