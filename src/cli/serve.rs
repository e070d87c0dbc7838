//! `siltstone serve`: runs the server until it is told to stop.
//!
//! Standard output carries the ready line alone; logs go to standard error. SIGTERM and Ctrl-C stop cleanly and exit 0; a
//! second Ctrl-C exits at once, and the next start recovers. With `--exit-with-parent` the end of standard input is a stop, too.

use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::pin::pin;
use std::process::ExitCode;

use clap::Args;
use futures_util::FutureExt as _;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use crate::config::{self, ConfigError, DataLife, Loaded, ServerLife, Sources};
use crate::server::{Server, StartError, StopError};

/// Exit code of a process that Ctrl-C ended, by the shells' custom.
const INTERRUPTED: i32 = 130;

/// Flags of `siltstone serve`.
#[derive(Args, Clone, Debug, Default)]
#[command(
    after_help = "Every setting has a key for --config and --set and a variable in the environment: grpc.listen is \
    SILTSTONE_GRPC_LISTEN. docs/siltstone.example.toml lists them all. A flag wins over the environment, the environment \
    over the file."
)]
pub struct ServeArgs {
    /// Directory of the data [key: data_dir, default: ./siltstone-data]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<String>,
    /// Address of gRPC; port 0 picks a free one [key: grpc.listen, default: 127.0.0.1:9095]
    #[arg(long, value_name = "HOST:PORT")]
    pub grpc_listen: Option<String>,
    /// Address of HTTP: health and metrics [key: http.listen, default: 127.0.0.1:9644]
    #[arg(long, value_name = "HOST:PORT")]
    pub http_listen: Option<String>,
    /// Archive of sealed segments: s3://, gs://, az:// or file:/// [key: tier.url]
    #[arg(long, value_name = "URL")]
    pub tier_url: Option<String>,
    /// Fill an empty data directory from the archive; =download brings all of it to the local disk [key: tier.restore]
    #[arg(long, value_name = "HOW", num_args = 0..=1, require_equals = true, default_missing_value = "cold", value_parser = ["cold", "download"])]
    pub restore: Option<String>,
    /// Show another server's archive and write nothing to it [key: tier.read_only]
    #[arg(long)]
    pub read_only: bool,
    /// Configuration file [env: SILTSTONE_CONFIG]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Delete the data at exit; without --data-dir it lies in a temporary directory [key: ephemeral]
    #[arg(long)]
    pub ephemeral: bool,
    /// Stop when standard input closes, as it does when the program that started this one ends [key: exit_with_parent]
    #[arg(long)]
    pub exit_with_parent: bool,
    /// Any other setting; repeatable
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

/// Why `serve` failed.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Flags or configuration that are wrong: exit code 2.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A `--set` without `=`: exit code 2.
    #[error("--set {text} is not KEY=VALUE")]
    NotPair {
        /// What was given.
        text: String,
    },
    /// A variable of ours that is no text: exit code 2.
    #[error("{} is {value:?} in the environment, which is not UTF-8: set it to text, or use a flag", name.display())]
    NotText {
        /// The variable.
        name: OsString,
        /// What it is set to.
        value: OsString,
    },
    /// A log filter that cannot be: exit code 2.
    #[error("log is {filter:?}: {reason}")]
    LogFilter {
        /// What was given.
        filter: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The data directory of a server whose data is not kept holds data.
    #[error(
        "{dir} is not empty, and --ephemeral would delete what it holds at exit: choose another --data-dir"
    )]
    NotEmpty {
        /// The directory.
        dir: String,
    },
    /// Nobody can say whether the data directory of such a server is empty.
    #[error(
        "cannot look into {dir}: {source}; choose another --data-dir, or leave it out for a temporary one"
    )]
    Unlisted {
        /// The directory.
        dir: String,
        /// What the operating system said.
        source: io::Error,
    },
    /// The operating system refused something before the server could start.
    #[error("cannot {action}: {source}")]
    System {
        /// What was tried.
        action: String,
        /// What it said.
        source: io::Error,
    },
    /// The server did not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The server did not stop cleanly.
    #[error(transparent)]
    Stop(#[from] StopError),
    /// Another server has the archive now.
    #[error("stopped: {reason}")]
    ArchiveLost {
        /// Which object shows it.
        reason: String,
    },
}

impl ServeError {
    /// Returns the exit code: 2 for wrong usage, else 1.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Config(_) | Self::NotPair { .. } | Self::NotText { .. } | Self::LogFilter { .. } => {
                ExitCode::from(2)
            }
            Self::NotEmpty { .. }
            | Self::Unlisted { .. }
            | Self::System { .. }
            | Self::Start(_)
            | Self::Stop(_)
            | Self::ArchiveLost { .. } => ExitCode::FAILURE,
        }
    }
}

/// Runs a server until a signal stops it.
///
/// # Errors
/// Why it did not start, or not stop cleanly.
pub fn serve(args: ServeArgs) -> Result<ExitCode, ServeError> {
    let mut loaded = config::load(&sources(args)?)?;
    log_to_stderr(&loaded.config.log)?;
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    let ephemeral = Ephemeral::claim(&mut loaded)?;
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    if loaded.config.worker_threads > 0 {
        runtime.worker_threads(loaded.config.worker_threads);
    }
    let runtime = runtime
        .enable_all()
        .build()
        .map_err(|source| ServeError::System {
            action: "start threads".to_owned(),
            source,
        })?;
    let outcome = runtime.block_on(run(loaded, &ephemeral));
    // What is still computing for a client that is gone need not be waited for.
    runtime.shutdown_background();
    outcome.map(|()| ExitCode::SUCCESS)
}

/// Completes when standard input ends, if the server lives with its parent. The thread that reads it ends with the process.
fn parent_gone(life: ServerLife) -> Result<impl Future<Output = ()>, ServeError> {
    let (gone, ending) = tokio::sync::oneshot::channel();
    if life == ServerLife::OfParent {
        let watch = move || {
            // What it says does not matter, and a failure is an end, too.
            let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
            let _ = gone.send(());
        };
        std::thread::Builder::new()
            .name("siltstone-parent".to_owned())
            .spawn(watch)
            .map_err(|source| ServeError::System {
                action: "watch standard input".to_owned(),
                source,
            })?;
    }
    Ok(async move {
        match (life, ending.await) {
            (ServerLife::OfParent, _) => {}
            (ServerLife::Own, _) => std::future::pending().await,
        }
    })
}

async fn run(loaded: Loaded, ephemeral: &Ephemeral) -> Result<(), ServeError> {
    let watch = |kind| {
        signal(kind).map_err(|source| ServeError::System {
            action: "watch for signals".to_owned(),
            source,
        })
    };
    let mut terminate = watch(SignalKind::terminate())?;
    let mut interrupt = watch(SignalKind::interrupt())?;
    let mut parent_gone = pin!(parent_gone(loaded.config.server_life)?.fuse());
    let server = tokio::select! {
        started = Server::start(loaded.config) => started?,
        // A recovery that is cut short starts anew; nothing is lost by leaving.
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
        () = &mut parent_gone => return Ok(()),
    };
    announce(&server.ready_line());
    tracing::info!(grpc = %server.grpc_addr(), http = %server.http_addr(), "ready");
    let archive_lost = server.broker().archive_lost();
    let mut lost = None;
    let signal = tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "Ctrl-C",
        () = &mut parent_gone => "none: standard input is closed",
        reason = archive_lost => {
            lost = Some(reason);
            "none: the archive belongs to another server"
        }
    };
    tracing::info!(signal, "stopping; a second Ctrl-C exits at once");
    tokio::select! {
        stopped = server.stop() => stopped?,
        _ = interrupt.recv() => {
            ephemeral.remove();
            std::process::exit(INTERRUPTED);
        }
    }
    tracing::info!("stopped");
    lost.map_or(Ok(()), |reason| Err(ServeError::ArchiveLost { reason }))
}

/// Prints the ready line. Nobody may be reading it any more, which is no reason not to serve.
fn announce(ready_line: &str) {
    let mut stdout = io::stdout().lock();
    if let Err(error) = writeln!(stdout, "{ready_line}").and_then(|()| stdout.flush()) {
        tracing::debug!(%error, "nobody reads standard output");
    }
}

fn sources(args: ServeArgs) -> Result<Sources, ServeError> {
    let environment = ours(std::env::vars_os())?;
    let mut flags = Vec::new();
    for text in args.set {
        match text.split_once('=') {
            Some((key, value)) => flags.push((key.trim().to_owned(), value.to_owned())),
            None => return Err(ServeError::NotPair { text }),
        }
    }
    let named = [
        ("data_dir", args.data_dir),
        ("grpc.listen", args.grpc_listen),
        ("http.listen", args.http_listen),
        ("tier.url", args.tier_url),
        ("tier.restore", args.restore),
        ("tier.read_only", args.read_only.then(|| "true".to_owned())),
        ("ephemeral", args.ephemeral.then(|| "true".to_owned())),
        (
            "exit_with_parent",
            args.exit_with_parent.then(|| "true".to_owned()),
        ),
    ];
    flags.extend(
        named
            .into_iter()
            .filter_map(|(key, value)| Some((key.to_owned(), value?))),
    );
    let file = args.config.or_else(|| {
        let named = environment
            .iter()
            .find(|(name, _)| name == config::CONFIG_VARIABLE);
        named.map(|(_, path)| PathBuf::from(path))
    });
    Ok(Sources {
        file,
        environment,
        flags,
    })
}

/// The variables that may be settings. Those of others, whatever they begin with, may hold anything.
fn ours(all: impl Iterator<Item = (OsString, OsString)>) -> Result<Vec<(String, String)>, ServeError> {
    let prefix = config::ENV_PREFIX.as_bytes();
    all.filter(|(name, _)| name.as_encoded_bytes().starts_with(prefix))
        .map(|(name, value)| {
            let told = name.to_string_lossy().into_owned();
            match value.into_string() {
                Err(value) if config::reads_variable(&told) => Err(ServeError::NotText { name, value }),
                text => Ok((told, text.unwrap_or_default())),
            }
        })
        .collect()
}

fn log_to_stderr(filter: &str) -> Result<(), ServeError> {
    let parsed = EnvFilter::try_new(filter).map_err(|error| ServeError::LogFilter {
        filter: filter.to_owned(),
        reason: error.to_string(),
    })?;
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(parsed)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .finish();
    // It fails only when logs go somewhere already, and there they stay.
    let _ = tracing::subscriber::set_global_default(subscriber);
    Ok(())
}

/// The directory of data that is not kept; removed when this is dropped.
#[derive(Debug)]
struct Ephemeral(Option<PathBuf>);

impl Ephemeral {
    /// Finds the directory and makes sure that it is nobody's.
    fn claim(loaded: &mut Loaded) -> Result<Self, ServeError> {
        if loaded.config.data_life == DataLife::Kept {
            return Ok(Self(None));
        }
        let is_placed = !loaded.wants_temporary_directory();
        let data_dir = &mut loaded.config.broker.data_dir;
        let failed = |action: &str| {
            let action = action.to_owned();
            move |source| ServeError::System { action, source }
        };
        if !is_placed {
            let made = tempfile::Builder::new().prefix("siltstone-").tempdir();
            *data_dir = made.map_err(failed("make a temporary directory"))?.keep();
            return Ok(Self(Some(data_dir.clone())));
        }
        match std::fs::read_dir(&*data_dir).map(|mut entries| entries.next().is_none()) {
            Ok(true) => Ok(Self(Some(data_dir.clone()))),
            Ok(false) => Err(ServeError::NotEmpty {
                dir: data_dir.display().to_string(),
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self(Some(data_dir.clone()))),
            Err(source) => Err(ServeError::Unlisted {
                dir: data_dir.display().to_string(),
                source,
            }),
        }
    }

    fn remove(&self) {
        let Some(dir) = &self.0 else { return };
        match std::fs::remove_dir_all(dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(dir = %dir.display(), %error, "cannot delete the data");
            }
            _ => {}
        }
    }
}

impl Drop for Ephemeral {
    fn drop(&mut self) {
        self.remove();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loaded(flags: &[(&str, &str)]) -> Loaded {
        let flags = flags
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        config::load(&Sources {
            flags,
            ..Sources::default()
        })
        .unwrap()
    }

    #[test]
    fn data_that_is_not_kept_goes_with_its_directory() {
        let mut loaded = loaded(&[("ephemeral", "true")]);
        let ephemeral = Ephemeral::claim(&mut loaded).unwrap();
        let dir = loaded.config.broker.data_dir;
        std::fs::write(dir.join("data"), "x").unwrap();
        drop(ephemeral);
        assert!(!dir.exists());
    }

    #[test]
    fn a_directory_that_holds_something_is_never_taken_for_data_that_is_not_kept() {
        let dir = tempfile::tempdir().unwrap();
        let name = dir.path().display().to_string();
        let flags = [("ephemeral", "true"), ("data_dir", name.as_str())];
        assert!(Ephemeral::claim(&mut loaded(&flags)).is_ok_and(|claimed| claimed.0.is_some()));
        std::fs::create_dir(dir.path()).unwrap();
        std::fs::write(dir.path().join("precious"), "x").unwrap();
        let refused = Ephemeral::claim(&mut loaded(&flags)).unwrap_err();
        assert!(
            refused.to_string().starts_with(&format!("{name} is not empty")),
            "{refused}"
        );
        assert!(dir.path().join("precious").exists());
    }

    #[test]
    fn a_directory_that_cannot_be_looked_into_is_told_with_what_to_do() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let name = file.path().display().to_string();
        let flags = [("ephemeral", "true"), ("data_dir", name.as_str())];
        let refused = Ephemeral::claim(&mut loaded(&flags)).unwrap_err().to_string();
        assert!(
            refused.starts_with(&format!("cannot look into {name}: "))
                && refused.ends_with("; choose another --data-dir, or leave it out for a temporary one"),
            "{refused}"
        );
    }

    /// A flag as it says of itself where else its setting can be given.
    fn key_told(flag: &clap::Arg) -> Option<String> {
        let help = flag.get_help()?.to_string();
        let (_, told) = help.split_once("[key: ")?;
        Some(told.split([',', ']']).next()?.to_owned())
    }

    #[test]
    fn every_flag_has_a_key_in_the_file_and_a_variable_and_sets_what_they_set() {
        use clap::FromArgMatches as _;
        let mut command = ServeArgs::augment_args(clap::Command::new("serve").no_binary_name(true));
        command.build();
        let mut keys = 0;
        for flag in command.get_arguments() {
            let long = flag.get_long().expect("all are long");
            if ["config", "set", "help"].contains(&long) {
                // They name the sources themselves; the file has a variable.
                continue;
            }
            let key = key_told(flag).unwrap_or_else(|| panic!("--{long} tells no key"));
            let setting = config::SETTINGS.iter().find(|setting| setting.key == key);
            let variable = setting
                .unwrap_or_else(|| panic!("--{long}: {key} is no key"))
                .variable();
            assert!(config::reads_variable(&variable), "{variable}");
            let given = match flag.get_num_args().expect("it is built").max_values() {
                0 => format!("--{long}"),
                _ if flag.is_require_equals_set() => format!("--{long}=download"),
                _ => format!("--{long}=h:1"),
            };
            let matches = command.clone().try_get_matches_from([&given]).unwrap();
            let flags = sources(ServeArgs::from_arg_matches(&matches).unwrap())
                .unwrap()
                .flags;
            assert_eq!(flags.len(), 1, "{given}: {flags:?}");
            assert_eq!(flags[0].0, key, "{given}");
            keys += 1;
        }
        assert_eq!(keys, 8);
        assert!(config::reads_variable(config::CONFIG_VARIABLE));
    }

    #[test]
    fn a_flag_of_its_own_wins_over_the_same_key_in_set() {
        let args = ServeArgs {
            grpc_listen: Some("flag:1".into()),
            set: vec!["grpc.listen=set:1".into(), "topics.num_partitions=4".into()],
            ..ServeArgs::default()
        };
        let loaded = config::load(&Sources {
            environment: Vec::new(),
            ..sources(args).unwrap()
        })
        .unwrap();
        assert_eq!(loaded.config.grpc.listen, "flag:1");
        assert_eq!(loaded.config.broker.num_partitions, 4);
        let wrong = ServeArgs {
            set: vec!["no-pair".into()],
            ..ServeArgs::default()
        };
        assert_eq!(
            sources(wrong).unwrap_err().to_string(),
            "--set no-pair is not KEY=VALUE"
        );
    }
}
