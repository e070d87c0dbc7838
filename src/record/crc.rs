//! CRC-32C (Castagnoli), the checksum of Kafka's batches.
//!
//! Of a batch it covers everything from the attributes to the end, so not the first 21 bytes.
//! Checksums of our own formats are plain CRC-32 and live with those formats.

use crc_fast::{CrcAlgorithm, Digest};

/// Returns the CRC-32C of `bytes`.
pub(super) fn crc32c(bytes: &[u8]) -> u32 {
    u32::try_from(crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, bytes)).expect("a 32-bit checksum fits")
}

/// The CRC-32C of bytes that come in parts.
#[derive(Debug)]
pub(super) struct Crc32c(Digest);

impl Crc32c {
    pub(super) fn new() -> Self {
        Self(Digest::new(CrcAlgorithm::Crc32Iscsi))
    }

    pub(super) fn add(&mut self, part: &[u8]) {
        self.0.update(part);
    }

    pub(super) fn finish(self) -> u32 {
        u32::try_from(self.0.finalize()).expect("a 32-bit checksum fits")
    }
}

#[cfg(test)]
mod tests {
    use super::{Crc32c, crc32c};

    #[test]
    fn parts_have_the_checksum_of_the_whole() {
        let mut parts = Crc32c::new();
        for part in ["1234", "", "56789"] {
            parts.add(part.as_bytes());
        }
        assert_eq!(parts.finish(), crc32c(b"123456789"));
    }

    #[test]
    fn the_checksum_is_castagnolis() {
        // Check value and vectors of RFC 3720, appendix B.4.
        assert_eq!(crc32c(b"123456789"), 0xE306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8A91_36AA);
        assert_eq!(crc32c(&[0xFF; 32]), 0x62A8_AB43);
        assert_eq!(crc32c(b""), 0);
    }
}
