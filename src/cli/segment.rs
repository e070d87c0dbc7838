//! `siltstone segment dump|verify`: what lies in a segment's files, read without a server. A file is a `.log`, or the object that an archive has
//! of one (`.segment`), which begins with it.
//!
//! Invariants
//! - Every batch is checked: header, checksum, and each of its records. Of an object, `verify` checks every other byte, too.
//! - Damage is named with its position. After a damaged header nothing can be found; after a damaged body the next batch can.
//! - Memory is bounded by one batch, whose length is believed only as far as the file goes.
//!
//! What is not here: repair.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use bytes::Bytes;
use serde_json::{Value, json};

use super::record_text::{self, RecordText};
use super::{CliError, input, output, time};
use crate::record::{BatchHeader, ControlMarker, DecompressLimit, HEADER_LEN, RecordBatch, TimestampType};
use crate::types::{PartitionId, Timestamp, TopicPartition};

/// The most that one batch may decompress to.
const DECOMPRESSED_MAX: DecompressLimit = DecompressLimit(1 << 30);

/// Subcommands of `segment`.
#[derive(clap::Subcommand, Debug)]
pub(super) enum SegmentCommand {
    /// Show the batches of a .log file or of an object of an archive, and what is damaged in it
    Dump {
        /// The file
        file: PathBuf,
        /// Show the records too
        #[arg(long)]
        records: bool,
        /// Print one JSON object a batch, and one a record
        #[arg(long)]
        json: bool,
    },
    /// Check a .log file or an object of an archive, and show only what is damaged in it
    Verify {
        /// The file, or the object's address: s3://bucket/prefix/... or file:///folder/...
        file: PathBuf,
        /// Print one JSON object for what is damaged
        #[arg(long)]
        json: bool,
    },
}

/// Runs the command.
pub(super) fn run(command: SegmentCommand) -> Result<ExitCode, CliError> {
    let (file, damaged) = match command {
        SegmentCommand::Dump { file, records, json } => {
            let depth = if records { Depth::Records } else { Depth::Batches };
            let damaged = Dump::new(&file, depth, json)?.run()?;
            (file, damaged)
        }
        #[cfg(feature = "tier")]
        SegmentCommand::Verify { file, json } if is_object(&file) => {
            return super::connect::block_on(verify_object(file, json));
        }
        SegmentCommand::Verify { file, json } => {
            let damaged = Dump::new(&file, Depth::Damage, json)?.run()?;
            (file, damaged)
        }
    };
    match damaged {
        0 => Ok(ExitCode::SUCCESS),
        1 => Err(CliError::Failed(format!(
            "{}: 1 place is damaged",
            file.display()
        ))),
        count => Err(CliError::Failed(format!(
            "{}: {count} places are damaged",
            file.display()
        ))),
    }
}

/// True for an object of an archive, as a file or by its address.
#[cfg(feature = "tier")]
fn is_object(file: &Path) -> bool {
    file.extension().is_some_and(|extension| extension == OBJECT)
        || file.to_str().is_some_and(|file| file.contains("://"))
}

/// Checks every byte of an object.
#[cfg(feature = "tier")]
async fn verify_object(file: PathBuf, json: bool) -> Result<ExitCode, CliError> {
    use crate::tier::{CallLimits, TierError, TierStore, check_object, read_lone_footer};
    let address = match file.to_str() {
        Some(address) if address.contains("://") => address.to_owned(),
        _ => {
            let path = std::fs::canonicalize(&file).map_err(|error| input::read_error(&file, &error))?;
            format!("file://{}", path.display())
        }
    };
    let Some((folder, key)) = address.rsplit_once('/') else {
        return Err(CliError::Usage(format!("{address} names no object")));
    };
    let checked = async {
        let store = TierStore::open_to_read(folder, CallLimits::default())?;
        let footer = read_lone_footer(&store, key).await?;
        check_object(&store, key, &footer, &|_| ()).await
    };
    let Err(error) = checked.await else {
        return Ok(ExitCode::SUCCESS);
    };
    if let (TierError::Damaged { key, reason }, true) = (&error, json) {
        output::json_lines(&[json!({ "object": key, "damage": reason })])?;
    }
    Err(CliError::Failed(error.to_string()))
}

/// Returns how long the log in a file is, of an object that it begins with.
#[cfg(feature = "tier")]
fn log_len_of_object(path: &Path, file: &mut File, len: u64) -> Result<(u64, TopicPartition), CliError> {
    use std::io::{Seek as _, SeekFrom};

    use crate::tier::{Footer, ObjectDamage, TRAILER_LEN, Trailer};
    let damaged = |damage: ObjectDamage| CliError::Failed(format!("{}: {damage}", path.display()));
    let unread = |error: io::Error| input::read_error(path, &error);
    let mut trailer = [0; TRAILER_LEN];
    let at = len
        .checked_sub(TRAILER_LEN as u64)
        .ok_or_else(|| damaged(ObjectDamage::Length { object_len: len }))?;
    file.seek(SeekFrom::Start(at)).map_err(unread)?;
    file.read_exact(&mut trailer).map_err(unread)?;
    let trailer = Trailer::decode(&trailer, len).map_err(damaged)?;
    let mut footer = vec![0; usize::try_from(trailer.footer_len).expect("a footer is small")];
    file.seek(SeekFrom::Start(trailer.footer_position))
        .map_err(unread)?;
    file.read_exact(&mut footer).map_err(unread)?;
    let footer = Footer::decode(&footer, &trailer).map_err(damaged)?;
    file.seek(SeekFrom::Start(0)).map_err(unread)?;
    let owner = TopicPartition::new(footer.topic, footer.partition);
    Ok((footer.summary.log_bytes, owner))
}

/// The extension of an object of an archive.
#[cfg(feature = "tier")]
const OBJECT: &str = "segment";

/// How far the dump goes into batches.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Depth {
    /// Nothing is shown but what is damaged.
    Damage,
    Batches,
    Records,
}

enum Style {
    Json {
        record: RecordText,
        partition: Option<PartitionId>,
    },
    Plain {
        partition: PartitionId,
    },
}

struct Dump {
    batches: FileBatches,
    depth: Depth,
    style: Style,
    text: Vec<u8>,
    damaged: u64,
}

impl Dump {
    fn new(path: &Path, depth: Depth, json: bool) -> Result<Self, CliError> {
        let extension = path.extension().and_then(|extension| extension.to_str());
        #[cfg(feature = "tier")]
        let is_object = extension == Some(OBJECT);
        #[cfg(not(feature = "tier"))]
        let is_object = false;
        if extension != Some("log") && !is_object {
            return Err(CliError::Usage(format!(
                "{} is not a .log file, nor the .segment of an archive",
                path.display()
            )));
        }
        #[cfg_attr(
            not(feature = "tier"),
            expect(unused_mut, reason = "only an object is looked into first")
        )]
        let mut file = input::open(path)?;
        let len = file
            .metadata()
            .map_err(|error| input::read_error(path, &error))?
            .len();
        // A partition's directory has its name: that is where a dump learns whose records these are.
        let directory = path
            .parent()
            .and_then(Path::file_name)
            .and_then(|name| name.to_str());
        let named = directory.and_then(TopicPartition::parse_dir_name);
        #[cfg(feature = "tier")]
        let (len, named) = match is_object {
            true => log_len_of_object(path, &mut file, len).map(|(len, owner)| (len, Some(owner)))?,
            false => (len, named),
        };
        let partition = named.as_ref().map(|named| named.partition);
        let style = if json {
            Style::Json {
                record: RecordText::new(named.as_ref().map(|named| named.topic.as_str())),
                partition,
            }
        } else {
            Style::Plain {
                partition: partition.unwrap_or_default(),
            }
        };
        Ok(Self {
            batches: FileBatches {
                path: path.to_owned(),
                file: BufReader::new(file),
                len,
                position: 0,
            },
            depth,
            style,
            text: Vec::new(),
            damaged: 0,
        })
    }

    /// Prints everything and returns how many places are damaged.
    fn run(&mut self) -> Result<u64, CliError> {
        while self.step()? == Step::Further {
            self.flush()?;
        }
        self.flush()?;
        Ok(self.damaged)
    }

    /// Puts what the next batch has to say into `text`.
    fn step(&mut self) -> Result<Step, CliError> {
        let position = self.batches.position;
        match self.batches.next()? {
            Found::End => return Ok(Step::Over),
            Found::Damage(reason) => {
                self.damage(position, &reason);
                return Ok(Step::Over);
            }
            Found::Batch(batch) => self.batch(position, &batch),
        }
        Ok(Step::Further)
    }

    fn flush(&mut self) -> Result<(), CliError> {
        output::write_all(&self.text)?;
        self.text.clear();
        Ok(())
    }

    fn batch(&mut self, position: u64, batch: &RecordBatch) {
        let crc = batch.verify_crc();
        let line = match &self.style {
            Style::Json { .. } => batch_json(position, batch, crc.is_ok()).to_string(),
            Style::Plain { .. } => batch_text(position, batch, crc.is_ok()),
        };
        if self.depth != Depth::Damage {
            self.text.extend_from_slice(line.as_bytes());
            self.text.push(b'\n');
        }
        match crc {
            Err(damage) => self.damage(position, &damage.to_string()),
            Ok(()) => self.records(position, batch),
        }
    }

    /// Reads every record, and shows it if wanted.
    fn records(&mut self, position: u64, batch: &RecordBatch) {
        let records = match batch.records(DECOMPRESSED_MAX) {
            Ok(records) => records,
            Err(damage) => return self.damage(position, &damage.to_string()),
        };
        for record in records {
            match (record, self.depth, &self.style) {
                (Err(damage), _, _) => return self.damage(position, &damage.to_string()),
                (Ok(_), Depth::Damage | Depth::Batches, _) => {}
                // A marker's key and value are the coordinator's, not a record's.
                (Ok(_), Depth::Records, _) if batch.header().is_control() => {}
                (Ok(found), Depth::Records, Style::Json { record, partition }) => {
                    record.json(&mut self.text, *partition, &found);
                }
                (Ok(found), Depth::Records, Style::Plain { partition }) => {
                    self.text.extend_from_slice(b"  ");
                    record_text::plain(&mut self.text, *partition, &found);
                }
            }
        }
    }

    fn damage(&mut self, position: u64, reason: &str) {
        self.damaged += 1;
        let line = match &self.style {
            Style::Json { .. } => json!({ "position": position, "damage": reason }).to_string(),
            Style::Plain { .. } => format!("position {position}: damaged: {reason}"),
        };
        self.text.extend_from_slice(line.as_bytes());
        self.text.push(b'\n');
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    Further,
    Over,
}

enum Found {
    Batch(RecordBatch),
    Damage(String),
    End,
}

/// The batches of a file, one in memory at a time.
struct FileBatches {
    path: PathBuf,
    file: BufReader<File>,
    len: u64,
    position: u64,
}

impl FileBatches {
    fn next(&mut self) -> Result<Found, CliError> {
        let left = self.len - self.position;
        if left == 0 {
            return Ok(Found::End);
        }
        let mut header = [0; HEADER_LEN];
        let header_len = u64::try_from(HEADER_LEN).expect("61");
        if left < header_len {
            return Ok(Found::Damage(format!(
                "{left} bytes at the end are less than the header of a batch"
            )));
        }
        self.read(&mut header)?;
        let size_bytes = match BatchHeader::parse(&header) {
            Ok(parsed) => parsed.size_bytes,
            Err(damage) => return Ok(Found::Damage(damage.to_string())),
        };
        if u64::from(size_bytes) > left {
            return Ok(Found::Damage(format!(
                "batch of {size_bytes} bytes ends after {left}: the file ends inside it"
            )));
        }
        let mut bytes = header.to_vec();
        bytes.resize(
            usize::try_from(size_bytes).expect("a batch fits memory's addresses"),
            0,
        );
        self.read(&mut bytes[HEADER_LEN..])?;
        self.position += u64::from(size_bytes);
        Ok(match RecordBatch::parse(Bytes::from(bytes)) {
            Ok(batch) => Found::Batch(batch),
            Err(damage) => Found::Damage(damage.to_string()),
        })
    }

    fn read(&mut self, buffer: &mut [u8]) -> Result<(), CliError> {
        let read: io::Result<()> = self.file.read_exact(buffer);
        read.map_err(|error| input::read_error(&self.path, &error))
    }
}

fn marker(batch: &RecordBatch) -> Option<String> {
    match batch.control_marker() {
        Ok(None) => None,
        Ok(Some(ControlMarker::Commit { .. })) => Some("commit".to_owned()),
        Ok(Some(ControlMarker::Abort { .. })) => Some("abort".to_owned()),
        Ok(Some(ControlMarker::Other(kind))) => Some(format!("control {kind}")),
        Err(_) => Some("unreadable".to_owned()),
    }
}

fn timestamp_type(header: &BatchHeader) -> &'static str {
    match header.timestamp_type {
        TimestampType::CreateTime => "CreateTime",
        TimestampType::LogAppendTime => "LogAppendTime",
    }
}

fn batch_json(position: u64, batch: &RecordBatch, crc_valid: bool) -> Value {
    let header = batch.header();
    let ms = |time: Option<Timestamp>| time.map(|time| time.0);
    json!({
        "position": position,
        "size_bytes": header.size_bytes,
        "base_offset": header.base_offset.0,
        "last_offset": header.last_offset().0,
        "record_count": header.record_count,
        "codec": header.codec.name(),
        "crc": format!("{:08x}", header.crc),
        "crc_valid": crc_valid,
        "timestamp_type": timestamp_type(header),
        "base_timestamp_ms": ms(header.base_timestamp),
        "max_timestamp_ms": ms(header.max_timestamp),
        "leader_epoch": header.leader_epoch.map(|epoch| epoch.0),
        "producer_id": header.producer.map(|producer| producer.id.0),
        "producer_epoch": header.producer.map(|producer| producer.epoch.0),
        "base_sequence": header.producer.and_then(|producer| producer.base_sequence).map(|first| first.0),
        "last_sequence": header.last_sequence().map(|last| last.0),
        "transactional": header.is_transactional(),
        "control": marker(batch),
        "delete_horizon_ms": ms(header.delete_horizon()),
    })
}

fn batch_text(position: u64, batch: &RecordBatch, crc_valid: bool) -> String {
    let header = batch.header();
    let mut text = format!(
        "position {position}: offsets {} to {}, {} records, {} bytes, {}, crc {:08x} {}",
        header.base_offset,
        header.last_offset(),
        header.record_count,
        header.size_bytes,
        header.codec.name(),
        header.crc,
        if crc_valid { "valid" } else { "INVALID" },
    );
    if let Some(time) = header.max_timestamp {
        text.push_str(&format!(
            ", greatest time {} ({})",
            time::format(time),
            timestamp_type(header)
        ));
    }
    if let Some(epoch) = header.leader_epoch {
        text.push_str(&format!(", leader epoch {epoch}"));
    }
    if let Some(producer) = header.producer {
        text.push_str(&format!(", producer {} epoch {}", producer.id, producer.epoch));
        if let (Some(first), Some(last)) = (producer.base_sequence, header.last_sequence()) {
            text.push_str(&format!(" sequences {first} to {last}"));
        }
    }
    if header.is_transactional() {
        text.push_str(", transactional");
    }
    if let Some(marker) = marker(batch) {
        text.push_str(&format!(", {marker} marker"));
    }
    if let Some(horizon) = header.delete_horizon() {
        text.push_str(&format!(", delete horizon {}", time::format(horizon)));
    }
    text
}

#[cfg(test)]
#[path = "segment_tests.rs"]
mod tests;
