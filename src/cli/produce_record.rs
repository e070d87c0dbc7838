//! What a line of input becomes: a record, nothing, or an error with its reason.
//!
//! `lines`: the whole line is the value; with a separator, what lies before its first place is the key, and a value that is the
//! null text makes a tombstone. `json`: the line is one JSON object and, unchanged, the value; key and timestamp may come out
//! of its fields. Only the newline is taken off. A line need not be text, except JSON.

use std::borrow::Cow;

use super::json_line::{self, Scalar};
use super::{CliError, time};
use crate::types::Timestamp;

/// What a line is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, clap::ValueEnum)]
pub(super) enum Format {
    /// A value, as it stands before the newline; any bytes
    #[default]
    Lines,
    /// One JSON object, kept byte for byte as the value
    Json,
}

/// What to do with a line that has no key though one was asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, clap::ValueEnum)]
pub(super) enum OnMissingKey {
    /// Stop
    Fail,
    /// Leave the line out
    Skip,
    /// Write a record without a key
    #[default]
    Keyless,
}

/// How lines are read.
#[derive(clap::Args, Debug, Default)]
pub(super) struct RecordRules {
    /// What a line is
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    format: Format,
    /// Of JSON lines: the field whose text, or number as written, is the key
    #[arg(long, value_name = "FIELD")]
    key_field: Option<String>,
    /// Of JSON lines: the field with the record's time, RFC 3339 or milliseconds since the epoch
    #[arg(long, value_name = "FIELD")]
    timestamp_field: Option<String>,
    /// Of plain lines: the text between key and value; \t is a tab
    #[arg(long, value_name = "TEXT")]
    key_separator: Option<String>,
    /// Of plain lines with a key: a value that reads so is null, which makes a tombstone; '' is the empty value
    #[arg(long, value_name = "TEXT")]
    null_value: Option<String>,
    /// What to do with a line whose key is missing or null; without it, keyless
    #[arg(long, value_enum, value_name = "WHAT")]
    on_missing_key: Option<OnMissingKey>,
}

/// A line's record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct LineRecord<'line> {
    pub(super) key: Option<Cow<'line, [u8]>>,
    /// `None` is a tombstone.
    pub(super) value: Option<&'line [u8]>,
    pub(super) timestamp: Option<Timestamp>,
}

impl RecordRules {
    /// Checks that the flags go together, and reads the separator's escapes.
    pub(super) fn checked(mut self) -> Result<Self, CliError> {
        let usage = |text: &str| Err(CliError::Usage(text.to_owned()));
        match self.format {
            Format::Lines if self.key_field.is_some() => usage("--key-field needs --format json"),
            Format::Lines if self.timestamp_field.is_some() => usage("--timestamp-field needs --format json"),
            Format::Json if self.key_separator.is_some() => usage("--key-separator needs --format lines"),
            _ if self.null_value.is_some() && self.key_separator.is_none() => {
                usage("--null-value needs --key-separator: a tombstone says which key is gone")
            }
            _ if self.key_separator.as_deref() == Some("") => usage("--key-separator is empty"),
            _ if self.on_missing_key.is_some() && !self.has_keys() => usage(
                "--on-missing-key needs keys: --key-field of JSON lines, or --key-separator of plain ones",
            ),
            _ => {
                self.key_separator = self.key_separator.map(|separator| separator.replace("\\t", "\t"));
                Ok(self)
            }
        }
    }

    fn has_keys(&self) -> bool {
        self.key_field.is_some() || self.key_separator.is_some()
    }

    /// Returns the line's record, or nothing when it is to be left out.
    ///
    /// # Errors
    /// Why the line cannot be a record.
    pub(super) fn record<'line>(&self, line: &'line [u8]) -> Result<Option<LineRecord<'line>>, String> {
        match self.format {
            Format::Lines => self.plain(line),
            Format::Json => self.json(line),
        }
    }

    fn plain<'line>(&self, line: &'line [u8]) -> Result<Option<LineRecord<'line>>, String> {
        let keyless = LineRecord {
            key: None,
            value: Some(line),
            timestamp: None,
        };
        let Some(separator) = &self.key_separator else {
            return Ok(Some(keyless));
        };
        let separator = separator.as_bytes();
        let Some(at) = line
            .windows(separator.len())
            .position(|window| window == separator)
        else {
            return self.keyless(keyless, || "the key separator is missing".to_owned());
        };
        let value = &line[at + separator.len()..];
        let is_null = self
            .null_value
            .as_deref()
            .is_some_and(|null| null.as_bytes() == value);
        Ok(Some(LineRecord {
            key: Some(Cow::Borrowed(&line[..at])),
            value: (!is_null).then_some(value),
            timestamp: None,
        }))
    }

    fn json<'line>(&self, line: &'line [u8]) -> Result<Option<LineRecord<'line>>, String> {
        let wanted = json_line::Wanted {
            first: self.key_field.as_deref(),
            second: self.timestamp_field.as_deref(),
        };
        let found =
            json_line::fields(line, wanted).map_err(|reason| format!("not a JSON object: {reason}"))?;
        let timestamp = match &self.timestamp_field {
            None => None,
            Some(field) => Some(timestamp(field, found.second.map(json_line::scalar))?),
        };
        let mut record = LineRecord {
            key: None,
            value: Some(line),
            timestamp,
        };
        let Some(field) = &self.key_field else {
            return Ok(Some(record));
        };
        record.key = match found.first.map(json_line::scalar) {
            None => return self.keyless(record, || format!("field {field:?} is missing")),
            Some(Scalar::Null) => return self.keyless(record, || format!("field {field:?} is null")),
            Some(Scalar::Text(Cow::Borrowed(text))) => Some(Cow::Borrowed(text.as_bytes())),
            Some(Scalar::Text(Cow::Owned(text))) => Some(Cow::Owned(text.into_bytes())),
            Some(Scalar::Number(text)) => Some(Cow::Borrowed(text.as_bytes())),
            Some(Scalar::Other(what)) => {
                return Err(format!("field {field:?} is {what}; a key is a text or a number"));
            }
        };
        Ok(Some(record))
    }

    fn keyless<'line>(
        &self,
        record: LineRecord<'line>,
        reason: impl FnOnce() -> String,
    ) -> Result<Option<LineRecord<'line>>, String> {
        match self.on_missing_key.unwrap_or_default() {
            OnMissingKey::Fail => Err(reason()),
            OnMissingKey::Skip => Ok(None),
            OnMissingKey::Keyless => Ok(Some(record)),
        }
    }
}

fn timestamp(field: &str, value: Option<Scalar<'_>>) -> Result<Timestamp, String> {
    const RIGHT: &str =
        "a time is like \"2013-01-03T12:00:00Z\" or milliseconds since the epoch, from 1970 on";
    let wrong = |what: &str| Err(format!("field {field:?} {what}; {RIGHT}"));
    match value {
        None => wrong("is missing"),
        Some(Scalar::Null) => wrong("is null"),
        Some(Scalar::Other(what)) => wrong(&format!("is {what}")),
        Some(Scalar::Text(text)) => match time::parse(&text) {
            Some(time) if time.0 >= 0 => Ok(time),
            _ => wrong(&format!("is {text:?}")),
        },
        Some(Scalar::Number(text)) => match text.parse() {
            Ok(ms) if ms >= 0 => Ok(Timestamp(ms)),
            _ => wrong(&format!("is {text}")),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(key: Option<&str>, timestamp: Option<&str>, on_missing_key: OnMissingKey) -> RecordRules {
        RecordRules {
            format: Format::Json,
            key_field: key.map(str::to_owned),
            timestamp_field: timestamp.map(str::to_owned),
            on_missing_key: Some(on_missing_key),
            ..RecordRules::default()
        }
    }

    fn lines(separator: Option<&str>, on_missing_key: OnMissingKey) -> RecordRules {
        let key_separator = separator.map(str::to_owned);
        RecordRules {
            on_missing_key: key_separator.is_some().then_some(on_missing_key),
            key_separator,
            ..RecordRules::default()
        }
        .checked()
        .expect("sound flags")
    }

    /// `key|value|timestamp` of the record, or what became of the line.
    fn check(rules: &RecordRules, line: &str, expected: &str) {
        let shown = match rules.record(line.as_bytes()) {
            Err(reason) => format!("error: {reason}"),
            Ok(None) => "skipped".to_owned(),
            Ok(Some(record)) => {
                let key = record
                    .key
                    .map_or("-".into(), |key| String::from_utf8_lossy(&key).into_owned());
                let timestamp = record.timestamp.map_or("-".into(), |time| time.to_string());
                let value = record
                    .value
                    .map_or("null".into(), |value| String::from_utf8_lossy(value).into_owned());
                format!("{key}|{value}|{timestamp}")
            }
        };
        assert_eq!(shown, expected, "{line}");
    }

    #[test]
    fn a_plain_line_is_the_value_to_the_last_byte() {
        check(&lines(None, OnMissingKey::Keyless), " a b\r", "-| a b\r|-");
        check(&lines(None, OnMissingKey::Fail), "", "-||-");
    }

    #[test]
    fn the_first_separator_divides_key_and_value() {
        check(
            &lines(Some("::"), OnMissingKey::Keyless),
            "a:b::c::d",
            "a:b|c::d|-",
        );
        check(&lines(Some("\\t"), OnMissingKey::Keyless), "k\tv", "k|v|-");
        check(&lines(Some(":"), OnMissingKey::Keyless), ":v", "|v|-");
    }

    #[test]
    fn a_value_that_is_the_null_text_makes_a_tombstone() {
        let null = |text: &str| RecordRules {
            null_value: Some(text.to_owned()),
            ..lines(Some(":"), OnMissingKey::Keyless)
        };
        check(&null("NULL"), "k:NULL", "k|null|-");
        check(&null("NULL"), "k:NULL ", "k|NULL |-");
        check(&null("NULL"), "k:", "k||-");
        check(&null(""), "k:", "k|null|-");
        check(&null("NULL"), "NULL", "-|NULL|-");
        let without_keys = RecordRules {
            null_value: Some(String::new()),
            ..RecordRules::default()
        };
        assert_eq!(
            without_keys.checked().expect_err("no keys").to_string(),
            "--null-value needs --key-separator: a tombstone says which key is gone"
        );
    }

    #[test]
    fn a_missing_key_does_what_was_asked() {
        check(&lines(Some(":"), OnMissingKey::Keyless), "v", "-|v|-");
        check(&lines(Some(":"), OnMissingKey::Skip), "v", "skipped");
        check(
            &lines(Some(":"), OnMissingKey::Fail),
            "v",
            "error: the key separator is missing",
        );
        check(
            &json(Some("k"), None, OnMissingKey::Keyless),
            r#"{"k":null}"#,
            r#"-|{"k":null}|-"#,
        );
        check(&json(Some("k"), None, OnMissingKey::Skip), "{}", "skipped");
        check(
            &json(Some("k"), None, OnMissingKey::Fail),
            "{}",
            "error: field \"k\" is missing",
        );
        check(
            &json(Some("k"), None, OnMissingKey::Fail),
            r#"{"k":null}"#,
            "error: field \"k\" is null",
        );
    }

    #[test]
    fn a_json_line_is_kept_and_gives_key_and_time() {
        let rules = json(Some("k"), Some("t"), OnMissingKey::Keyless);
        let line = r#"{ "t":"2013-01-01T10:15:00Z", "k":"N1" }"#;
        check(&rules, line, &format!("N1|{line}|1357035300000"));
        let line = r#"{"t":12,"k":1.50}"#;
        check(&rules, line, &format!("1.50|{line}|12"));
        check(&json(None, None, OnMissingKey::Fail), "{}", "-|{}|-");
    }

    #[test]
    fn a_field_of_the_wrong_kind_says_what_would_be_right() {
        let rules = json(Some("k"), Some("t"), OnMissingKey::Keyless);
        check(
            &rules,
            r#"{"t":1,"k":[]}"#,
            "error: field \"k\" is a list; a key is a text or a number",
        );
        for (value, what) in [
            ("", "is missing"),
            (r#""t":null"#, "is null"),
            (r#""t":"yesterday""#, "is \"yesterday\""),
            (r#""t":1.5"#, "is 1.5"),
            (r#""t":-1"#, "is -1"),
            (r#""t":"1969-12-31T23:59:59Z""#, "is \"1969-12-31T23:59:59Z\""),
        ] {
            let expected = format!(
                "error: field \"t\" {what}; a time is like \"2013-01-03T12:00:00Z\" or milliseconds since the epoch, from 1970 on"
            );
            check(&rules, &format!("{{{value}}}"), &expected);
        }
    }

    #[test]
    fn flags_that_do_not_go_together_are_refused() {
        let key_field = RecordRules {
            key_field: Some("k".to_owned()),
            ..RecordRules::default()
        };
        assert_eq!(
            key_field.checked().expect_err("lines").to_string(),
            "--key-field needs --format json"
        );
        let separator = RecordRules {
            key_separator: Some(String::new()),
            ..RecordRules::default()
        };
        assert_eq!(
            separator.checked().expect_err("empty").to_string(),
            "--key-separator is empty"
        );
        for format in [Format::Lines, Format::Json] {
            let keyless = RecordRules {
                format,
                on_missing_key: Some(OnMissingKey::Skip),
                ..RecordRules::default()
            };
            assert_eq!(
                keyless.checked().expect_err("no line can have a key").to_string(),
                "--on-missing-key needs keys: --key-field of JSON lines, or --key-separator of plain ones"
            );
        }
    }
}
