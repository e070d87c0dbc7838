//! What can go wrong between a client and its server, with the question "retry?" answered.
//!
//! A server's own refusal is passed on whole: kind, machine-readable reason, message, metadata. What the transport says
//! is never mistaken for it: only a status with `google.rpc.ErrorInfo` of domain `siltstone` is the server speaking.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::ops::Range;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::proto::v1;
use crate::record::Damage;
use crate::types::{NameError, Offset, PartitionId, TopicName};

/// Waits between tries double from the least to the most.
const BACKOFF_LEAST: Duration = Duration::from_millis(20);
const BACKOFF_MOST: Duration = Duration::from_secs(1);
/// A wait that a server asks for is no longer than this.
const RETRY_MOST: Duration = Duration::from_secs(3600);
/// The server's reasons for turning a batch away at the door, to be sent again later.
const NOT_WRITTEN: [&str; 2] = ["DISK_FULL", "OVERLOADED"];
/// The server's reason for not reading on: stored bytes are damaged.
const DAMAGED: &str = "DAMAGED";
/// The domain of this service's `google.rpc.ErrorInfo`.
const ERROR_DOMAIN: &str = "siltstone";

/// The kinds of failure: two errors of one kind ask the same of the caller.
///
/// ```no_run
/// # async fn example(client: &siltstone::client::Client) -> Result<(), siltstone::client::Error> {
/// use siltstone::client::ErrorKind;
///
/// match client.create_topic("flights", None, &Default::default()).await {
///     Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
///     made => println!("{}", made?.name),
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ErrorKind {
    /// What was named does not exist.
    NotFound,
    /// What was to be made exists.
    AlreadyExists,
    /// The request is wrong in itself; sending it again is pointless.
    InvalidArgument,
    /// An offset outside the log.
    OutOfRange,
    /// The state of the topic or the producer forbids it.
    FailedPrecondition,
    /// A limit is reached.
    ResourceExhausted,
    /// Not now; a retry may succeed.
    Unavailable,
    /// Nothing came in time; whether it happened is open.
    DeadlineExceeded,
    /// Stored or received bytes are damaged.
    DataLoss,
    /// A fault of the server.
    Internal,
}

/// A server's refusal, as it told it.
///
/// ```no_run
/// # async fn example(client: &siltstone::client::Client) -> Result<(), siltstone::client::Error> {
/// use siltstone::client::Error;
///
/// if let Err(Error::Refused(refusal)) = client.delete_topic("flights").await {
///     println!("{} {:?}: {}", refusal.reason, refusal.metadata, refusal.message);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// What a caller can do about it.
    pub kind: ErrorKind,
    /// Machine-readable, upper snake case, stable: `OFFSET_OUT_OF_RANGE`.
    pub reason: String,
    /// What failed, on what, and what to do.
    pub message: String,
    /// What the reason is about: topic, partition, offsets, limits.
    pub metadata: BTreeMap<String, String>,
    /// Present when a retry may succeed: the least wait before it.
    pub retry_after: Option<Duration>,
}

/// What is known of records without an acknowledgement.
///
/// ```no_run
/// # async fn example(producer: &siltstone::client::Producer) -> Result<(), siltstone::client::Error> {
/// use siltstone::client::{Error, Written};
///
/// match producer.flush().await {
///     Err(Error::DeliveryTimeout { written: Written::No, .. }) => println!("nothing of it is there"),
///     flushed => flushed?,
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Written {
    /// Some may be written.
    Perhaps,
    /// None is: each was refused, or never sent.
    No,
}

/// A failed call.
///
/// ```no_run
/// # async fn example(client: &siltstone::client::Client) {
/// use siltstone::client::ErrorKind;
///
/// match client.describe_topic("flights").await {
///     Ok(topic) => println!("{} partitions", topic.partitions.len()),
///     Err(error) if error.kind() == ErrorKind::NotFound => println!("not yet: {error}"),
///     Err(error) if error.is_retriable() => println!("again after {:?}: {error}", error.retry_after()),
///     Err(error) => println!("{:?} {error}", error.reason()),
/// }
/// # }
/// ```
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// Text that is not a server's address.
    #[error("{address:?} is not a server's address: {reason}")]
    Address {
        /// The text.
        address: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Text that is not a topic's name.
    #[error("{name:?} is not a topic's name: {error}")]
    TopicName {
        /// The text.
        name: String,
        /// The rule it breaks.
        error: NameError,
    },
    /// The two sides do not agree on TLS, or on whom they trust.
    #[error("no secure connection to {address}: {reason}")]
    Tls {
        /// The server.
        address: String,
        /// What is missing or wrong.
        reason: String,
    },
    /// No connection could be made.
    #[error("cannot reach a server at {address}: {reason}")]
    Unreachable {
        /// The server.
        address: String,
        /// What the network said.
        reason: String,
    },
    /// Something answers there that speaks HTTP and no gRPC.
    #[error(
        "{address} answers, but not as a Siltstone gRPC server; its gRPC address is in the ready line of 'siltstone serve'"
    )]
    NotGrpc {
        /// What was taken for a server.
        address: String,
    },
    /// A connection or a call on it broke; whether the call happened is open.
    #[error("connection to {address} is lost: {reason}")]
    ConnectionLost {
        /// The server.
        address: String,
        /// What the network said.
        reason: String,
    },
    /// No answer within the call's deadline; whether the call happened is open.
    #[error("no answer from {address} within {waited:?}")]
    NoAnswer {
        /// The server.
        address: String,
        /// How long was waited.
        waited: Duration,
    },
    /// The server refused.
    #[error("{}", .0.message)]
    Refused(Box<Refusal>),
    /// The server sent something that its protocol does not allow.
    #[error("{address} answered against the protocol: {reason}")]
    Protocol {
        /// The server.
        address: String,
        /// What was wrong.
        reason: String,
    },
    /// A batch that the server sent is damaged.
    #[error("batch of {topic}-{partition} from the server is damaged: {damage}{}", go_on(lost.as_ref()))]
    DamagedBatch {
        /// Of which topic.
        topic: TopicName,
        /// Of which partition.
        partition: PartitionId,
        /// The offsets that cannot be read, where they are known: reading can go on behind them.
        lost: Option<Range<Offset>>,
        /// What is wrong with it.
        damage: Damage,
    },
    /// A record that no batch of the topic can hold.
    #[error("record of {size_bytes} bytes exceeds max.message.bytes = {limit_bytes} of topic {topic}")]
    RecordTooLarge {
        /// The topic.
        topic: TopicName,
        /// The record's size in a batch of its own, in bytes.
        size_bytes: usize,
        /// The topic's limit in bytes.
        limit_bytes: usize,
    },
    /// A partition number that the topic does not have.
    #[error("topic {topic} has {count} partitions, no partition {partition}")]
    UnknownPartition {
        /// The topic.
        topic: TopicName,
        /// The number asked for.
        partition: PartitionId,
        /// How many it has; numbers are below.
        count: usize,
    },
    /// A record that names no partition, sent by a producer that chooses none.
    #[error("record for topic {topic} names no partition, and its producer chooses none")]
    NoPartition {
        /// The topic.
        topic: TopicName,
    },
    /// There is no room for another record now.
    #[error(
        "the buffer of {limit_bytes} bytes for topic {topic} is full; send again when some of it is acknowledged"
    )]
    BufferFull {
        /// The topic.
        topic: TopicName,
        /// How many bytes it holds.
        limit_bytes: usize,
    },
    /// A producer got no answer to what it asks before its first record; nothing was sent.
    #[error("writing to topic {topic} could not begin within {waited:?}; last error: {last_error}")]
    BeginTimeout {
        /// The topic.
        topic: TopicName,
        /// How long was waited.
        waited: Duration,
        /// What stood in the way.
        last_error: String,
    },
    /// The server refused one record. What was sent before it in its partition is written; the producer stopped.
    #[error("{}", refusal.message)]
    RecordRefused {
        /// What the server said.
        refusal: Box<Refusal>,
        /// The caller's number of the record, where records had numbers.
        place: Option<u64>,
    },
    /// Records were not acknowledged within the delivery timeout.
    #[error(
        "records for {topic}-{partition} were not acknowledged within {waited:?}; last error: {last_error}"
    )]
    DeliveryTimeout {
        /// The topic.
        topic: TopicName,
        /// The partition.
        partition: PartitionId,
        /// How long was waited.
        waited: Duration,
        /// Whether any record that is not acknowledged may be written.
        written: Written,
        /// What stood in the way.
        last_error: String,
    },
    /// The producer was dropped before the record was acknowledged.
    #[error(
        "the producer of topic {topic} was dropped with {lost_records} records that were not acknowledged"
    )]
    Dropped {
        /// The topic.
        topic: TopicName,
        /// How many records it had that were not acknowledged.
        lost_records: u64,
        /// Whether the one that is told may be written.
        written: Written,
    },
    /// The producer was closed.
    #[error("the producer of topic {topic} is closed")]
    Closed {
        /// The topic.
        topic: TopicName,
    },
}

impl Error {
    /// Returns what a caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Address { .. }
            | Self::TopicName { .. }
            | Self::Tls { .. }
            | Self::NotGrpc { .. }
            | Self::NoPartition { .. }
            | Self::RecordTooLarge { .. } => ErrorKind::InvalidArgument,
            Self::BufferFull { .. } => ErrorKind::ResourceExhausted,
            Self::Unreachable { .. } | Self::ConnectionLost { .. } => ErrorKind::Unavailable,
            Self::NoAnswer { .. } | Self::BeginTimeout { .. } | Self::DeliveryTimeout { .. } => {
                ErrorKind::DeadlineExceeded
            }
            Self::Refused(refusal) | Self::RecordRefused { refusal, .. } => refusal.kind,
            Self::Protocol { .. } => ErrorKind::Internal,
            Self::DamagedBatch { .. } => ErrorKind::DataLoss,
            Self::UnknownPartition { .. } => ErrorKind::NotFound,
            Self::Closed { .. } | Self::Dropped { .. } => ErrorKind::FailedPrecondition,
        }
    }

    /// Returns the server's machine-readable reason, when it was the server that refused.
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Refused(refusal) | Self::RecordRefused { refusal, .. } => Some(&refusal.reason),
            _ => None,
        }
    }

    /// Returns the partition in which stored bytes are damaged, and the offsets that cannot be read, where they are known: a read
    /// that is opened again with [`ReadSpec::resume`](super::ReadSpec::resume) at their end leaves out nothing else.
    ///
    /// ```
    /// use siltstone::client::Error;
    ///
    /// fn told(error: &Error) -> String {
    ///     match error.damaged() {
    ///         Some((partition, Some(lost))) => format!("partition {partition} lost {} to {}", lost.start, lost.end),
    ///         Some((partition, None)) => format!("partition {partition} is damaged, nobody knows how far"),
    ///         None => error.to_string(),
    ///     }
    /// }
    /// ```
    pub fn damaged(&self) -> Option<(PartitionId, Option<Range<Offset>>)> {
        match self {
            Self::DamagedBatch { partition, lost, .. } => Some((*partition, lost.clone())),
            Self::Refused(refusal) if refusal.reason == DAMAGED => {
                let told = |name| refusal.metadata.get(name)?.parse::<i64>().ok();
                let partition = i32::try_from(told("partition")?).ok()?;
                let lost = told("offset").zip(told("next_offset"));
                let lost = lost.filter(|(start, end)| start < end);
                let lost = lost.map(|(start, end)| Offset(start)..Offset(end));
                Some((PartitionId(partition), lost))
            }
            _ => None,
        }
    }

    /// Returns the place in its batch of the first record that the server refused, where it named any.
    pub(super) fn refused_record(&self) -> Option<u32> {
        match self {
            Self::Refused(refusal) => {
                let indexes = refusal.metadata.get("record_indexes")?;
                indexes.split(',').next()?.parse().ok()
            }
            _ => None,
        }
    }

    /// Returns a refusal as that of the record which the caller knows as `place`.
    pub(super) fn of_record(self, place: Option<u64>) -> Self {
        match self {
            Self::Refused(refusal) => Self::RecordRefused { refusal, place },
            other => other,
        }
    }

    /// Returns the error as one batch of those it concerns is told.
    pub(super) fn with_written(mut self, told: Written) -> Self {
        if let Self::DeliveryTimeout { written, .. } | Self::Dropped { written, .. } = &mut self {
            *written = told;
        }
        self
    }

    /// True for refusals that come before anything is written.
    pub(super) fn says_not_written(&self) -> bool {
        self.reason().is_some_and(|reason| NOT_WRITTEN.contains(&reason))
    }

    /// True when the same call may succeed later.
    pub fn is_retriable(&self) -> bool {
        match self {
            Self::Unreachable { .. }
            | Self::ConnectionLost { .. }
            | Self::NoAnswer { .. }
            | Self::BufferFull { .. } => true,
            Self::Refused(refusal) => refusal.retry_after.is_some() || refusal.kind == ErrorKind::Unavailable,
            _ => false,
        }
    }

    /// Returns the least wait before a retry, where the server named one.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused(refusal) => refusal.retry_after,
            _ => None,
        }
    }

    /// Returns how long to wait before try number `attempt` (from 0), or nothing when trying again is pointless.
    pub(super) fn retry_delay(&self, attempt: u32) -> Option<Duration> {
        if !self.is_retriable() {
            return None;
        }
        let backoff = BACKOFF_LEAST
            .saturating_mul(1 << attempt.min(10))
            .min(BACKOFF_MOST);
        // A server may name any time.
        let wished = self.retry_after().unwrap_or_default().min(RETRY_MOST);
        Some(wished.max(backoff))
    }

    /// Reads a failed call's status.
    pub(super) fn from_status(address: &str, status: &Status) -> Self {
        let details = status.get_error_details();
        let info = details.error_info().filter(|info| info.domain == ERROR_DOMAIN);
        if info.is_none() && speaks_for_transport(status) {
            let (address, reason) = (address.to_owned(), transport_reason(status));
            return match tls_fault(&reason) {
                Some(reason) => Self::Tls { address, reason },
                None => Self::ConnectionLost { address, reason },
            };
        }
        let (reason, metadata) = match info {
            Some(info) => (info.reason.clone(), info.metadata.clone().into_iter().collect()),
            None => (String::new(), BTreeMap::new()),
        };
        let retry_after = details
            .retry_info()
            .map(|retry| retry.retry_delay.unwrap_or_default());
        Self::Refused(Box::new(Refusal {
            kind: kind_of(status.code()),
            reason,
            message: status.message().to_owned(),
            metadata,
            retry_after,
        }))
    }

    /// Reads an error inside a response or on a stream.
    pub(super) fn from_message(error: v1::Error) -> Self {
        let retry_after = error
            .retry_after_ms
            .map(|ms| Duration::from_millis(u64::try_from(ms).unwrap_or(0)));
        Self::Refused(Box::new(Refusal {
            kind: kind_of(Code::from_i32(error.code)),
            reason: error.reason,
            message: error.message,
            metadata: error.metadata.into_iter().collect(),
            retry_after,
        }))
    }

    /// Names why a connection was not made.
    pub(super) fn unreachable(address: &str, error: &tonic::transport::Error) -> Self {
        let (address, reason) = (address.to_owned(), innermost(error));
        match tls_fault(&reason) {
            Some(reason) => Self::Tls { address, reason },
            None => Self::Unreachable { address, reason },
        }
    }
}

/// Says where reading can go on behind damage, in the server's words.
fn go_on(lost: Option<&Range<Offset>>) -> String {
    lost.map_or_else(String::new, |lost| {
        format!("; reading can go on at offset {}", lost.end)
    })
}

/// Says in a user's words what a failed handshake means, or nothing when the failure is of another kind. Only the text tells:
/// the libraries below do not hand their types through. A text that changed there loses its explanation, not its meaning;
/// `tests/it/cli_tls.rs` would notice.
fn tls_fault(reason: &str) -> Option<String> {
    if let Some(fault) = reason.strip_prefix("invalid peer certificate: ") {
        return Some(format!(
            "the server's certificate is not accepted ({fault}); is it the right server, and the right authority?"
        ));
    }
    if let Some(alert) = reason.strip_prefix("received fatal alert: ") {
        return Some(format!(
            "the server does not accept this client ({alert}); it asks for a client certificate of an authority it trusts"
        ));
    }
    let is_plain_text = reason.starts_with("received corrupt message of type");
    is_plain_text.then(|| "the server speaks plain text; name it with http://, or turn on its TLS".to_owned())
}

/// True for codes that a broken connection, a proxy or a dying server produces by itself.
fn speaks_for_transport(status: &Status) -> bool {
    status.source().is_some()
        || matches!(
            status.code(),
            Code::Unavailable | Code::Unknown | Code::Internal | Code::Cancelled | Code::Aborted
        )
}

fn transport_reason(status: &Status) -> String {
    status
        .source()
        .map_or_else(|| status.message().to_owned(), innermost)
}

/// Returns the text of the first cause, which names the fact; the layers above it only say that something failed.
pub(super) fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    match cause.downcast_ref::<std::io::Error>() {
        // What another library packed into it says more than the kind; what the system said is known by its kind.
        Some(error) if error.get_ref().is_none() => error.kind().to_string(),
        _ => cause.to_string(),
    }
}

fn kind_of(code: Code) -> ErrorKind {
    match code {
        Code::NotFound => ErrorKind::NotFound,
        Code::AlreadyExists => ErrorKind::AlreadyExists,
        Code::InvalidArgument | Code::Unimplemented => ErrorKind::InvalidArgument,
        Code::OutOfRange => ErrorKind::OutOfRange,
        Code::FailedPrecondition | Code::PermissionDenied | Code::Unauthenticated => {
            ErrorKind::FailedPrecondition
        }
        Code::ResourceExhausted => ErrorKind::ResourceExhausted,
        Code::Unavailable | Code::Aborted | Code::Cancelled => ErrorKind::Unavailable,
        Code::DeadlineExceeded => ErrorKind::DeadlineExceeded,
        Code::DataLoss => ErrorKind::DataLoss,
        Code::Ok | Code::Unknown | Code::Internal => ErrorKind::Internal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic_types::ErrorDetails;

    #[test]
    fn a_refusal_of_the_server_is_passed_on_whole() {
        let mut details = ErrorDetails::new();
        let metadata = [("topic".to_owned(), "flights".to_owned())];
        details.set_error_info(
            "UNKNOWN_TOPIC",
            ERROR_DOMAIN,
            std::collections::HashMap::from(metadata),
        );
        let status = Status::with_error_details(Code::NotFound, "topic flights does not exist", details);
        let error = Error::from_status("h:1", &status);
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert_eq!(error.reason(), Some("UNKNOWN_TOPIC"));
        assert_eq!(error.to_string(), "topic flights does not exist");
        assert!(!error.is_retriable());
        let Error::Refused(refusal) = error else {
            panic!("not a refusal: {error}")
        };
        assert_eq!(refusal.metadata["topic"], "flights");
    }

    #[test]
    fn a_retry_hint_makes_any_refusal_retriable() {
        let mut details = ErrorDetails::new();
        details.set_error_info("OVERLOADED", ERROR_DOMAIN, std::collections::HashMap::new());
        details.set_retry_info(Some(Duration::from_millis(100)));
        let status = Status::with_error_details(Code::ResourceExhausted, "too much", details);
        let error = Error::from_status("h:1", &status);
        assert!(error.is_retriable());
        assert_eq!(error.retry_after(), Some(Duration::from_millis(100)));
    }

    #[test]
    fn a_status_that_no_server_wrote_is_a_lost_connection() {
        let error = Error::from_status("h:1", &Status::unknown("h2 protocol error"));
        assert!(matches!(error, Error::ConnectionLost { .. }), "{error:?}");
        assert!(error.is_retriable());
    }

    #[test]
    fn an_internal_error_that_the_server_names_is_not_a_lost_connection() {
        let mut details = ErrorDetails::new();
        details.set_error_info("STORAGE", ERROR_DOMAIN, std::collections::HashMap::new());
        let status = Status::with_error_details(Code::Internal, "disk failed", details);
        let error = Error::from_status("h:1", &status);
        assert_eq!(error.kind(), ErrorKind::Internal);
        assert!(!error.is_retriable());
    }
}
