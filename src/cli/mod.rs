//! The command line: `siltstone COMMAND`.
//!
//! Invariants
//! - Exit code 0 done, 1 failed or not found, 2 wrong usage; an error is one line on standard error.
//! - Standard output carries what was asked for alone: with `--json`, one object a line.
//! - A closed output pipe ends a command in peace.
//!
//! Each command has a file of its own. What is not here: anything a program could not do through `client`.

mod bench;
mod compact;
mod completion;
mod connect;
mod error;
mod input;
mod interrupts;
mod json_line;
mod offsets;
mod output;
mod produce;
mod produce_record;
mod read;
mod record_text;
mod retention;
mod segment;
pub mod serve;
mod time;
mod topic;

use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use self::connect::ServerArgs;
pub use self::error::CliError;
use self::error::Said;

/// A log you can query: keeps event streams for good, in Apache Kafka's file format, served over gRPC.
#[derive(Parser, Debug)]
#[command(name = "siltstone", version, max_term_width = 100)]
#[command(after_help = "Exit codes: 0 done, 1 failed or not found, 2 wrong usage.")]
struct Cli {
    #[command(flatten)]
    server: ServerArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Run a server
    Serve(serve::ServeArgs),
    /// Create, list, describe, change and delete topics
    #[command(subcommand)]
    Topic(topic::TopicCommand),
    /// Write lines of a file or of standard input to a topic
    Produce(produce::ProduceArgs),
    /// Print records of a topic
    Read(read::ReadArgs),
    /// Find offsets by time, or the ends of the log
    Offsets(offsets::OffsetsArgs),
    /// Look into segment files, without a server
    #[command(subcommand)]
    Segment(segment::SegmentCommand),
    /// Measure, beside the machine's own limits
    Bench(bench::BenchArgs),
    /// Print a completion script for a shell
    Completion(completion::CompletionArgs),
}

/// Commands that talk to no server: the flags that name one mean nothing to them.
const WITHOUT_SERVER: [&str; 3] = ["serve", "segment", "completion"];

/// Returns the description of the command line: every command, flag and help text.
pub fn command() -> clap::Command {
    let command = Cli::command();
    let hidden: Vec<_> = command
        .get_arguments()
        .filter(|argument| argument.is_global_set())
        .map(|argument| argument.clone().hide(true))
        .collect();
    WITHOUT_SERVER.into_iter().fold(command, |command, name| {
        command.mut_subcommand(name, |subcommand| subcommand.args(hidden.clone()))
    })
}

/// Runs the command that the process's arguments name, and returns the code to end with.
pub fn run() -> ExitCode {
    let cli = match parse() {
        Ok(cli) => cli,
        Err(error) => {
            complain(&error);
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    match dispatch(cli) {
        Ok(code) => code,
        Err(error) => {
            let (code, said) = error.exit();
            if said == Said::Error {
                output::say(&format!("siltstone: {error}"));
            }
            code
        }
    }
}

/// Says what is wrong with the command line, in one line; help and version come here too, and are told whole.
fn complain(error: &clap::Error) {
    let is_help = error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand;
    if is_help || !error.use_stderr() {
        // Nobody is left to hear that printing failed.
        let _ = error.print();
        return;
    }
    let text = error.render().to_string();
    let paragraphs = text
        .split("\n\n")
        .take_while(|part| !part.starts_with("Usage:") && !part.starts_with("For more information"))
        .map(|part| part.split_whitespace().collect::<Vec<_>>().join(" "));
    let told = paragraphs.collect::<Vec<_>>().join("; ");
    let told = told.strip_prefix("error: ").unwrap_or(&told);
    output::say(&format!("siltstone: {told}; --help tells more"));
}

fn parse() -> Result<Cli, clap::Error> {
    let matches = command().try_get_matches()?;
    let mut cli = Cli::from_arg_matches(&matches)?;
    cli.server.note_origins(&matches);
    let without_server = WITHOUT_SERVER
        .into_iter()
        .find(|name| matches.subcommand_name() == Some(name));
    if let (Some(name), Some(flag)) = (without_server, cli.server.flag()) {
        // Taken in silence, `serve --tls-key` would look like a server with TLS.
        let text = format!("{flag} is for talking to a server, which '{name}' does not do");
        return Err(command().error(ErrorKind::ArgumentConflict, text));
    }
    Ok(cli)
}

fn dispatch(cli: Cli) -> Result<ExitCode, CliError> {
    match cli.command {
        Command::Serve(args) => Ok(serve::serve(args)?),
        Command::Topic(command) => connect::block_on(topic::run(&cli.server, command)),
        Command::Produce(args) => connect::block_on(produce::run(&cli.server, args)),
        Command::Read(args) => connect::block_on(read::run(&cli.server, args)),
        Command::Offsets(args) => connect::block_on(offsets::run(&cli.server, args)),
        Command::Segment(command) => segment::run(command),
        Command::Bench(args) => connect::block_on(bench::run(&cli.server, args)),
        Command::Completion(args) => completion::run(&args, &mut command()),
    }
}
