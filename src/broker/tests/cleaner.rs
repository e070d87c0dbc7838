//! The cleaner behind the broker: commands, the schedule, promises, failures, and what is told about them.

use super::*;
use crate::broker::cleaner_turn::Turn;

fn keyed(key: &str, value: &str) -> NewRecord {
    NewRecord {
        key: Some(Bytes::copy_from_slice(key.as_bytes())),
        ..record(value)
    }
}
