//! What ends a command early, and the exit code that says so.
//!
//! 0 done, 1 failed or not found, 2 wrong usage. A reader that closed its end of our output has had enough: that is
//! done, not failed.

use std::io;
use std::process::ExitCode;

use super::serve::ServeError;
use crate::client;

/// The server's reason for refusing a name that no topic has.
const UNKNOWN_TOPIC: &str = "UNKNOWN_TOPIC";
/// Exit code of wrong usage, as clap's.
const USAGE: u8 = 2;

/// Why a command did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// No server answered.
    #[error("{error}; start one with 'siltstone serve' or name it with --server")]
    Unreachable {
        /// What was tried.
        error: client::Error,
    },
    /// What was named is not there: a slip, or the first use of a name.
    #[error(
        "topic {topic} does not exist; 'siltstone topic list' names those that do, 'siltstone topic create {topic}' makes it"
    )]
    UnknownTopic {
        /// The name.
        topic: String,
    },
    /// The server went away in the middle.
    #[error("{error}; try again when the server is back")]
    Lost {
        /// What was noticed.
        error: client::Error,
    },
    /// The server is there, and took longer than a call may take.
    #[error("{error}; the server may be busy and do it all the same: look before you ask again")]
    Unanswered {
        /// What was waited for.
        error: client::Error,
    },
    /// Records were sent, and nobody knows what became of them.
    #[error("{error}; they may be written all the same: look before you load them again")]
    Unsettled {
        /// What was waited for.
        error: client::Error,
    },
    /// The server would not take records, and said so.
    #[error("{error}; what is not acknowledged is not written")]
    NotWritten {
        /// What was waited for.
        error: client::Error,
    },
    /// The server or the connection failed.
    #[error("{0}")]
    Client(#[source] client::Error),
    /// The server did not start, or ended badly.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// Arguments that contradict each other or are out of range.
    #[error("{0}")]
    Usage(String),
    /// The command failed; the text says on what, and what to do.
    #[error("{0}")]
    Failed(String),
    /// Writing to standard output failed.
    #[error("cannot write to standard output: {0}")]
    Output(#[from] io::Error),
}

impl From<client::Error> for CliError {
    fn from(error: client::Error) -> Self {
        match error {
            client::Error::Unreachable { .. } => Self::Unreachable { error },
            client::Error::Refused(refusal) if refusal.reason == UNKNOWN_TOPIC => {
                match refusal.metadata.get("topic") {
                    Some(topic) => Self::UnknownTopic { topic: topic.clone() },
                    None => Self::Client(client::Error::Refused(refusal)),
                }
            }
            client::Error::ConnectionLost { .. } | client::Error::BeginTimeout { .. } => Self::Lost { error },
            client::Error::NoAnswer { .. } => Self::Unanswered { error },
            client::Error::DeliveryTimeout { written, .. } => match written {
                client::Written::Perhaps => Self::Unsettled { error },
                client::Written::No => Self::NotWritten { error },
            },
            client::Error::Address { .. } | client::Error::TopicName { .. } => Self::Usage(error.to_string()),
            error => Self::Client(error),
        }
    }
}

impl CliError {
    /// Returns the code that the process ends with, and whether anything is to be said.
    pub(super) fn exit(&self) -> (ExitCode, Said) {
        match self {
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                (ExitCode::SUCCESS, Said::Nothing)
            }
            Self::Serve(error) => (error.exit_code(), Said::Error),
            Self::Usage(_) => (ExitCode::from(USAGE), Said::Error),
            _ => (ExitCode::FAILURE, Said::Error),
        }
    }
}

/// What standard error gets at the end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Said {
    /// Not a word.
    Nothing,
    /// The error.
    Error,
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_call_that_takes_too_long_is_not_told_as_a_server_that_is_gone() {
        let error = client::Error::NoAnswer {
            address: "127.0.0.1:9095".to_owned(),
            waited: Duration::from_secs(30),
        };
        let text = CliError::from(error).to_string();
        assert!(text.contains("may be busy and do it all the same"), "{text}");
        assert!(!text.contains("is back"), "{text}");
    }
}
