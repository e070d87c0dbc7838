//! Reading a configuration from its sources, the stronger over the weaker.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use super::table::{ENV_PREFIX, TOPIC_DEFAULTS};
use super::value::nearest;
use super::{Config, DataLife, SETTINGS, Setting};
use crate::broker::{Access, Restore, Settings};

/// Variables of the environment that begin as settings do and are none.
const OTHER_VARIABLES: [&str; 5] = [
    "SILTSTONE_SERVER",
    "SILTSTONE_TLS_CA",
    "SILTSTONE_TLS_CERTIFICATE",
    "SILTSTONE_TLS_KEY",
    CONFIG_VARIABLE,
];

/// The variable that names the file.
pub const CONFIG_VARIABLE: &str = "SILTSTONE_CONFIG";

/// Greatest configuration file, in bytes: a thousand times what all settings take.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// What a configuration is read from.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The file, when one is named.
    pub file: Option<PathBuf>,
    /// The environment; only names that begin with `SILTSTONE_` matter.
    pub environment: Vec<(String, String)>,
    /// Keys and values of the command line; the last of a key wins.
    pub flags: Vec<(String, String)>,
}

/// Where a value was given.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Origin {
    /// In this file.
    File(PathBuf),
    /// By this variable.
    Variable(String),
    /// On the command line.
    Flag,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "in {}", path.display()),
            Self::Variable(name) => write!(f, "in the environment as {name}"),
            Self::Flag => f.write_str("on the command line"),
        }
    }
}

/// A configuration and how it came to be.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What to run with.
    pub config: Config,
    /// Where each key was given that was given at all; topic settings under `topic_defaults.`.
    pub given: BTreeMap<String, Origin>,
    /// What is odd and went on.
    pub warnings: Vec<String>,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read configuration {}: {source}", path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// What the disk says.
        source: io::Error,
    },
    /// The file is no configuration: too long for one, or without an end.
    #[error("configuration {} has more than {MAX_FILE_BYTES} bytes; is it the right file?", path.display())]
    TooLarge {
        /// Which file.
        path: PathBuf,
    },
    /// The file is not TOML.
    #[error("configuration {} is not TOML at line {line}: {reason}", path.display())]
    NotToml {
        /// Which file.
        path: PathBuf,
        /// Where, counted from 1.
        line: usize,
        /// Why.
        reason: String,
    },
    /// A name that is no setting.
    #[error("unknown setting {key} {origin}{}", hint.as_ref().map_or(String::new(), |near| format!("; did you mean {near}?")))]
    Unknown {
        /// The name.
        key: String,
        /// Where it was given.
        origin: Origin,
        /// What it was probably meant to be.
        hint: Option<&'static str>,
    },
    /// A value that cannot be.
    #[error("{key} {origin} is {value:?}; it must be {wanted}")]
    Invalid {
        /// Of which setting.
        key: String,
        /// Where it was given.
        origin: Origin,
        /// What was given.
        value: String,
        /// What is taken.
        wanted: String,
    },
    /// A setting for new topics that the broker refuses.
    #[error("{key} {origin}: {reason}")]
    TopicDefault {
        /// Of which setting.
        key: String,
        /// Where it was given.
        origin: Origin,
        /// What is wrong and what would be right, as the broker tells it.
        reason: String,
    },
    /// Settings for new topics that are sound one by one and do not go together.
    #[error("topic_defaults do not go together: {reason}; they are given {origins}")]
    TopicDefaults {
        /// What is wrong and what would be right, as the broker tells it.
        reason: String,
        /// Where they were given, each place once.
        origins: String,
    },
    /// Settings that do not go together.
    #[error("{reason}")]
    Contradiction {
        /// Which, and what to do.
        reason: &'static str,
    },
}

struct Given {
    key: String,
    value: String,
    origin: Origin,
}

/// Reads the configuration.
///
/// # Errors
/// The first thing that is wrong, where it was given and what would be right.
pub fn load(sources: &Sources) -> Result<Loaded, ConfigError> {
    let mut given = Vec::new();
    if let Some(path) = &sources.file {
        given.extend(from_file(path)?);
    }
    let mut warnings = Vec::new();
    for (name, value) in &sources.environment {
        match key_of_variable(name) {
            Some(key) => given.push(Given {
                key,
                value: value.clone(),
                origin: Origin::Variable(name.clone()),
            }),
            None => warnings.extend(warning(name)),
        }
    }
    given.extend(sources.flags.iter().map(|(key, value)| Given {
        key: key.clone(),
        value: value.clone(),
        origin: Origin::Flag,
    }));
    let mut loaded = Loaded {
        config: Config::default(),
        given: BTreeMap::new(),
        warnings,
    };
    for given in given {
        apply(&mut loaded, given)?;
    }
    check(&loaded.config)?;
    check_topic_defaults(&loaded)?;
    Ok(loaded)
}

impl Loaded {
    /// True when the data goes to a temporary directory: it is not kept, and no place was named for it.
    pub fn wants_temporary_directory(&self) -> bool {
        self.config.data_life == DataLife::Ephemeral && !self.given.contains_key("data_dir")
    }
}

fn apply(loaded: &mut Loaded, given: Given) -> Result<(), ConfigError> {
    let Given { key, value, origin } = given;
    if let Some(topic_setting) = key.strip_prefix(TOPIC_DEFAULTS) {
        // Alone, so that the place of a wrong one is known.
        let alone = BTreeMap::from([(topic_setting.to_owned(), value.clone())]);
        if let Err(refused) = Settings::new(&alone) {
            let reason = refused.to_string();
            return Err(ConfigError::TopicDefault { key, origin, reason });
        }
        loaded
            .config
            .broker
            .topic_defaults
            .insert(topic_setting.to_owned(), value);
    } else {
        let Some(setting) = SETTINGS.iter().find(|setting| setting.key == key) else {
            let hint = nearest(&key, SETTINGS.iter().map(|setting| setting.key));
            return Err(ConfigError::Unknown { key, origin, hint });
        };
        if let Err(wanted) = setting.apply(&mut loaded.config, &value) {
            return Err(ConfigError::Invalid {
                key,
                origin,
                value,
                wanted,
            });
        }
    }
    loaded.given.insert(key, origin);
    Ok(())
}

fn check(config: &Config) -> Result<(), ConfigError> {
    let archive = &config.broker.archive;
    if archive.url.is_none() && archive.restore != Restore::Off {
        return Err(ConfigError::Contradiction {
            reason: "tier.restore is set without tier.url, which says from where",
        });
    }
    if archive.access == Access::Read {
        let reason = match (&archive.url, archive.restore) {
            (None, _) => "tier.read_only is set without tier.url, which says whose archive",
            (Some(_), Restore::Off) => return check_tls(config),
            (Some(_), _) => "tier.read_only and tier.restore exclude each other: what is restored is owned",
        };
        return Err(ConfigError::Contradiction { reason });
    }
    check_tls(config)
}

fn check_tls(config: &Config) -> Result<(), ConfigError> {
    let grpc = &config.grpc;
    let reason = match (&grpc.tls_certificate, &grpc.tls_key, &grpc.tls_client_ca) {
        (Some(_), None, _) => "grpc.tls_certificate is set without grpc.tls_key; TLS needs both",
        (None, Some(_), _) => "grpc.tls_key is set without grpc.tls_certificate; TLS needs both",
        (None, None, Some(_)) => {
            "grpc.tls_client_ca is set without grpc.tls_certificate and grpc.tls_key; mutual TLS needs all three"
        }
        (Some(_), Some(_), _) | (None, None, None) => return Ok(()),
    };
    Err(ConfigError::Contradiction { reason })
}

fn check_topic_defaults(loaded: &Loaded) -> Result<(), ConfigError> {
    let Err(refused) = Settings::new(&loaded.config.broker.topic_defaults) else {
        return Ok(());
    };
    let given = loaded
        .given
        .iter()
        .filter(|(key, _)| key.starts_with(TOPIC_DEFAULTS));
    let origins: BTreeSet<String> = given.map(|(_, origin)| origin.to_string()).collect();
    Err(ConfigError::TopicDefaults {
        reason: refused.to_string(),
        origins: origins.into_iter().collect::<Vec<_>>().join(" and "),
    })
}

/// Tells whether a variable of the environment is taken for a setting, or for the name of the file.
pub fn reads_variable(name: &str) -> bool {
    key_of_variable(name).is_some() || name == CONFIG_VARIABLE
}

fn key_of_variable(name: &str) -> Option<String> {
    if let Some(setting) = SETTINGS.iter().find(|setting| setting.variable() == name) {
        return Some(setting.key.to_owned());
    }
    // Kafka's names have dots and no underscore, so that the way back is clear.
    let topic_setting = name.strip_prefix(ENV_PREFIX)?.strip_prefix("TOPIC_DEFAULTS_")?;
    Some(format!(
        "{TOPIC_DEFAULTS}{}",
        topic_setting.to_ascii_lowercase().replace('_', ".")
    ))
}

fn warning(name: &str) -> Option<String> {
    let own = name.strip_prefix(ENV_PREFIX)?;
    if OTHER_VARIABLES.contains(&name) {
        return None;
    }
    let variables: Vec<_> = SETTINGS.iter().map(Setting::variable).collect();
    // What all names share says nothing about which one was meant.
    let known = variables
        .iter()
        .filter_map(|variable| variable.strip_prefix(ENV_PREFIX));
    let near = nearest(own, known)?;
    Some(format!(
        "{name} in the environment is no setting; did you mean {ENV_PREFIX}{near}?"
    ))
}

fn from_file(path: &Path) -> Result<Vec<Given>, ConfigError> {
    let text = bounded_text(path)?;
    let table: toml::Table = toml::from_str(&text).map_err(|error| ConfigError::NotToml {
        path: path.to_owned(),
        line: 1 + error
            .span()
            .and_then(|span| text.get(..span.start))
            .map_or(0, |before| before.matches('\n').count()),
        reason: error.message().trim_end().replace('\n', ", "),
    })?;
    let mut given = Vec::new();
    flatten(&mut given, path, "", table)?;
    Ok(given)
}

/// Reads a file that need not be one: a device has no end.
fn bounded_text(path: &Path) -> Result<String, ConfigError> {
    let unreadable = |source| ConfigError::Unreadable {
        path: path.to_owned(),
        source,
    };
    #[allow(
        clippy::disallowed_methods,
        reason = "the user's own file; the store's go through env::Fs"
    )]
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let mut bytes = Vec::new();
    let read = file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes);
    match read.map_err(unreadable)? {
        len if u64::try_from(len).is_ok_and(|len| len <= MAX_FILE_BYTES) => {
            String::from_utf8(bytes).map_err(|error| unreadable(io::Error::other(error.utf8_error())))
        }
        _ => Err(ConfigError::TooLarge {
            path: path.to_owned(),
        }),
    }
}

/// Names values by their path: `retention.ms` reads the same as `[retention]` with `ms`.
fn flatten(given: &mut Vec<Given>, path: &Path, prefix: &str, table: toml::Table) -> Result<(), ConfigError> {
    for (name, value) in table {
        let key = format!("{prefix}{name}");
        let value = match value {
            toml::Value::Table(inner) => {
                flatten(given, path, &format!("{key}."), inner)?;
                continue;
            }
            toml::Value::String(text) => text,
            toml::Value::Integer(number) => number.to_string(),
            toml::Value::Float(number) => number.to_string(),
            toml::Value::Boolean(on) => on.to_string(),
            toml::Value::Datetime(_) | toml::Value::Array(_) => {
                return Err(ConfigError::Invalid {
                    key,
                    origin: Origin::File(path.to_owned()),
                    value: value.to_string(),
                    wanted: "one number, text, true or false".to_owned(),
                });
            }
        };
        given.push(Given {
            key,
            value,
            origin: Origin::File(path.to_owned()),
        });
    }
    Ok(())
}

#[cfg(test)]
#[path = "load_tests.rs"]
mod tests;
