//! One object of a ledger: the frame around a change, or around everything.
//!
//! ```text
//!  0 magic, 8 bytes "SILTLEDG"          32 number u64, as in the key
//!  8 format version u16 = 1             40 number of the newest snapshot up to here u64
//! 10 kind u8: 1 epochs, 2 catalog,      48 written at i64, ms
//!    3 manifest                         56 CRC-32 of the object before it u32, 0 for the first
//! 11 form u8: 1 delta, 2 snapshot       60 body bytes u32
//! 12 epoch of the writer i32            64 body: a delta has its edits, a snapshot what all edits up to and
//! 16 writer, 16 bytes                      including its own number come to
//!                                          CRC-32 of everything before u32; all numbers big-endian
//! ```
//!
//! The **writer** is drawn at random at every start of a server: two servers never write equal bytes, so a put whose answer was
//! lost is told from a put that somebody else won.
//!
//! Invariants
//! - A frame is at most [`MAX_LEN`] long; a reader fetches no more.
//! - Decoding any bytes does not panic and copies at most the body.
//!
//! What is not here: what a body says (`manifest`, `catalog`, `epoch`), or which number comes next ([`super::ledger`]).

use bytes::Bytes;

use crate::storage::Fields;
use crate::types::{LeaderEpoch, Timestamp};

/// Bytes of an object of a ledger at most: a snapshot of half a million segments.
pub(super) const MAX_LEN: usize = 256 << 20;

const MAGIC: [u8; 8] = *b"SILTLEDG";
const VERSION: u16 = 1;
const DELTA: u8 = 1;
const SNAPSHOT: u8 = 2;
const HEADER_LEN: usize = 64;
const CRC_LEN: usize = 4;
const _: () = assert!(8 + 2 + 1 + 1 + 4 + 16 + 8 + 8 + 8 + 4 + 4 == HEADER_LEN);

/// What a ledger is about.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum LedgerKind {
    /// Whose bucket it is, and the servers that have claimed it.
    Epochs,
    /// Topics.
    Catalog,
    /// Segments of a partition.
    Manifest,
}

impl LedgerKind {
    fn to_byte(self) -> u8 {
        match self {
            Self::Epochs => 1,
            Self::Catalog => 2,
            Self::Manifest => 3,
        }
    }

    fn of(byte: u8) -> Option<Self> {
        [Self::Epochs, Self::Catalog, Self::Manifest]
            .into_iter()
            .find(|kind| kind.to_byte() == byte)
    }
}

/// Who writes: drawn at random at every start.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WriterId(pub [u8; 16]);

impl std::fmt::Debug for WriterId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("WriterId(")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str(")")
    }
}

/// What the body is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    /// Edits to what the objects before come to.
    Delta,
    /// All of it.
    Snapshot,
}

/// One object of a ledger.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LedgerEntry {
    /// What the ledger is about.
    pub kind: LedgerKind,
    /// What the body is.
    pub form: Form,
    /// The writer's epoch.
    pub epoch: LeaderEpoch,
    /// The writer.
    pub writer: WriterId,
    /// Its number.
    pub number: u64,
    /// The number of the newest snapshot at or before it.
    pub snapshot: u64,
    /// When it was written, by the writer's clock.
    pub written: Timestamp,
    /// CRC-32 of the object before it; 0 for the first.
    pub previous_crc: u32,
    /// Edits, or everything.
    pub body: Bytes,
}

impl LedgerEntry {
    /// Returns the bytes.
    ///
    /// # Errors
    /// [`EntryDamage::TooLong`] when the body is longer than any reader takes.
    pub fn encode(&self) -> Result<Bytes, EntryDamage> {
        let len = HEADER_LEN + self.body.len() + CRC_LEN;
        if len > MAX_LEN {
            return Err(EntryDamage::TooLong { len });
        }
        let mut into = Vec::with_capacity(len);
        into.extend_from_slice(&MAGIC);
        into.extend_from_slice(&VERSION.to_be_bytes());
        into.push(self.kind.to_byte());
        into.push(match self.form {
            Form::Delta => DELTA,
            Form::Snapshot => SNAPSHOT,
        });
        into.extend_from_slice(&self.epoch.0.to_be_bytes());
        into.extend_from_slice(&self.writer.0);
        into.extend_from_slice(&self.number.to_be_bytes());
        into.extend_from_slice(&self.snapshot.to_be_bytes());
        into.extend_from_slice(&self.written.0.to_be_bytes());
        into.extend_from_slice(&self.previous_crc.to_be_bytes());
        let body = u32::try_from(self.body.len()).expect("at most 256 MiB");
        into.extend_from_slice(&body.to_be_bytes());
        into.extend_from_slice(&self.body);
        let crc = crc32fast::hash(&into);
        into.extend_from_slice(&crc.to_be_bytes());
        Ok(into.into())
    }

    /// Reads the bytes of an object of a ledger about `kind`.
    ///
    /// # Errors
    /// [`EntryDamage`] when they are not those that were written, or another object's.
    pub fn decode(bytes: &Bytes, kind: LedgerKind, number: u64) -> Result<Self, EntryDamage> {
        let len = bytes.len();
        if len > MAX_LEN {
            return Err(EntryDamage::TooLong { len });
        }
        let Some(checked) = len.checked_sub(CRC_LEN).filter(|checked| *checked >= HEADER_LEN) else {
            return Err(EntryDamage::Short { len });
        };
        let mut fields = Fields(bytes);
        if fields.array() != Some(MAGIC) {
            return Err(EntryDamage::Magic);
        }
        let version = fields.u16().ok_or(EntryDamage::Short { len })?;
        if version != VERSION {
            return Err(EntryDamage::Version { version });
        }
        let found = crc32fast::hash(&bytes[..checked]);
        let expected = Fields(&bytes[checked..])
            .u32()
            .ok_or(EntryDamage::Short { len })?;
        if expected != found {
            return Err(EntryDamage::Checksum { expected, found });
        }
        let entry = Self::fields(fields, bytes).ok_or(EntryDamage::Malformed)?;
        if entry.kind != kind || entry.number != number {
            return Err(EntryDamage::Stranger);
        }
        Ok(entry)
    }

    fn fields(mut fields: Fields<'_>, bytes: &Bytes) -> Option<Self> {
        let kind = LedgerKind::of(fields.u8()?)?;
        let form = match fields.u8()? {
            DELTA => Form::Delta,
            SNAPSHOT => Form::Snapshot,
            _ => return None,
        };
        let entry = Self {
            kind,
            form,
            epoch: LeaderEpoch(fields.i32()?),
            writer: WriterId(fields.array()?),
            number: fields.u64()?,
            snapshot: fields.u64()?,
            written: Timestamp(fields.i64()?),
            previous_crc: fields.u32()?,
            body: Bytes::new(),
        };
        let body = usize::try_from(fields.u32()?).ok()?;
        let is_own = entry.snapshot == entry.number;
        let sound = HEADER_LEN + body + CRC_LEN == bytes.len()
            && entry.snapshot <= entry.number
            && is_own == (form == Form::Snapshot)
            && entry.epoch.0 >= 0;
        sound.then(|| Self {
            body: bytes.slice(HEADER_LEN..HEADER_LEN + body),
            ..entry
        })
    }
}

/// Why bytes are not an object of a ledger. The layer above adds the key.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum EntryDamage {
    /// Shorter than its frame.
    #[error("{len} bytes are shorter than the frame of {}", HEADER_LEN + CRC_LEN)]
    Short {
        /// Its length in bytes.
        len: usize,
    },
    /// Longer than any.
    #[error("{len} bytes are longer than the {MAX_LEN} that an object of a ledger may have")]
    TooLong {
        /// Its length in bytes.
        len: usize,
    },
    /// Something else.
    #[error("it does not begin with the magic of a ledger")]
    Magic,
    /// A version we do not know.
    #[error("it has format version {version}, expected {VERSION}")]
    Version {
        /// What it has.
        version: u16,
    },
    /// Not the bytes that were written.
    #[error("it has crc {found:#010x}, expected {expected:#010x}")]
    Checksum {
        /// What it says.
        expected: u32,
        /// What its bytes give.
        found: u32,
    },
    /// Whole, and yet no sound one.
    #[error("its fields do not fit together")]
    Malformed,
    /// It lies under another's key.
    #[error("it is not the object that its key names")]
    Stranger,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry(body: &'static [u8]) -> LedgerEntry {
        LedgerEntry {
            kind: LedgerKind::Manifest,
            form: Form::Delta,
            epoch: LeaderEpoch(3),
            writer: WriterId([7; 16]),
            number: 65,
            snapshot: 64,
            written: Timestamp(1_700_000_000_000),
            previous_crc: 0xdead_beef,
            body: Bytes::from_static(body),
        }
    }

    #[test]
    fn what_was_written_is_read_and_any_changed_byte_is_found() {
        let written = entry(b"a body").encode().expect("short");
        let read =
            |bytes: &[u8]| LedgerEntry::decode(&Bytes::copy_from_slice(bytes), LedgerKind::Manifest, 65);
        assert_eq!(read(&written), Ok(entry(b"a body")));
        for at in 0..written.len() {
            let mut damaged = written.to_vec();
            damaged[at] ^= 1;
            assert!(read(&damaged).is_err(), "byte {at}");
            assert!(read(&written[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn an_object_under_anothers_key_is_a_stranger() {
        let written = entry(b"").encode().expect("short");
        let as_other = LedgerEntry::decode(&written, LedgerKind::Manifest, 64);
        assert_eq!(as_other, Err(EntryDamage::Stranger));
        let as_catalog = LedgerEntry::decode(&written, LedgerKind::Catalog, 65);
        assert_eq!(as_catalog, Err(EntryDamage::Stranger));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), sound_crc: bool) {
            let mut bytes = [&MAGIC[..], &VERSION.to_be_bytes(), &[3, 1], &bytes].concat();
            if sound_crc {
                let crc = crc32fast::hash(&bytes);
                bytes.extend_from_slice(&crc.to_be_bytes());
            }
            let _ = LedgerEntry::decode(&Bytes::from(bytes), LedgerKind::Manifest, 65);
        }
    }
}
