//! A record of a topic as one line of JSON: what `topic read` prints and `/topics/NAME/records` lists.
//!
//! `{"topic":…,"partition":0,"offset":12,"timestamp":1795227316955,"key":…,"value":…,"headers":[["name",…],…]}`: key,
//! value and header values are the exact bytes on the topic as a JSON string, `null` where there are none,
//! `{"base64":…}` where they are no UTF-8. The timestamp is in milliseconds since 1970 UTC.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::converters::ConvertedRecord;
use crate::topics::StoredRecord;

/// Appends the line without its end.
pub fn write(stored: &StoredRecord, converted: &ConvertedRecord, line: &mut String) {
    line.push_str("{\"topic\":");
    write_text(&stored.record.topic, line);
    let _ = write!(line, ",\"partition\":{},\"offset\":{},\"timestamp\":", stored.partition, stored.offset);
    match stored.record.timestamp {
        Some(timestamp) => drop(write!(line, "{timestamp}")),
        None => line.push_str("null"),
    }
    line.push_str(",\"key\":");
    write_bytes(converted.key.as_deref(), line);
    line.push_str(",\"value\":");
    write_bytes(converted.value.as_deref(), line);
    line.push_str(",\"headers\":[");
    for (number, (name, value)) in converted.headers.iter().enumerate() {
        line.push_str(if number == 0 { "[" } else { ",[" });
        write_text(name, line);
        line.push(',');
        write_bytes(value.as_deref(), line);
        line.push(']');
    }
    line.push_str("]}");
}

fn write_bytes(bytes: Option<&[u8]>, line: &mut String) {
    match bytes.map(|bytes| (bytes, std::str::from_utf8(bytes))) {
        None => line.push_str("null"),
        Some((_, Ok(text))) => write_text(text, line),
        Some((bytes, Err(_))) => {
            let _ = write!(line, "{{\"base64\":\"{}\"}}", STANDARD.encode(bytes));
        }
    }
}

fn write_text(text: &str, line: &mut String) {
    let _ = write!(line, "{}", serde_json::Value::from(text));
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use tailwater_api::{Record, SchemaAndValue};

    use super::*;

    #[test]
    fn a_line_has_the_documented_form() {
        let mut record = Record::new(Arc::from("shop.öffentlich.orders"), SchemaAndValue::NONE, SchemaAndValue::NONE);
        record.timestamp = Some(1_795_227_316_955);
        let stored = StoredRecord { partition: 0, offset: 12, record };
        let converted = ConvertedRecord {
            key: Some(Bytes::from_static(b"{\"id\":1}")),
            value: Some(Bytes::from_static(&[0xff, 0x00])),
            headers: vec![("h".into(), Some(Bytes::from_static(b"a\nb"))), ("n".into(), None)],
        };
        let mut line = String::new();
        write(&stored, &converted, &mut line);
        let expected = r#"{"topic":"shop.öffentlich.orders","partition":0,"offset":12,"timestamp":1795227316955,"key":"{\"id\":1}","value":{"base64":"/wA="},"headers":[["h","a\nb"],["n",null]]}"#;
        assert_eq!(line, expected);
    }

    #[test]
    fn nothing_and_empty_are_told_apart() {
        let record = Record::new(Arc::from("t"), SchemaAndValue::NONE, SchemaAndValue::NONE);
        let stored = StoredRecord { partition: 3, offset: 0, record };
        let converted = ConvertedRecord { key: Some(Bytes::new()), value: None, headers: Vec::new() };
        let mut line = String::new();
        write(&stored, &converted, &mut line);
        assert_eq!(line, r#"{"topic":"t","partition":3,"offset":0,"timestamp":null,"key":"","value":null,"headers":[]}"#);
    }
}
