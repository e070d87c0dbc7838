//! Input of commands: whole lines of a file or of standard input, in blocks.
//!
//! Invariants
//! - A block holds whole lines and goes out as soon as they are read, so that a slow pipe is not held back.
//! - At most [`BLOCKS_WAITING`] blocks wait, each of at most [`READ_BYTES`] and one line: memory is bounded with an endless
//!   input.
//! - A line longer than the limit is an error that comes after all lines before it.
//!
//! What is not here: what a line means.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use tokio::sync::{mpsc, oneshot};

use super::CliError;

/// Bytes asked of the system at once.
const READ_BYTES: usize = 1 << 20;
/// Blocks that wait to be taken.
const BLOCKS_WAITING: usize = 4;

/// Opens a file that the user named.
pub(super) fn open(path: &Path) -> Result<File, CliError> {
    #[allow(
        clippy::disallowed_methods,
        reason = "the user's own file; the store's go through env::Fs"
    )]
    let opened = File::open(path);
    let file = opened.map_err(|error| read_error(path, &error))?;
    match file.metadata() {
        Ok(metadata) if metadata.is_dir() => {
            Err(CliError::Failed(format!("{} is a directory", path.display())))
        }
        Ok(_) => Ok(file),
        Err(error) => Err(read_error(path, &error)),
    }
}

/// Reads a small file that the user named.
pub(super) fn read_whole(path: &Path) -> Result<Vec<u8>, CliError> {
    let mut bytes = Vec::new();
    open(path)?
        .read_to_end(&mut bytes)
        .map_err(|error| read_error(path, &error))?;
    Ok(bytes)
}

/// Says that a file cannot be read.
pub(super) fn read_error(path: &Path, error: &io::Error) -> CliError {
    CliError::Failed(format!("cannot read {}: {error}", path.display()))
}

/// Where lines come from.
pub(super) struct Input {
    /// For messages.
    pub(super) name: String,
    /// Known of a regular file.
    pub(super) len: Option<u64>,
    reader: Box<dyn Read + Send>,
}

impl Input {
    /// Opens `path`, or standard input for none and for `-`.
    pub(super) fn open(path: Option<&Path>) -> Result<Self, CliError> {
        match path {
            Some(path) if path != Path::new("-") => {
                let file = open(path)?;
                let len = file
                    .metadata()
                    .ok()
                    .filter(std::fs::Metadata::is_file)
                    .map(|metadata| metadata.len());
                Ok(Self {
                    name: path.display().to_string(),
                    len,
                    reader: Box::new(file),
                })
            }
            _ => Ok(Self {
                name: "standard input".to_owned(),
                len: None,
                reader: Box::new(io::stdin()),
            }),
        }
    }

    /// Opens `path` on a thread of its own: one that nobody writes to yet may never open, and must not keep the command from
    /// ending.
    pub(super) async fn open_aside(path: PathBuf) -> Result<Self, CliError> {
        let (sender, opened) = oneshot::channel();
        std::thread::spawn(move || sender.send(Self::open(Some(&path))));
        opened.await.expect("the thread sends before it ends")
    }

    /// Reads on a thread of its own, since a read may never return; ends when the receiver is dropped.
    pub(super) fn blocks(self, max_line_bytes: usize) -> mpsc::Receiver<Result<Block, InputError>> {
        let (sender, receiver) = mpsc::channel(BLOCKS_WAITING);
        std::thread::spawn(move || {
            let mut blocks = Blocks::new(self.reader, max_line_bytes);
            while let Some(block) = blocks.next() {
                let ended = block.is_err();
                if sender.blocking_send(block).is_err() || ended {
                    break;
                }
            }
        });
        receiver
    }
}

/// Whole lines.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Block {
    bytes: Vec<u8>,
    /// Number of the first line, from 1.
    first_line: u64,
}

impl Block {
    /// Returns the lines with their numbers, without their newlines.
    pub(super) fn lines(&self) -> impl Iterator<Item = (u64, &[u8])> {
        let lines = self.bytes.strip_suffix(b"\n").unwrap_or(&self.bytes);
        (self.first_line..).zip(lines.split(|byte| *byte == b'\n'))
    }

    /// Returns how many bytes of the input it took.
    pub(super) fn len(&self) -> u64 {
        u64::try_from(self.bytes.len()).expect("a length fits 64 bits")
    }
}

/// Why the input ended early.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum InputError {
    #[error(
        "line {line} has more than {max_line_bytes} bytes, the topic's max.message.bytes; 'siltstone topic alter' can raise it"
    )]
    LineTooLong { line: u64, max_line_bytes: usize },
    #[error("cannot be read after line {line}: {reason}")]
    Read { line: u64, reason: String },
}

struct Blocks<R> {
    reader: R,
    max_line_bytes: usize,
    /// The beginning of a line whose end is not read yet.
    begun: Vec<u8>,
    next_line: u64,
    ended: Ended,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Ended {
    Yes,
    No,
}

impl<R: Read> Blocks<R> {
    fn new(reader: R, max_line_bytes: usize) -> Self {
        Self {
            reader,
            max_line_bytes,
            begun: Vec::new(),
            next_line: 1,
            ended: Ended::No,
        }
    }

    fn next(&mut self) -> Option<Result<Block, InputError>> {
        while self.ended == Ended::No {
            let searched = self.begun.len();
            match self.read_more() {
                Ok(0) => {
                    self.ended = Ended::Yes;
                    let rest = std::mem::take(&mut self.begun);
                    return (!rest.is_empty()).then(|| Ok(self.block(rest)));
                }
                Ok(_) => {}
                Err(error) => {
                    let line = self.next_line - 1;
                    return Some(Err(InputError::Read {
                        line,
                        reason: error.to_string(),
                    }));
                }
            }
            if let Some(end) = self.begun[searched..].iter().rposition(|byte| *byte == b'\n') {
                let rest = self.begun.split_off(searched + end + 1);
                let whole = std::mem::replace(&mut self.begun, rest);
                return Some(Ok(self.block(whole)));
            }
            if self.begun.len() > self.max_line_bytes {
                let (line, max_line_bytes) = (self.next_line, self.max_line_bytes);
                return Some(Err(InputError::LineTooLong { line, max_line_bytes }));
            }
        }
        None
    }

    /// Appends what one read gives.
    fn read_more(&mut self) -> io::Result<usize> {
        let before = self.begun.len();
        self.begun.resize(before + READ_BYTES, 0);
        let read = loop {
            match self.reader.read(&mut self.begun[before..]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read,
            }
        };
        self.begun.truncate(before + *read.as_ref().unwrap_or(&0));
        read
    }

    fn block(&mut self, bytes: Vec<u8>) -> Block {
        let block = Block {
            bytes,
            first_line: self.next_line,
        };
        let lines = u64::try_from(block.lines().count()).expect("a count fits 64 bits");
        self.next_line += lines;
        block
    }
}

#[cfg(test)]
#[path = "input_tests.rs"]
mod tests;
