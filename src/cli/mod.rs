//! The command line: `siltstone COMMAND`.
//!
//! Invariants
//! - Exit code 0 done, 1 failed or not found, 2 wrong usage; an error is one line on standard error.
//! - Standard output carries what was asked for alone: with `--json`, one object a line.
//! - A closed output pipe ends a command in peace.
//!
//! Each command has a file of its own. What is not here: anything a program could not do through `client`.

mod bench;
mod bench_run;
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
mod tier;
mod time;
mod topic;

use std::io::Write as _;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand};

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
    /// Look after what is in the object store
    #[command(subcommand)]
    Tier(tier::TierCommand),
    /// Look into segment files, without a server
    #[command(subcommand)]
    Segment(segment::SegmentCommand),
    /// Measure, beside the machine's own limits
    Bench(bench::BenchArgs),
    /// Print a completion script for a shell
    Completion(completion::CompletionArgs),
}

/// Commands that talk to no server: the flags that name one mean nothing to them.
const WITHOUT_SERVER: [&[&str]; 6] = [
    &["serve"],
    &["segment"],
    &["completion"],
    &["bench", "compare"],
    &["tier", "verify"],
    &["tier", "restore"],
];

/// Returns the description of the command line: every command, flag and help text.
pub fn command() -> clap::Command {
    let command = Cli::command();
    let hidden: Vec<_> = command
        .get_arguments()
        .filter(|argument| argument.is_global_set())
        .map(|argument| argument.clone().hide(true))
        .collect();
    WITHOUT_SERVER
        .into_iter()
        .fold(command, |command, path| without_flags(command, path, &hidden))
}

/// Hides flags from the command that `path` leads to, if this build has it.
fn without_flags(command: clap::Command, path: &[&str], hidden: &[clap::Arg]) -> clap::Command {
    match path.split_first() {
        None => command.args(hidden),
        Some((&name, rest)) if command.find_subcommand(name).is_some() => {
            let name = name.to_owned();
            command.mut_subcommand(name, |subcommand| without_flags(subcommand, rest, hidden))
        }
        Some(_) => command,
    }
}

/// Runs the command that the process's arguments name, and returns the code to end with.
pub fn run() -> ExitCode {
    let matches = match command().try_get_matches() {
        Ok(matches) => matches,
        Err(error) => return complain(&error),
    };
    match parse(&matches).and_then(dispatch) {
        Ok(code) => code,
        Err(error) => {
            let help = match error {
                CliError::Usage(_) => format!("; see {} --help", named(&matches)),
                _ => String::new(),
            };
            end(&error, &help)
        }
    }
}

/// Says why a command ended, where there is something to say, and returns its code.
fn end(error: &CliError, help: &str) -> ExitCode {
    let (code, said) = error.exit();
    if said == Said::Error {
        output::say(&format!("siltstone: {error}{help}"));
    }
    code
}

/// Returns the command that was called, as it is typed: `siltstone topic create`.
fn named(matches: &ArgMatches) -> String {
    let (mut name, mut inner) = ("siltstone".to_owned(), matches);
    while let Some((subcommand, more)) = inner.subcommand() {
        name = format!("{name} {subcommand}");
        inner = more;
    }
    name
}

/// Says what is wrong with the command line, in one line, and returns the code to end with; help and version come here too,
/// and are told whole.
fn complain(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        // Through clap, which knows whether the terminal takes colours.
        let printed = error.print().and_then(|()| std::io::stdout().flush());
        return match printed {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => end(&CliError::Output(error), ""),
        };
    }
    let text = error.render().to_string();
    let command = called(&text);
    let told = match error.kind() {
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand | ErrorKind::MissingSubcommand => {
            "a command is missing".to_owned()
        }
        _ => wrong(&text),
    };
    output::say(&format!("siltstone: {told}; see {command} --help"));
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
}

/// Joins what clap says of a mistake into one line, without what it says of usage.
fn wrong(text: &str) -> String {
    let paragraphs = text
        .split("\n\n")
        .take_while(|part| !part.starts_with("Usage:") && !part.starts_with("For more information"))
        .map(|part| part.split_whitespace().collect::<Vec<_>>().join(" "))
        // How to pass the flag as a value: nobody who mistyped a flag wants that.
        .filter(|part| !part.starts_with("tip: to pass "));
    let told = paragraphs.collect::<Vec<_>>().join("; ");
    told.strip_prefix("error: ").unwrap_or(&told).to_owned()
}

/// Returns the command that clap's text is about: the words of its usage before the first flag or argument. A bad value comes
/// without a usage; then the words that the user typed tell.
fn called(text: &str) -> String {
    let usage = text.lines().find_map(|line| line.strip_prefix("Usage: "));
    if let Some(usage) = usage {
        let words = usage
            .split(' ')
            .take_while(|word| !word.starts_with(['[', '<', '-']));
        return words.collect::<Vec<_>>().join(" ");
    }
    let (mut name, mut inner) = ("siltstone".to_owned(), command());
    for word in std::env::args().skip(1) {
        if let Some(subcommand) = inner.find_subcommand(&word).cloned() {
            name = format!("{name} {word}");
            inner = subcommand;
        }
    }
    name
}

fn parse(matches: &ArgMatches) -> Result<Cli, CliError> {
    let mut cli =
        Cli::from_arg_matches(matches).map_err(|error| CliError::Usage(wrong(&error.to_string())))?;
    cli.server.note_origins(matches);
    let without_server = WITHOUT_SERVER.into_iter().find(|path| {
        let mut inner = Some(matches);
        path.iter().all(|name| {
            let sub = inner.and_then(ArgMatches::subcommand);
            inner = sub.map(|(_, matches)| matches);
            sub.is_some_and(|(called, _)| called == *name)
        })
    });
    if let (Some(path), Some(flag)) = (without_server, cli.server.flag()) {
        // Taken in silence, `serve --tls-key` would look like a server with TLS.
        let text = format!(
            "{flag} is for talking to a server, which '{}' does not do",
            path.join(" ")
        );
        return Err(CliError::Usage(text));
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
        Command::Tier(command) => tier::run(command, &cli.server),
        Command::Segment(command) => segment::run(command),
        Command::Bench(args) => connect::block_on(bench::run(&cli.server, args)),
        Command::Completion(args) => completion::run(&args, &mut command()),
    }
}
