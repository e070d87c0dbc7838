//! `meta.properties`: whose data directory this is.
//!
//! ```text
//! cluster.id=MkU3OEVBNTcwNTJENDM2Qg       lines KEY=VALUE, a Java properties file: '#' and '!' begin comments,
//! directory.id=vPeXiV5lS3O1dZgmCPPUNg     '\' escapes and continues lines, ':' and white space separate too,
//! node.id=1                               one byte a character (ISO 8859-1), others as \uXXXX
//! version=1
//! ```
//!
//! Versions
//! - 1: `cluster.id` and `node.id` must be there; `directory.id` is Kafka's since 3.7.
//! - 0: of the ZooKeeper era, also when no version is told: `broker.id` in place of `node.id`, both ids may be missing.
//!
//! Invariants
//! - Keys that we do not know are kept and written again, as Kafka does with any line (`identity` warns of them); equal content makes equal bytes (sorted, no date).
//!
//! What it does not do: read or write files (`checkpoint::write_atomic`), or judge whether the directory is ours.

use std::collections::BTreeMap;
use std::fmt;

use super::uuid_text::{self, UuidTextError};

const VERSION: &str = "version";
const CLUSTER_ID: &str = "cluster.id";
const NODE_ID: &str = "node.id";
const BROKER_ID: &str = "broker.id";
const DIRECTORY_ID: &str = "directory.id";

/// The identity of one data directory, new when it is first used.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct DirectoryId(pub [u8; 16]);

impl fmt::Display for DirectoryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&uuid_text::encode(self.0))
    }
}

/// The number of a server in its cluster; never negative.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct NodeId(pub i32);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Which rules the file follows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MetaVersion {
    /// Of the ZooKeeper era.
    V0,
    /// Today's.
    V1,
}

/// The content of `meta.properties`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MetaProperties {
    /// Which rules the file follows.
    pub version: MetaVersion,
    /// The cluster; always there in version 1.
    pub cluster_id: Option<String>,
    /// The server; always there in version 1.
    pub node_id: Option<NodeId>,
    /// The directory.
    pub directory_id: Option<DirectoryId>,
    /// Keys that we do not know, with their values.
    pub other: BTreeMap<String, String>,
}

impl MetaProperties {
    /// Name of the file in the data directory.
    pub const FILE_NAME: &'static str = "meta.properties";

    /// Makes the content of a new data directory, of version 1.
    pub fn new(cluster_id: &str, node_id: NodeId, directory_id: DirectoryId) -> Self {
        Self {
            version: MetaVersion::V1,
            cluster_id: Some(cluster_id.to_owned()),
            node_id: Some(node_id),
            directory_id: Some(directory_id),
            other: BTreeMap::new(),
        }
    }

    /// Returns the file's bytes, keys sorted.
    pub fn encode(&self) -> Vec<u8> {
        let mut values = self.other.clone();
        let (version, node_key) = match self.version {
            MetaVersion::V0 => ("0", BROKER_ID),
            MetaVersion::V1 => ("1", NODE_ID),
        };
        values.insert(VERSION.to_owned(), version.to_owned());
        values.extend(self.cluster_id.clone().map(|id| (CLUSTER_ID.to_owned(), id)));
        values.extend(self.node_id.map(|id| (node_key.to_owned(), id.to_string())));
        values.extend(
            self.directory_id
                .map(|id| (DIRECTORY_ID.to_owned(), id.to_string())),
        );
        let mut text = String::new();
        for (key, value) in &values {
            escape(key, Spaces::All, &mut text);
            text.push('=');
            escape(value, Spaces::Leading, &mut text);
            text.push('\n');
        }
        text.into_bytes()
    }

    /// Reads the file's bytes.
    ///
    /// # Errors
    /// [`MetaPropertiesDamage`] names the key that is missing or wrong.
    pub fn decode(bytes: &[u8]) -> Result<Self, MetaPropertiesDamage> {
        let mut other = parse(bytes)?;
        let version = match other.remove(VERSION).as_deref() {
            None | Some("0") => MetaVersion::V0,
            Some("1") => MetaVersion::V1,
            Some(found) => {
                return Err(MetaPropertiesDamage::Version {
                    found: found.chars().take(20).collect(),
                });
            }
        };
        let node_key = match version {
            MetaVersion::V0 => BROKER_ID,
            MetaVersion::V1 => NODE_ID,
        };
        let node_id = other
            .remove(node_key)
            .map(|text| match text.parse::<i32>() {
                Ok(id) if id >= 0 => Ok(NodeId(id)),
                _ => Err(MetaPropertiesDamage::NodeId { key: node_key }),
            })
            .transpose()?;
        let directory_id = other
            .remove(DIRECTORY_ID)
            .map(|text| uuid_text::decode(&text).map(DirectoryId))
            .transpose()?;
        let cluster_id = other.remove(CLUSTER_ID);
        if version == MetaVersion::V1 {
            let missing = |key| MetaPropertiesDamage::Missing { key };
            cluster_id.as_ref().ok_or(missing(CLUSTER_ID))?;
            node_id.as_ref().ok_or(missing(NODE_ID))?;
        }
        Ok(Self {
            version,
            cluster_id,
            node_id,
            directory_id,
            other,
        })
    }
}

/// Reads a Java properties file; of a repeated key the last value counts.
fn parse(bytes: &[u8]) -> Result<BTreeMap<String, String>, MetaPropertiesDamage> {
    let mut values = BTreeMap::new();
    let mut lines = bytes.split(|byte| matches!(byte, b'\n' | b'\r'));
    while let Some(line) = lines.next() {
        let line = trimmed(line);
        if matches!(line.first(), None | Some(b'#' | b'!')) {
            continue;
        }
        let mut whole = line.to_vec();
        while continues(&whole) {
            whole.pop();
            // Between `\r` and `\n` lies an empty piece, which is no line of its own.
            match lines.find(|next| !next.is_empty()) {
                Some(next) => whole.extend_from_slice(trimmed(next)),
                None => break,
            }
        }
        let (key, value) = split(&whole);
        values.insert(unescape(key)?, unescape(value)?);
    }
    Ok(values)
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | 0x0c)
}

fn trimmed(line: &[u8]) -> &[u8] {
    let spaces = line.iter().take_while(|byte| is_space(**byte)).count();
    &line[spaces..]
}

/// True when an unescaped backslash ends the line.
fn continues(line: &[u8]) -> bool {
    line.iter().rev().take_while(|byte| **byte == b'\\').count() % 2 == 1
}

/// Splits at the first separator that is not escaped: `=` or `:` with white space around, or white space alone.
fn split(line: &[u8]) -> (&[u8], &[u8]) {
    let mut key_len = 0;
    while key_len < line.len() {
        match line[key_len] {
            b'\\' => key_len += 2,
            b'=' | b':' => break,
            byte if is_space(byte) => break,
            _ => key_len += 1,
        }
    }
    let (key, rest) = line.split_at(key_len.min(line.len()));
    let rest = trimmed(rest);
    let value = match rest.first() {
        Some(b'=' | b':') => trimmed(&rest[1..]),
        _ => rest,
    };
    (key, value)
}

fn unescape(bytes: &[u8]) -> Result<String, MetaPropertiesDamage> {
    let mut units = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'\\' {
            units.push(u16::from(byte));
            continue;
        }
        let Some((&escaped, after)) = rest.split_first() else {
            break;
        };
        rest = after;
        units.push(match escaped {
            b't' => u16::from(b'\t'),
            b'n' => u16::from(b'\n'),
            b'r' => u16::from(b'\r'),
            b'f' => 0x0c,
            b'u' => {
                let (digits, after) = rest.split_at_checked(4).ok_or(MetaPropertiesDamage::Escape)?;
                rest = after;
                hexadecimal(digits).ok_or(MetaPropertiesDamage::Escape)?
            }
            plain => u16::from(plain),
        });
    }
    Ok(String::from_utf16_lossy(&units))
}

fn hexadecimal(digits: &[u8]) -> Option<u16> {
    digits.iter().try_fold(0_u16, |value, byte| {
        let digit = char::from(*byte).to_digit(16)?;
        Some((value << 4) | u16::try_from(digit).ok()?)
    })
}

/// Which spaces of a text are escaped.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Spaces {
    /// All: the text is a key.
    All,
    /// Only those in front: the text is a value.
    Leading,
}

fn escape(text: &str, spaces: Spaces, into: &mut String) {
    let mut leading = true;
    for unit in text.encode_utf16() {
        leading &= unit == u16::from(b' ');
        match u8::try_from(unit) {
            Ok(b' ') if leading || spaces == Spaces::All => into.push_str("\\ "),
            Ok(b'\t') => into.push_str("\\t"),
            Ok(b'\n') => into.push_str("\\n"),
            Ok(b'\r') => into.push_str("\\r"),
            Ok(0x0c) => into.push_str("\\f"),
            Ok(byte @ (b'=' | b':' | b'#' | b'!' | b'\\')) => into.extend(['\\', char::from(byte)]),
            Ok(byte @ 0x20..=0x7e) => into.push(char::from(byte)),
            _ => into.push_str(&format!("\\u{unit:04X}")),
        }
    }
}

/// Why bytes are not a `meta.properties`. The layer above adds the file's path.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum MetaPropertiesDamage {
    /// A `\u` without four hexadecimal digits.
    #[error("meta properties have '\\u' without four hexadecimal digits")]
    Escape,
    /// A version we do not know.
    #[error("meta properties have version {found:?}, expected 0 or 1")]
    Version {
        /// What they have, at most 20 characters of it.
        found: String,
    },
    /// A key that version 1 must have.
    #[error("meta properties have no {key}")]
    Missing {
        /// The key.
        key: &'static str,
    },
    /// The server's number is none.
    #[error("meta properties have a {key} that is not a number from 0 to 2147483647")]
    NodeId {
        /// The key.
        key: &'static str,
    },
    /// The directory's id is none.
    #[error("meta properties have a bad directory.id: {0}")]
    DirectoryId(#[from] UuidTextError),
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GOLDEN: &str = "cluster.id=MkU3OEVBNTcwNTJENDM2Qg\n\
                          directory.id=vPeXiV5lS3O1dZgmCPPUNg\n\
                          node.id=1\n\
                          version=1\n";

    fn damage(text: &str) -> Option<String> {
        MetaProperties::decode(text.as_bytes())
            .err()
            .map(|damage| damage.to_string())
    }

    proptest! {
        #[test]
        fn everything_written_comes_back(
            cluster_id in ".{0,12}",
            node_id in 0..=i32::MAX,
            directory_id in any::<[u8; 16]>(),
            other in prop::collection::btree_map("x[\\PC \t\n=:#!\\\\]{0,8}", "[\\PC \t\n=:#!\\\\]{0,8}", 0..4),
        ) {
            let mut properties = MetaProperties::new(&cluster_id, NodeId(node_id), DirectoryId(directory_id));
            properties.other = other;
            prop_assert_eq!(MetaProperties::decode(&properties.encode()), Ok(properties));
        }

        #[test]
        fn any_bytes_are_read_or_refused_without_a_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            text in "([a-c.\\\\u0-9 =:#!\r\n\t]){0,60}",
        ) {
            let _ = MetaProperties::decode(&bytes);
            let _ = MetaProperties::decode(text.as_bytes());
        }
    }

    #[test]
    fn the_file_is_read_as_kafka_writes_it_and_written_alike() {
        let kafkas = format!("#\n#Sat Nov 21 10:00:00 UTC 2026\n{GOLDEN}");
        let properties = MetaProperties::decode(kafkas.as_bytes()).expect("Kafka's own form is read");
        assert_eq!(properties.cluster_id.as_deref(), Some("MkU3OEVBNTcwNTJENDM2Qg"));
        assert_eq!(properties.node_id, Some(NodeId(1)));
        assert_eq!(
            properties.directory_id.map(|id| id.to_string()).as_deref(),
            Some("vPeXiV5lS3O1dZgmCPPUNg")
        );
        assert_eq!(properties.encode(), GOLDEN.as_bytes());
    }

    #[test]
    fn the_older_version_is_read_and_unknown_keys_are_kept() {
        let text = "broker.id=7\ncustom.key=kept\n";
        let properties = MetaProperties::decode(text.as_bytes()).expect("read");
        assert_eq!(properties.version, MetaVersion::V0);
        assert_eq!(properties.node_id, Some(NodeId(7)));
        assert_eq!(properties.cluster_id, None);
        assert_eq!(
            String::from_utf8(properties.encode()).expect("text"),
            "broker.id=7\ncustom.key=kept\nversion=0\n"
        );
    }

    #[test]
    fn java_writes_the_same_value_in_many_ways() {
        let text = "  a = 1\n! comment\nb:2\r\nc 3\n d\\ d = x\\\r\n   y\\\n  z\\u0021\ne\n=f\nback\\\\=\\\\";
        let values = parse(text.as_bytes()).expect("sound");
        let pairs: Vec<_> = values
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()))
            .collect();
        assert_eq!(
            pairs,
            [
                ("", "f"),
                ("a", "1"),
                ("b", "2"),
                ("back\\", "\\"),
                ("c", "3"),
                ("d d", "xyz!"),
                ("e", "")
            ]
        );
    }

    #[test]
    fn values_are_escaped_as_java_does() {
        let mut properties = MetaProperties::decode(b"broker.id=7").expect("read");
        properties
            .other
            .insert("k k".to_owned(), "  a b=\u{e9}\u{1f600}\n".to_owned());
        assert_eq!(
            String::from_utf8(properties.encode()).expect("text"),
            "broker.id=7\nk\\ k=\\ \\ a b\\=\\u00E9\\uD83D\\uDE00\\n\nversion=0\n"
        );
    }

    #[test]
    fn damage_names_the_key() {
        assert_eq!(
            damage("version=2\n").as_deref(),
            Some("meta properties have version \"2\", expected 0 or 1")
        );
        assert_eq!(
            damage("version=1\nnode.id=1\n").as_deref(),
            Some("meta properties have no cluster.id")
        );
        assert_eq!(
            damage("version=1\ncluster.id=c\n").as_deref(),
            Some("meta properties have no node.id")
        );
        assert_eq!(
            damage("broker.id=-1\n").as_deref(),
            Some("meta properties have a broker.id that is not a number from 0 to 2147483647")
        );
        assert_eq!(
            damage("directory.id=x\n").as_deref(),
            Some("meta properties have a bad directory.id: an id has 22 characters, this one has 1")
        );
        assert_eq!(
            damage("a=\\u00\n").as_deref(),
            Some("meta properties have '\\u' without four hexadecimal digits")
        );
    }
}
