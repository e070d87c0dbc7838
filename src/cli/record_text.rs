//! A record as a line of text: JSON for programs, tab-separated for people.
//!
//! Written by hand into one buffer, without a value tree: reading is as fast as this is.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::time;
use crate::record::Record;
use crate::types::PartitionId;

/// Writes records of one topic.
pub(super) struct RecordText {
    /// The topic's name as JSON text.
    topic: String,
}

impl RecordText {
    /// Begins with the topic's name, `None` where it is not known.
    pub(super) fn new(topic: Option<&str>) -> Self {
        Self {
            topic: serde_json::Value::from(topic).to_string(),
        }
    }

    /// Appends `{"topic","partition","offset","timestamp_ms","key","value","headers"}` and a newline. What is not UTF-8
    /// stands as `key_base64`, `value_base64`.
    pub(super) fn json(&self, out: &mut Vec<u8>, partition: Option<PartitionId>, record: &Record) {
        out.extend_from_slice(b"{\"topic\":");
        out.extend_from_slice(self.topic.as_bytes());
        out.extend_from_slice(b",\"partition\":");
        number(out, partition.map(|partition| i64::from(partition.0)));
        out.extend_from_slice(b",\"offset\":");
        number(out, Some(record.offset.0));
        out.extend_from_slice(b",\"timestamp_ms\":");
        number(out, record.timestamp.map(|time| time.0));
        out.push(b',');
        field(out, "key", record.key.as_deref());
        out.push(b',');
        field(out, "value", record.value.as_deref());
        out.extend_from_slice(b",\"headers\":[");
        for (index, header) in record.headers.iter().enumerate() {
            out.extend_from_slice(if index == 0 { b"{" } else { b",{" });
            field(out, "key", Some(&header.key));
            out.push(b',');
            field(out, "value", header.value.as_deref());
            out.push(b'}');
        }
        out.extend_from_slice(b"]}\n");
    }
}

/// Appends `partition:offset`, time, key and value, with tabs between and a newline; null is `-`, and control characters are
/// escaped, so that a record is a line whatever it holds.
pub(super) fn plain(out: &mut Vec<u8>, partition: PartitionId, record: &Record) {
    let time = record.timestamp.map_or_else(|| "-".to_owned(), time::format);
    out.extend_from_slice(format!("{partition}:{}\t{time}\t", record.offset).as_bytes());
    visible(out, record.key.as_deref());
    out.push(b'\t');
    visible(out, record.value.as_deref());
    out.push(b'\n');
}

fn number(out: &mut Vec<u8>, value: Option<i64>) {
    match value {
        Some(value) => out.extend_from_slice(itoa(value, &mut [0; 20])),
        None => out.extend_from_slice(b"null"),
    }
}

/// Writes a number into the end of `buffer`: the longest has 20 characters.
fn itoa(value: i64, buffer: &mut [u8; 20]) -> &[u8] {
    let mut at = buffer.len();
    let mut rest = value.unsigned_abs();
    loop {
        at -= 1;
        buffer[at] = b'0' + u8::try_from(rest % 10).expect("a digit");
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if value < 0 {
        at -= 1;
        buffer[at] = b'-';
    }
    &buffer[at..]
}

fn field(out: &mut Vec<u8>, name: &str, value: Option<&[u8]>) {
    out.push(b'"');
    out.extend_from_slice(name.as_bytes());
    match value.map(|bytes| (bytes, std::str::from_utf8(bytes))) {
        None => out.extend_from_slice(b"\":null"),
        Some((_, Ok(text))) => {
            out.extend_from_slice(b"\":");
            serde_json::to_writer(out, text).expect("text is written to memory without fail");
        }
        Some((bytes, Err(_))) => {
            out.extend_from_slice(b"_base64\":\"");
            out.extend_from_slice(STANDARD.encode(bytes).as_bytes());
            out.push(b'"');
        }
    }
}

fn visible(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    let Some(bytes) = bytes else {
        out.push(b'-');
        return;
    };
    for c in String::from_utf8_lossy(bytes).chars() {
        if c.is_control() {
            out.extend_from_slice(c.escape_default().to_string().as_bytes());
        } else {
            out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use expect_test::{Expect, expect};
    use proptest::prelude::*;

    use super::*;
    use crate::record::Header;
    use crate::types::{Offset, Timestamp};

    fn record(key: Option<&'static [u8]>, value: Option<&'static [u8]>) -> Record {
        Record {
            offset: Offset(42),
            timestamp: Some(Timestamp(1_357_035_300_000)),
            key: key.map(Bytes::from_static),
            value: value.map(Bytes::from_static),
            headers: Vec::new(),
        }
    }

    fn json(record: &Record) -> String {
        let mut out = Vec::new();
        RecordText::new(Some("t")).json(&mut out, Some(PartitionId(3)), record);
        String::from_utf8(out).expect("JSON is UTF-8")
    }

    fn check(record: &Record, expected: &Expect) {
        expected.assert_eq(&json(record));
    }

    #[test]
    fn a_record_is_one_object_with_texts_where_they_are_utf8() {
        check(
            &record(Some(b"k\"1"), Some(b"a\nb")),
            &expect![[r#"
            {"topic":"t","partition":3,"offset":42,"timestamp_ms":1357035300000,"key":"k\"1","value":"a\nb","headers":[]}
        "#]],
        );
        check(
            &record(None, None),
            &expect![[r#"
            {"topic":"t","partition":3,"offset":42,"timestamp_ms":1357035300000,"key":null,"value":null,"headers":[]}
        "#]],
        );
        check(
            &record(Some(b"\xff\x00"), Some(b"")),
            &expect![[r#"
            {"topic":"t","partition":3,"offset":42,"timestamp_ms":1357035300000,"key_base64":"/wA=","value":"","headers":[]}
        "#]],
        );
    }

    #[test]
    fn headers_keep_their_order_and_nulls() {
        let mut record = record(None, Some(b"v"));
        let header = |key: &'static [u8], value: Option<&'static [u8]>| Header {
            key: Bytes::from_static(key),
            value: value.map(Bytes::from_static),
        };
        record.timestamp = None;
        record.headers = vec![
            header(b"a", Some(b"1")),
            header(b"a", None),
            header(b"", Some(b"\xfe")),
        ];
        check(
            &record,
            &expect![[r#"
            {"topic":"t","partition":3,"offset":42,"timestamp_ms":null,"key":null,"value":"v","headers":[{"key":"a","value":"1"},{"key":"a","value":null},{"key":"","value_base64":"/g=="}]}
        "#]],
        );
    }

    #[test]
    fn plain_text_keeps_a_record_on_one_line() {
        let mut out = Vec::new();
        plain(
            &mut out,
            PartitionId(3),
            &record(None, Some("a\n\tü\x1b[0m".as_bytes())),
        );
        let text = String::from_utf8(out).expect("text");
        assert_eq!(text, "3:42\t2013-01-01T10:15:00.000Z\t-\ta\\n\\tü\\u{1b}[0m\n");
    }

    proptest! {
        #[test]
        fn any_record_parses_as_json_and_says_what_it_holds(
            offset: i64,
            timestamp: Option<i64>,
            key: Option<Vec<u8>>,
            value: Option<String>,
        ) {
            let record = Record {
                offset: Offset(offset),
                timestamp: timestamp.map(Timestamp),
                key: key.clone().map(Bytes::from),
                value: value.clone().map(Bytes::from),
                headers: Vec::new(),
            };
            let parsed: serde_json::Value = serde_json::from_str(&json(&record)).expect("it is JSON");
            prop_assert_eq!(&parsed["offset"], offset);
            prop_assert_eq!(&parsed["timestamp_ms"], &serde_json::json!(timestamp));
            prop_assert_eq!(&parsed["value"], &serde_json::json!(value));
            let found = match (parsed["key"].as_str(), parsed["key_base64"].as_str()) {
                (Some(text), None) => Some(text.as_bytes().to_vec()),
                (None, Some(text)) => Some(STANDARD.decode(text).expect("base64")),
                _ => None,
            };
            prop_assert_eq!(found, key);
        }
    }
}
