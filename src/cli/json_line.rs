//! Two fields out of a line of JSON, without building the rest.
//!
//! The line must be one whole JSON object; a field is looked for at its top level, and the last of a name counts. A
//! number's text stands as it is written, so `1.10` is not `1.1`.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

/// The names of the fields wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Wanted<'a> {
    pub(super) first: Option<&'a str>,
    pub(super) second: Option<&'a str>,
}

/// The fields found, as their JSON text.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Found<'line> {
    pub(super) first: Option<&'line RawValue>,
    pub(super) second: Option<&'line RawValue>,
}

/// Reads `line`.
///
/// # Errors
/// The line is not one JSON object; the text says what and at which column.
pub(super) fn fields<'line>(line: &'line [u8], wanted: Wanted<'_>) -> Result<Found<'line>, String> {
    // Asked here, since what is skipped is not looked at by the JSON reader.
    let line = std::str::from_utf8(line)
        .map_err(|error| format!("not UTF-8 at column {}", error.valid_up_to() + 1))?;
    let mut json = serde_json::Deserializer::from_str(line);
    let found = json
        .deserialize_map(Fields { wanted })
        .and_then(|found| json.end().map(|()| found));
    found.map_err(|error| {
        // The reader counts lines within this one line; its user counts them within the input.
        let text = error.to_string();
        let reason = text.split(" at line ").next().unwrap_or(&text).to_owned();
        format!("{reason} at column {}", error.column())
    })
}

/// A field's value, as far as keys and times may be told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Scalar<'a> {
    Null,
    Text(Cow<'a, str>),
    /// As it is written.
    Number(&'a str),
    /// Anything else: what it is called.
    Other(&'static str),
}

/// Reads a field's value.
pub(super) fn scalar(value: &RawValue) -> Scalar<'_> {
    let text = value.get();
    match text.as_bytes().first() {
        Some(b'n') => Scalar::Null,
        Some(b'"') => match text[1..text.len() - 1].contains('\\') {
            false => Scalar::Text(Cow::Borrowed(&text[1..text.len() - 1])),
            true => match serde_json::from_str::<String>(text) {
                Ok(text) => Scalar::Text(Cow::Owned(text)),
                Err(_) => Scalar::Other("a text with a broken escape"),
            },
        },
        Some(b'-' | b'0'..=b'9') => Scalar::Number(text),
        Some(b'{') => Scalar::Other("an object"),
        Some(b'[') => Scalar::Other("a list"),
        _ => Scalar::Other("a truth value"),
    }
}

struct Fields<'a> {
    wanted: Wanted<'a>,
}

impl<'de> Visitor<'de> for Fields<'_> {
    type Value = Found<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = Found::default();
        while let Some(Name(name)) = map.next_key()? {
            let name = Some(&*name);
            let (first, second) = (self.wanted.first == name, self.wanted.second == name);
            if first || second {
                let value = map.next_value::<&RawValue>()?;
                found.first = if first { Some(value) } else { found.first };
                found.second = if second { Some(value) } else { found.second };
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }
}

/// A name in an object, borrowed where it has no escapes.
#[derive(serde::Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(line: &str, expected: &[Scalar<'_>]) {
        let wanted = Wanted {
            first: Some("k"),
            second: Some("t"),
        };
        let found = fields(line.as_bytes(), wanted).expect("it is an object");
        let found: Vec<_> = [found.first, found.second]
            .into_iter()
            .flatten()
            .map(scalar)
            .collect();
        assert_eq!(found, expected, "{line}");
    }

    fn error(line: &[u8]) -> String {
        fields(line, Wanted::default()).expect_err("it is not an object")
    }

    #[test]
    fn fields_are_found_at_the_top_level_whatever_stands_around_them() {
        check(
            r#"{"a":{"k":1},"k":"v","t":12,"z":[1,{"t":2}]}"#,
            &[Scalar::Text("v".into()), Scalar::Number("12")],
        );
        check(
            r#" { "k" : null , "t" : 1.10 } "#,
            &[Scalar::Null, Scalar::Number("1.10")],
        );
        check("{}", &[]);
        check(r#"{"k":1,"k":2}"#, &[Scalar::Number("2")]);
        check(r#"{"\u006b":"a\"\u00e9"}"#, &[Scalar::Text("a\"é".into())]);
        check(
            r#"{"k":[],"t":{}}"#,
            &[Scalar::Other("a list"), Scalar::Other("an object")],
        );
        check(r#"{"k":true}"#, &[Scalar::Other("a truth value")]);
    }

    #[test]
    fn a_line_that_does_not_parse_says_what_and_where() {
        assert_eq!(error(b""), "EOF while parsing a value at column 0");
        assert_eq!(error(b"{\"a\":1"), "EOF while parsing an object at column 6");
        assert_eq!(error(b"{\"a\":1} x"), "trailing characters at column 9");
        assert_eq!(
            error(b"[1]"),
            "invalid type: sequence, expected a JSON object at column 0"
        );
    }

    #[test]
    fn bytes_that_are_not_utf8_do_not_parse() {
        assert_eq!(error(b"{\"a\":\"\xff\"}"), "not UTF-8 at column 7");
    }

    proptest! {
        #[test]
        fn a_key_of_any_text_comes_back(key: String, before: i64) {
            let line = serde_json::json!({ "x": before, "k": key }).to_string();
            let found = fields(line.as_bytes(), Wanted { first: Some("k"), second: None }).expect("it is an object");
            prop_assert_eq!(found.first.map(scalar), Some(Scalar::Text(key.into())));
        }

        #[test]
        fn any_bytes_parse_or_are_refused(line: Vec<u8>) {
            let _ = fields(&line, Wanted { first: Some("k"), second: Some("k") });
        }
    }
}
