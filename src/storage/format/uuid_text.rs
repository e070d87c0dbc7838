//! Kafka's text of a 128-bit id: 16 bytes as URL-safe base64 without padding, 22 characters.
//!
//! Used by `partition.metadata` and `meta.properties`. What it does not do: make ids, or say which are reserved.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// Characters of an id.
const LEN: usize = 22;

/// Returns the 22 characters.
pub(in crate::storage) fn encode(id: [u8; 16]) -> String {
    URL_SAFE_NO_PAD.encode(id)
}

/// Reads the 22 characters.
pub(in crate::storage) fn decode(text: &str) -> Result<[u8; 16], UuidTextError> {
    if text.len() != LEN {
        return Err(UuidTextError::Length { len: text.len() });
    }
    let mut id = [0; 16];
    match URL_SAFE_NO_PAD.decode_slice(text, &mut id) {
        Ok(16) => Ok(id),
        _ => Err(UuidTextError::NotBase64),
    }
}

/// Why text is not an id.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum UuidTextError {
    /// Not 22 characters.
    #[error("an id has {LEN} characters, this one has {len}")]
    Length {
        /// Its length in bytes.
        len: usize,
    },
    /// Not the base64 form of 16 bytes.
    #[error("an id is URL-safe base64 of 16 bytes, this one is not")]
    NotBase64,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_id_has_one_text_of_22_characters(id in any::<[u8; 16]>()) {
            let text = encode(id);
            prop_assert_eq!(text.len(), LEN);
            prop_assert_eq!(decode(&text), Ok(id));
        }
    }

    #[test]
    fn what_is_not_an_id_is_named() {
        assert_eq!(decode("short"), Err(UuidTextError::Length { len: 5 }));
        assert_eq!(decode("AAAAAAAAAAAAAAAAAAAA+A"), Err(UuidTextError::NotBase64));
        assert_eq!(decode("AAAAAAAAAAAAAAAAAAAAAB"), Err(UuidTextError::NotBase64));
    }
}
