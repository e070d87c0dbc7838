//! Codecs: how the records of a batch are compressed, all of them into one stream.
//!
//! | attribute bits | name | framing written | framings read |
//! |---|---|---|---|
//! | 0 | `none` | - | - |
//! | 1 | `gzip` | one member | members back to back |
//! | 2 | `snappy` | xerial, chunks of 32 KiB | xerial, raw |
//! | 3 | `lz4` | frame, independent blocks of 64 KiB | frame, independent or linked blocks |
//! | 4 | `zstd` | frame | frames back to back |
//!
//! Invariants of decompression, over any bytes: no panic; the output never grows past the [`DecompressLimit`], and what is
//! allocated besides it is at most 13 MiB (three lz4 blocks of 4 MiB and their window); nothing may follow the stream.

mod gzip;
mod lz4;
mod snappy;
mod zstd;

use std::borrow::Cow;
use std::fmt;
use std::io::BufRead;
use std::ops::RangeInclusive;
use std::str::FromStr;

/// How the records of a batch are compressed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Codec {
    /// Not at all.
    #[default]
    None,
    /// RFC 1952.
    Gzip,
    /// Snappy, raw or in the chunks of the Java library.
    Snappy,
    /// The LZ4 frame format.
    Lz4,
    /// RFC 8878.
    Zstd,
}

/// The most bytes that the records of one batch may decompress to. It bounds memory: a batch that decompresses is held
/// whole.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct DecompressLimit(pub u32);

impl Codec {
    /// Every codec, in the order of its bits.
    pub const ALL: [Self; 5] = [Self::None, Self::Gzip, Self::Snappy, Self::Lz4, Self::Zstd];

    /// Returns the name that Kafka's settings use.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }

    /// Returns the compression levels to choose from, where the codec has them here: gzip 1 to 9, zstd -131072 to 22.
    /// Lz4 is written at its one fast level.
    pub fn levels(self) -> Option<RangeInclusive<i32>> {
        match self {
            Self::None | Self::Snappy | Self::Lz4 => None,
            Self::Gzip => Some(gzip::LEVELS),
            Self::Zstd => Some(zstd::LEVELS),
        }
    }

    /// Reads the codec bits of a batch's attributes; `None` where they name no codec.
    pub(super) fn from_attributes(bits: u16) -> Option<Self> {
        Self::ALL.get(usize::from(bits)).copied()
    }

    /// Returns the codec bits of a batch's attributes.
    pub(super) fn to_attributes(self) -> u16 {
        match self {
            Self::None => 0,
            Self::Gzip => 1,
            Self::Snappy => 2,
            Self::Lz4 => 3,
            Self::Zstd => 4,
        }
    }

    /// Decompresses the records of a batch; without a codec they are lent as they are, whatever the limit.
    pub(super) fn decompress(
        self,
        stream: &[u8],
        limit: DecompressLimit,
    ) -> Result<Cow<'_, [u8]>, CodecError> {
        let decompressed = match self {
            Self::None => return Ok(Cow::Borrowed(stream)),
            Self::Gzip => gzip::decompress(stream, limit),
            Self::Snappy => snappy::decompress(stream, limit),
            Self::Lz4 => lz4::decompress(stream, limit),
            Self::Zstd => zstd::decompress(stream, limit),
        };
        decompressed
            .map(Cow::Owned)
            .map_err(|fault| fault.of(self, limit))
    }

    /// Appends `records`, compressed, to `out`. A level outside the codec's range is taken as the nearest inside.
    pub(super) fn compress(self, level: Option<i32>, records: &[u8], out: &mut Vec<u8>) {
        let level = match (level, self.levels()) {
            (Some(level), Some(levels)) => Some(level.clamp(*levels.start(), *levels.end())),
            _ => None,
        };
        match self {
            Self::None => out.extend_from_slice(records),
            Self::Gzip => gzip::compress(level, records, out),
            Self::Snappy => snappy::compress(records, out),
            Self::Lz4 => lz4::compress(records, out),
            Self::Zstd => zstd::compress(level, records, out),
        }
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Codec {
    type Err = UnknownCodec;

    fn from_str(name: &str) -> Result<Self, UnknownCodec> {
        Self::ALL
            .into_iter()
            .find(|codec| codec.name() == name)
            .ok_or_else(|| UnknownCodec {
                name: name.to_owned(),
            })
    }
}

/// A name that is no codec's.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("'{name}' is not a codec, known are none, gzip, snappy, lz4 and zstd")]
pub struct UnknownCodec {
    /// The name as given.
    pub name: String,
}

/// Why records do not decompress.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CodecError {
    /// They are more than the limit allows; decompression stopped there.
    #[error("{codec} records are more than {limit_bytes} bytes when decompressed")]
    TooLarge {
        /// The batch's codec.
        codec: Codec,
        /// The limit.
        limit_bytes: u32,
    },
    /// They are not a stream of the codec.
    #[error("{codec} records are corrupt: {reason}")]
    Corrupt {
        /// The batch's codec.
        codec: Codec,
        /// What the codec's library found.
        reason: String,
    },
}

/// What one codec's decoder found; the codec and the limit are added by [`Codec::decompress`].
#[derive(Debug)]
enum Fault {
    TooLarge,
    Corrupt(String),
}

impl Fault {
    fn corrupt(reason: impl fmt::Display) -> Self {
        Self::Corrupt(reason.to_string())
    }

    fn of(self, codec: Codec, limit: DecompressLimit) -> CodecError {
        match self {
            Self::TooLarge => CodecError::TooLarge {
                codec,
                limit_bytes: limit.0,
            },
            Self::Corrupt(reason) => CodecError::Corrupt { codec, reason },
        }
    }
}

impl DecompressLimit {
    fn bytes(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }

    /// Fails when an output of `len` bytes would be too large.
    fn check(self, len: usize) -> Result<(), Fault> {
        if len > self.bytes() {
            Err(Fault::TooLarge)
        } else {
            Ok(())
        }
    }
}

/// Appends what `decoder` yields to `out`, at most to the limit.
fn drain(mut decoder: impl BufRead, limit: DecompressLimit, out: &mut Vec<u8>) -> Result<(), Fault> {
    loop {
        let chunk = decoder.fill_buf().map_err(Fault::corrupt)?;
        if chunk.is_empty() {
            return Ok(());
        }
        limit.check(out.len().saturating_add(chunk.len()))?;
        out.extend_from_slice(chunk);
        let len = chunk.len();
        decoder.consume(len);
    }
}

#[cfg(test)]
#[path = "codec_tests.rs"]
mod tests;
