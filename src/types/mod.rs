//! The words every layer shares: offsets, times, ids and names, each a type of its own.
//!
//! Invariants
//! - A value that exists is valid: names are checked when they are made, numbers carry their unit in their type.
//! - Nothing here is a sentinel: what may be missing is an `Option`, and the `-1` of Kafka's formats is translated
//!   where those formats are read and written.
//!
//! What is not here: anything that does I/O, knows a file format or a wire protocol.

mod ids;
mod names;
mod numbers;

pub use ids::{PartitionId, ProducerEpoch, ProducerId, Sequence, TopicId};
pub use names::{NameError, TopicName, TopicPartition};
pub use numbers::{Isolation, LeaderEpoch, Offset, Timestamp};
