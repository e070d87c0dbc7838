//! A consumer that keeps its offsets with its output, as stream processors do: one file a batch, each with the resume token that
//! covers it.
//!
//! ```text
//! cargo run --example micro_batches -- 127.0.0.1:9095 flights ./flights-out
//! ```
//!
//! 1. Read records until there are enough for a batch. If it dies here: nothing was written, and they are read again.
//! 2. Write token and records to a file under a temporary name, and sync it. If it dies here: the leftover is overwritten.
//! 3. Rename it to its number, and sync the directory. From here on the batch counts, and its token with it: there is no moment at
//!    which one is there without the other.
//!
//! A run begins at the token of the file with the greatest number.

#![allow(clippy::print_stdout, reason = "what an example has to say")]

use std::error::Error;
use std::path::Path;

use siltstone::client::{Client, ReadSpec, ResumeToken};
use tokio::fs;
use tokio::io::AsyncWriteExt;

/// A batch is written when it holds as many records.
const BATCH_RECORDS: usize = 1000;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [server, topic, dir] = arguments.as_slice() else {
        return Err("three arguments: a server, the topic to read, and a directory".into());
    };
    let client = Client::connect(server).await?;
    let batches = consume(&client, topic, Path::new(dir)).await?;
    println!("{batches} batches written to {dir}");
    Ok(())
}

/// Writes what `dir` does not hold yet of `topic`, and returns in how many batches.
pub(crate) async fn consume(client: &Client, topic: &str, dir: &Path) -> Result<u64, Box<dyn Error>> {
    fs::create_dir_all(dir).await?;
    let (first, resume) = written_so_far(dir).await?;
    let spec = ReadSpec {
        resume,
        ..ReadSpec::default()
    };
    let mut reader = client.read(topic, spec).await?;
    let (mut number, mut records, mut lines) = (first, 0, String::new());
    while let Some(chunk) = reader.next().await? {
        for record in reader.records(&chunk) {
            let value = record?.value.unwrap_or_default();
            lines.push_str(&String::from_utf8_lossy(&value).replace('\n', " "));
            lines.push('\n');
            records += 1;
        }
        // Between two chunks: there the token covers exactly what was read.
        if records >= BATCH_RECORDS {
            write_batch(dir, number, reader.resume_token(), &lines).await?;
            (number, records) = (number + 1, 0);
            lines.clear();
        }
    }
    if records > 0 {
        write_batch(dir, number, reader.resume_token(), &lines).await?;
        number += 1;
    }
    Ok(number - first)
}

/// Returns the number of the next batch, and where it begins.
async fn written_so_far(dir: &Path) -> Result<(u64, ResumeToken), Box<dyn Error>> {
    let mut greatest = None;
    let mut entries = fs::read_dir(dir).await?;
    while let Some(entry) = entries.next_entry().await? {
        let name = entry.file_name();
        let number = name
            .to_str()
            .and_then(|name| name.strip_suffix(".batch")?.parse::<u64>().ok());
        greatest = greatest.max(number);
    }
    let Some(greatest) = greatest else {
        return Ok((0, ResumeToken::default()));
    };
    let batch = fs::read_to_string(dir.join(format!("{greatest}.batch"))).await?;
    let token = batch.lines().next().ok_or("a batch without a token")?;
    Ok((greatest + 1, token.parse()?))
}

async fn write_batch(
    dir: &Path,
    number: u64,
    token: &ResumeToken,
    lines: &str,
) -> Result<(), Box<dyn Error>> {
    let unfinished = dir.join("unfinished");
    let mut file = fs::File::create(&unfinished).await?;
    file.write_all(format!("{token}\n{lines}").as_bytes()).await?;
    file.sync_all().await?;
    fs::rename(&unfinished, dir.join(format!("{number}.batch"))).await?;
    // The name itself is on disk once its directory is.
    fs::File::open(dir).await?.sync_all().await?;
    Ok(())
}
