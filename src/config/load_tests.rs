//! A configuration from its sources: who wins, and what is said about what is wrong.

use super::*;
use crate::config::ServerLife;

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

fn with_file(text: &str, sources: Sources) -> Result<Loaded, ConfigError> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    load(&Sources {
        file: Some(file.path().to_owned()),
        ..sources
    })
    .map_err(|error| match error {
        // The name of a temporary file is in no expectation.
        ConfigError::Unknown { key, hint, .. } => ConfigError::Unknown {
            key,
            hint,
            origin: Origin::File("x.toml".into()),
        },
        ConfigError::Invalid {
            key, value, wanted, ..
        } => ConfigError::Invalid {
            key,
            value,
            wanted,
            origin: Origin::File("x.toml".into()),
        },
        ConfigError::NotToml { line, reason, .. } => ConfigError::NotToml {
            line,
            reason,
            path: "x.toml".into(),
        },
        other => other,
    })
}

#[test]
fn the_flag_wins_over_the_environment_over_the_file_over_the_default() {
    let file = "grpc.listen = 'file:1'\nhttp.listen = 'file:2'\ndata_dir = 'file'\n";
    let loaded = with_file(
        file,
        Sources {
            environment: pairs(&[
                ("SILTSTONE_GRPC_LISTEN", "variable:1"),
                ("SILTSTONE_HTTP_LISTEN", "variable:2"),
                ("PATH", "/bin"),
            ]),
            flags: pairs(&[("grpc.listen", "early:1"), ("grpc.listen", "flag:1")]),
            ..Sources::default()
        },
    )
    .unwrap();
    let config = &loaded.config;
    assert_eq!(config.grpc.listen, "flag:1");
    assert_eq!(config.http.listen, "variable:2");
    assert_eq!(config.broker.data_dir, Path::new("file"));
    assert_eq!(config.broker.num_partitions, 1, "the default");
    assert_eq!(loaded.given.get("grpc.listen"), Some(&Origin::Flag));
    assert_eq!(loaded.warnings, Vec::<String>::new());
}

/// A value that is no setting's default.
fn another(setting: &Setting) -> &'static str {
    match setting.key {
        "data_dir" => "elsewhere",
        "ephemeral" | "exit_with_parent" | "topics.auto_create" => "true",
        "shutdown_timeout_ms" => "7001",
        "worker_threads" => "3",
        "log" => "warn,siltstone::storage=trace",
        "grpc.listen" => "127.0.0.2:1",
        "http.listen" => "127.0.0.2:2",
        "grpc.max_request_bytes" => "17MiB",
        "grpc.max_buffered_bytes" => "18MiB",
        "grpc.max_connections" => "19",
        "grpc.max_streams_per_connection" => "20",
        "grpc.tls_certificate" => "certificate.pem",
        "grpc.tls_key" => "key.pem",
        "grpc.tls_client_ca" => "ca.pem",
        "storage.min_free_bytes" => "21MiB",
        "storage.max_open_files" => "22",
        "storage.max_maps" => "23",
        "storage.recovery_threads" => "24",
        "storage.max_decompressed_bytes" => "25MiB",
        "produce.max_inflight_bytes" => "26MiB",
        "cleaner.threads" => "27",
        "cleaner.dedupe_buffer_bytes" => "28MiB",
        "cleaner.io_max_bytes_per_second" => "29MiB",
        "cleaner.backoff_ms" => "3000",
        "topics.num_partitions" => "31",
        "tier.url" => "file:///archive",
        "tier.topics" => "flights*,other",
        "tier.restore" => "download",
        "tier.read_only" => "true",
        "tier.upload_max_bytes_per_second" => "32MiB",
        key => panic!("give {key} a value here, and say below where it arrives"),
    }
}

/// What a configuration holds of a setting, in the words of [`another`].
fn arrived(config: &Config, key: &str) -> String {
    let mib = |bytes: u64| format!("{}MiB", bytes >> 20);
    let size = |bytes: usize| mib(u64::try_from(bytes).unwrap());
    let file = |path: &Option<std::path::PathBuf>| path.as_ref().unwrap().display().to_string();
    let (broker, grpc, cleaner) = (&config.broker, &config.grpc, &config.broker.cleaner);
    match key {
        "data_dir" => broker.data_dir.display().to_string(),
        "ephemeral" => (config.data_life == DataLife::Ephemeral).to_string(),
        "exit_with_parent" => (config.server_life == ServerLife::OfParent).to_string(),
        "topics.auto_create" => (broker.auto_create_topics == crate::broker::AutoCreate::On).to_string(),
        "shutdown_timeout_ms" => config.shutdown_timeout.as_millis().to_string(),
        "worker_threads" => config.worker_threads.to_string(),
        "log" => config.log.clone(),
        "grpc.listen" => grpc.listen.clone(),
        "http.listen" => config.http.listen.clone(),
        "grpc.max_request_bytes" => {
            assert_eq!(grpc.max_request_bytes, broker.max_request_bytes);
            size(grpc.max_request_bytes)
        }
        "grpc.max_buffered_bytes" => size(grpc.max_buffered_bytes),
        "grpc.max_connections" => grpc.max_connections.to_string(),
        "grpc.max_streams_per_connection" => grpc.max_streams_per_connection.to_string(),
        "grpc.tls_certificate" => file(&grpc.tls_certificate),
        "grpc.tls_key" => file(&grpc.tls_key),
        "grpc.tls_client_ca" => file(&grpc.tls_client_ca),
        "storage.min_free_bytes" => mib(broker.min_free_bytes),
        "storage.max_open_files" => broker.max_open_files.to_string(),
        "storage.max_maps" => broker.max_maps.to_string(),
        "storage.recovery_threads" => broker.recovery_threads.to_string(),
        "storage.max_decompressed_bytes" => mib(broker.max_decompressed_bytes.into()),
        "produce.max_inflight_bytes" => mib(broker.max_inflight_produce_bytes),
        "cleaner.threads" => cleaner.threads.to_string(),
        "cleaner.dedupe_buffer_bytes" => size(cleaner.dedupe_buffer_bytes),
        "cleaner.io_max_bytes_per_second" => mib(cleaner.io_max_bytes_per_second),
        "cleaner.backoff_ms" => cleaner.backoff.as_millis().to_string(),
        "topics.num_partitions" => broker.num_partitions.to_string(),
        "tier.url" => broker.archive.url.clone().unwrap(),
        "tier.topics" => broker.archive.topics.to_string(),
        "tier.read_only" => (broker.archive.access == crate::broker::Access::Read).to_string(),
        "tier.restore" => format!("{:?}", broker.archive.restore).to_lowercase(),
        "tier.upload_max_bytes_per_second" => mib(broker.archive.upload_max_bytes_per_second),
        key => panic!("say where {key} arrives"),
    }
}

#[test]
fn every_setting_can_be_given_in_each_of_the_three_ways_and_arrives() {
    for setting in &SETTINGS {
        let value = another(setting);
        assert_ne!(value, setting.default, "{}", setting.key);
        // Some belong together: the others come as flags.
        let beside: Vec<_> = [
            ("grpc.tls_", "grpc.tls_certificate"),
            ("grpc.tls_", "grpc.tls_key"),
            ("tier.re", "tier.url"),
        ]
        .into_iter()
        .filter(|(of, key)| setting.key.starts_with(of) && *key != setting.key)
        .map(|(_, key)| (key, "beside.pem"))
        .collect();
        let flags = pairs(&[&beside[..], &[(setting.key, value)]].concat());
        let variable = setting.variable();
        let ways = [
            load(&Sources {
                flags,
                ..Sources::default()
            }),
            load(&Sources {
                environment: pairs(&[(&variable, value)]),
                flags: pairs(&beside),
                ..Sources::default()
            }),
            with_file(
                &format!("{} = '{value}'\n", setting.key),
                Sources {
                    flags: pairs(&beside),
                    ..Sources::default()
                },
            ),
        ];
        for way in ways {
            let loaded = way.unwrap();
            assert_eq!(arrived(&loaded.config, setting.key), value, "{}", setting.key);
        }
    }
}

#[test]
fn a_file_without_an_end_is_told_from_a_configuration() {
    let error = load(&Sources {
        file: Some("/dev/zero".into()),
        ..Sources::default()
    })
    .unwrap_err();
    assert_eq!(
        error.to_string(),
        "configuration /dev/zero has more than 1048576 bytes; is it the right file?"
    );
}

#[test]
fn topic_settings_keep_kafkas_names_whichever_way_they_are_written() {
    let file = "[topic_defaults]\nretention.ms = 1000\n\"segment.bytes\" = 1048576\ncleanup = { policy = 'compact' }\n";
    let loaded = with_file(
        file,
        Sources {
            environment: pairs(&[("SILTSTONE_TOPIC_DEFAULTS_MAX_MESSAGE_BYTES", "5000")]),
            flags: pairs(&[("topic_defaults.durability", "written")]),
            ..Sources::default()
        },
    )
    .unwrap();
    let expected = [
        ("cleanup.policy", "compact"),
        ("durability", "written"),
        ("max.message.bytes", "5000"),
        ("retention.ms", "1000"),
        ("segment.bytes", "1048576"),
    ];
    let defaults: Vec<_> = loaded
        .config
        .broker
        .topic_defaults
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    assert_eq!(defaults, expected);
}

#[test]
fn what_is_wrong_is_named_with_where_it_was_given_and_what_would_be_right() {
    let cases = [
        (
            "grpc.lisen = 'a:1'",
            "unknown setting grpc.lisen in x.toml; did you mean grpc.listen?",
        ),
        ("[other]\nthing = 1", "unknown setting other.thing in x.toml"),
        (
            "grpc.listen = 'nowhere'",
            "grpc.listen in x.toml is \"nowhere\"; it must be host:port, such as 127.0.0.1:9095; port 0 picks a free one",
        ),
        (
            "topics.num_partitions = 0",
            "topics.num_partitions in x.toml is \"0\"; it must be a whole number from 1 to 10000",
        ),
        (
            "storage.min_free_bytes = -1",
            "storage.min_free_bytes in x.toml is \"-1\"; it must be a size of 0 bytes to 1024TiB",
        ),
        (
            "ephemeral = 'yes'",
            "ephemeral in x.toml is \"yes\"; it must be true or false",
        ),
        (
            "grpc = [1]",
            "grpc in x.toml is \"[1]\"; it must be one number, text, true or false",
        ),
        ("data_dir = ''", "data_dir in x.toml is \"\"; it must be a path"),
        (
            "grpc.tls_key = 'k'",
            "grpc.tls_key is set without grpc.tls_certificate; TLS needs both",
        ),
    ];
    for (file, message) in cases {
        let error = with_file(file, Sources::default()).unwrap_err();
        assert_eq!(error.to_string(), message);
    }
    let error = with_file("log = 'info'\ngrpc.listen = \n", Sources::default())
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("configuration x.toml is not TOML at line 2: "),
        "{error}"
    );
    assert_eq!(error.lines().count(), 1);
}

#[test]
fn a_wrong_topic_default_is_named_with_where_it_was_given_and_what_would_be_right() {
    let message = |file: &str, environment: &[(&str, &str)], flags: &[(&str, &str)]| {
        let written = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(written.path(), file).unwrap();
        let sources = Sources {
            file: Some(written.path().to_owned()),
            environment: pairs(environment),
            flags: pairs(flags),
        };
        let error = load(&sources).unwrap_err().to_string();
        error.replace(&written.path().display().to_string(), "x.toml")
    };
    assert_eq!(
        message("[topic_defaults]\nretention.ms = 'soon'\n", &[], &[]),
        "topic_defaults.retention.ms in x.toml: retention.ms must be -1 to 9223372036854775807, got soon"
    );
    assert_eq!(
        message("", &[("SILTSTONE_TOPIC_DEFAULTS_RETENTION_M", "1")], &[]),
        "topic_defaults.retention.m in the environment as SILTSTONE_TOPIC_DEFAULTS_RETENTION_M: \
         no setting is named \"retention.m\"; did you mean retention.ms?"
    );
    assert_eq!(
        message(
            "topic_defaults.max.compaction.lag.ms = 5\n",
            &[],
            &[("topic_defaults.min.compaction.lag.ms", "9")]
        ),
        "topic_defaults do not go together: min.compaction.lag.ms = 9 must not exceed max.compaction.lag.ms = 5; \
         they are given in x.toml and on the command line"
    );
}

#[test]
fn a_missing_file_is_named() {
    let error = load(&Sources {
        file: Some("/nowhere/x.toml".into()),
        ..Sources::default()
    })
    .unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("cannot read configuration /nowhere/x.toml: "),
        "{error}"
    );
}

#[test]
fn a_slip_in_the_environment_is_warned_about_and_a_stranger_is_not() {
    let loaded = load(&Sources {
        environment: pairs(&[
            ("SILTSTONE_GPRC_LISTEN", "a:1"),
            ("SILTSTONE_SERVICE_HOST", "10.0.0.1"),
            ("SILTSTONE_SERVICE_PORT", "9095"),
            ("SILTSTONE_PORT", "tcp://10.0.0.1:9095"),
            ("SILTSTONE_PORT_9095_TCP_ADDR", "10.0.0.1"),
            ("SILTSTONE_SERVER", "a:1"),
            ("SILTSTONE_TLS_CA", "ca.pem"),
        ]),
        ..Sources::default()
    })
    .unwrap();
    assert_eq!(
        loaded.warnings,
        ["SILTSTONE_GPRC_LISTEN in the environment is no setting; did you mean SILTSTONE_GRPC_LISTEN?"]
    );
}

#[test]
fn data_that_is_not_kept_goes_to_a_temporary_directory_unless_a_place_is_named() {
    let loaded = |flags: &[(&str, &str)]| {
        load(&Sources {
            flags: pairs(flags),
            ..Sources::default()
        })
        .unwrap()
    };
    assert!(!loaded(&[]).wants_temporary_directory());
    assert!(loaded(&[("ephemeral", "true")]).wants_temporary_directory());
    assert!(!loaded(&[("ephemeral", "true"), ("data_dir", "here")]).wants_temporary_directory());
}
