//! The layers: which module may import which, which may know which foreign crate, and which must not know the world.
//!
//! Arrows only go down, siblings never meet, and neither the files of `storage` nor those of `tier` form a cycle.

use std::collections::{BTreeMap, BTreeSet};

use super::code::{before_tests, crate_paths, module_of, std_paths, tokens, without_comments_and_literals};

const SERVER_AND_BELOW: [&str; 17] = [
    "types",
    "telemetry",
    "env",
    "record",
    "storage",
    "tier",
    "broker",
    "replay",
    "archive",
    "mirror",
    "proto",
    "grpc",
    "kafka",
    "http",
    "client",
    "config",
    "server",
];

/// A module and what it may import from the crate, in the order of the house.
fn layers() -> Vec<(&'static str, Vec<&'static str>)> {
    let client_inside = ["types", "record", "broker"];
    let door = ["types", "telemetry", "record", "broker", "replay"];
    let with = |base: &[&'static str], more: &[&'static str]| [base, more].concat();
    vec![
        ("types", vec![]),
        ("telemetry", vec![]),
        ("env", vec!["types"]),
        ("record", vec!["types"]),
        ("storage", vec!["types", "env", "record"]),
        ("tier", vec!["types", "telemetry", "env", "record", "storage"]),
        (
            "broker",
            vec!["types", "telemetry", "env", "record", "storage", "tier"],
        ),
        ("replay", client_inside.to_vec()),
        ("archive", client_inside.to_vec()),
        ("mirror", client_inside.to_vec()),
        ("proto", vec![]),
        ("grpc", with(&door, &["proto"])),
        ("kafka", door.to_vec()),
        ("http", door.to_vec()),
        ("client", vec!["types", "record", "proto"]),
        // Each layer's config struct, and nothing of how the layer runs.
        (
            "config",
            vec![
                "types", "env", "record", "storage", "tier", "broker", "replay", "grpc", "kafka", "http",
            ],
        ),
        (
            "server",
            SERVER_AND_BELOW[..16]
                .iter()
                .copied()
                .filter(|&module| module != "client")
                .collect(),
        ),
        ("embedded", SERVER_AND_BELOW.to_vec()),
        // The command line starts the benchmark, and the benchmark its own server: the only neighbours that meet.
        ("bench", with(&SERVER_AND_BELOW, &["embedded"])),
        ("cli", with(&SERVER_AND_BELOW, &["embedded", "bench"])),
    ]
}

/// Foreign crates (by prefix) that only these modules may name.
const FOREIGN: [(&str, &[&str]); 7] = [
    (
        "tokio",
        &[
            "tier", "broker", "replay", "archive", "mirror", "grpc", "kafka", "http", "client", "server",
            "embedded", "bench", "cli",
        ],
    ),
    ("tonic", &["proto", "grpc", "client", "server", "bench"]),
    ("prost", &["proto", "grpc", "client"]),
    ("axum", &["http"]),
    ("clap", &["cli"]),
    ("object_store", &["tier"]),
    ("memmap2", &["env"]),
];

/// Parts of the world outside, and the modules that must not know them: to these they come as values, or through `env`.
const WORLD: [(&[&str], &[&str]); 5] = [
    (
        &["std", "fs"],
        &[
            "types",
            "telemetry",
            "record",
            "storage",
            "broker",
            "proto",
            "client",
        ],
    ),
    (
        &["std", "net"],
        &[
            "types",
            "telemetry",
            "env",
            "record",
            "storage",
            "broker",
            "proto",
        ],
    ),
    (
        &["std", "process"],
        &[
            "types",
            "telemetry",
            "record",
            "storage",
            "tier",
            "broker",
            "proto",
            "client",
        ],
    ),
    (
        &["std", "time", "Instant"],
        &["types", "record", "storage", "proto"],
    ),
    (
        &["std", "time", "SystemTime"],
        &[
            "types",
            "telemetry",
            "record",
            "storage",
            "tier",
            "broker",
            "proto",
            "grpc",
            "http",
        ],
    ),
];

/// True for files that hold tests, or what tests share, and nothing else.
fn is_of_tests(path: &str) -> bool {
    path.split('/').any(|part| {
        part == "tests" || part == "tests.rs" || part == "testing.rs" || part.ends_with("_tests.rs")
    })
}

/// What of the world a file knows and its module must not. Tests may.
fn worldly(path: &str, top: &str, text: &str) -> Vec<String> {
    if is_of_tests(path) {
        return Vec::new();
    }
    let known = std_paths(before_tests(text));
    let forbidden = WORLD.iter().filter(|(_, modules)| modules.contains(&top));
    let known_of = |part: &[&str]| {
        known.iter().any(|path| {
            // Whoever has all that lies above it, by its module or by `*`, has it, too.
            let named = path.split(|name| name == "*").next().unwrap_or(path);
            let stays = named.len() < path.len() || named.len() > 1;
            stays && named.iter().zip(part).all(|(name, part)| name == part)
        })
    };
    forbidden
        .filter(|(part, _)| known_of(part))
        .map(|(part, _)| format!("{path}: {top} may not know {}", part.join("::")))
        .collect()
}

/// Every import of a file that the tables forbid. The crate's root and the binary only join modules: they are free.
pub(crate) fn breaches(path: &str, text: &str) -> Vec<String> {
    let module = module_of(path);
    let Some(top) = module.first() else {
        return Vec::new();
    };
    let layers = layers();
    let Some((_, allowed)) = layers.iter().find(|(name, _)| name == top) else {
        return vec![format!(
            "{path}: module {top} stands in no row of the layer table"
        )];
    };
    let mut found = BTreeSet::new();
    for target in crate_paths(&module, text).iter().filter_map(|path| path.first()) {
        let known = layers.iter().any(|(name, _)| name == target);
        if known && target != top && !allowed.contains(&target.as_str()) {
            found.insert(format!("{path}: {top} may not import {target}"));
        }
    }
    let code = without_comments_and_literals(text);
    let tokens = tokens(&code);
    for (at, name) in tokens.iter().enumerate() {
        let starts_path = tokens.get(at + 1) == Some(&"::") && (at == 0 || tokens[at - 1] != "::");
        let row = FOREIGN
            .iter()
            .find(|(known, _)| name == known || name.starts_with(&format!("{known}_")));
        if let Some((known, modules)) = row.filter(|_| starts_path)
            && !modules.contains(&top.as_str())
        {
            found.insert(format!("{path}: {top} may not know {known}"));
        }
    }
    found.extend(worldly(path, top, text));
    found.into_iter().collect()
}

/// A cycle among the files and folders directly inside `src/<layer>/`, by their code outside tests, as a line of text.
pub(crate) fn cycle(layer: &str, files: &[(String, String)]) -> Option<String> {
    let graph = imports(layer, files);
    let mut finished = BTreeSet::new();
    graph.keys().find_map(|&start| {
        let mut trail = Vec::new();
        cycle_from(start, &graph, &mut trail, &mut finished).then(|| trail.join(" -> "))
    })
}

type Graph<'a> = BTreeMap<&'a str, BTreeSet<&'a str>>;

fn imports<'a>(layer: &str, files: &'a [(String, String)]) -> BTreeMap<&'a str, BTreeSet<&'a str>> {
    let folder = format!("src/{layer}/");
    let inside: Vec<(&str, &str)> = files
        .iter()
        .filter(|(path, _)| path.starts_with(&folder) && !is_of_tests(path))
        .map(|(path, text)| (&path[folder.len()..], before_tests(text)))
        .collect();
    let child = |path: &'a str| {
        path.split('/')
            .next()
            .expect("split yields at least one part")
            .trim_end_matches(".rs")
    };
    let children: BTreeSet<&str> = inside
        .iter()
        .map(|(path, _)| child(path))
        .filter(|&name| name != "mod")
        .collect();
    let root = inside
        .iter()
        .find(|(path, _)| *path == "mod.rs")
        .map_or("", |(_, text)| text);
    // A name that `mod.rs` hands on belongs to the file that defines it.
    let handed_on: BTreeMap<String, &str> = re_exports(root)
        .into_iter()
        .filter_map(|(module, name)| children.get(module.as_str()).map(|&module| (name, module)))
        .collect();
    let mut graph = Graph::new();
    for &(path, text) in inside.iter().filter(|(path, _)| *path != "mod.rs") {
        let from = child(path);
        let edges = graph.entry(from).or_default();
        for used in crate_paths(&module_of(&format!("{folder}{path}")), text) {
            let [first, second, ..] = used.as_slice() else {
                continue;
            };
            let target = children.get(second.as_str()).or_else(|| handed_on.get(second));
            if let Some(&target) = target.filter(|&&target| first == layer && target != from) {
                edges.insert(target);
            }
        }
    }
    graph
}

/// `pub use a::{B, c::D}` as `(a, B)` and `(a, D)`.
fn re_exports(text: &str) -> Vec<(String, String)> {
    let code = without_comments_and_literals(text)
        .replace("pub use ", "pub use self::")
        .replace(") use ", ") use self::")
        .replace("self::self::", "self::");
    crate_paths(&[], &code)
        .into_iter()
        .filter(|path| path.len() >= 2)
        .map(|path| (path[0].clone(), path[path.len() - 1].clone()))
        .collect()
}

fn cycle_from<'a>(
    at: &'a str,
    graph: &Graph<'a>,
    trail: &mut Vec<&'a str>,
    finished: &mut BTreeSet<&'a str>,
) -> bool {
    if finished.contains(at) {
        return false;
    }
    let seen_at = trail.iter().position(|&name| name == at);
    trail.push(at);
    if let Some(start) = seen_at {
        trail.drain(..start);
        return true;
    }
    for &next in graph.get(at).into_iter().flatten() {
        if cycle_from(next, graph, trail, finished) {
            return true;
        }
    }
    trail.pop();
    finished.insert(at);
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_import_from_a_higher_layer_is_a_breach() {
        assert_eq!(
            breaches(
                "src/storage/log.rs",
                "use crate::types::Offset; use crate::record::Codec;"
            ),
            [""; 0]
        );
        assert_eq!(
            breaches(
                "src/storage/log.rs",
                "use crate::{types::Offset, broker::Broker};"
            ),
            ["src/storage/log.rs: storage may not import broker"]
        );
        assert_eq!(
            breaches("src/record/batch.rs", "fn f(env: &super::super::env::World) {}"),
            ["src/record/batch.rs: record may not import env"]
        );
    }

    #[test]
    fn siblings_never_meet() {
        assert_eq!(
            breaches("src/http/mod.rs", "use crate::grpc::Door;"),
            ["src/http/mod.rs: http may not import grpc"]
        );
        assert_eq!(
            breaches("src/mirror.rs", "use crate::replay::Job;"),
            ["src/mirror.rs: mirror may not import replay"]
        );
        assert_eq!(
            breaches("src/client/mod.rs", "use crate::server::S;"),
            ["src/client/mod.rs: client may not import server"]
        );
    }

    #[test]
    fn foreign_crates_stay_in_their_modules() {
        assert_eq!(
            breaches("src/storage/log.rs", "use tokio::sync::Notify;"),
            ["src/storage/log.rs: storage may not know tokio"]
        );
        assert_eq!(
            breaches("src/broker/mod.rs", "fn f() -> tonic_types::X {}"),
            ["src/broker/mod.rs: broker may not know tonic"]
        );
        assert_eq!(breaches("src/broker/mod.rs", "use tokio::sync::Notify;"), [""; 0]);
    }

    #[test]
    fn the_world_comes_to_the_lower_layers_as_a_value() {
        for (code, part) in [
            ("fn f() { std::fs::read(path) }", "std::fs"),
            ("use std::{fs, io};", "std::fs"),
            ("use std::fs as disk;", "std::fs"),
            ("fn f() { ::std::net::TcpStream::connect(a) }", "std::net"),
            ("use std::net::*;", "std::net"),
            ("use std::time::{Duration, Instant};", "std::time::Instant"),
            ("fn f() -> std::time::SystemTime {}", "std::time::SystemTime"),
        ] {
            for module in ["record", "storage"] {
                let path = format!("src/{module}/x.rs");
                assert_eq!(
                    breaches(&path, code),
                    [format!("{path}: {module} may not know {part}")],
                    "{code}"
                );
            }
        }
        assert_eq!(
            breaches("src/record/x.rs", "use std::time;").len(),
            2,
            "both clocks"
        );
        let harmless = "use std::time::Duration; use std::io; // std::fs
            const A: &str = \"std::net\";";
        assert_eq!(breaches("src/storage/x.rs", harmless), [""; 0]);
        let in_tests = "\n#[cfg(test)]\nmod tests {\n    use std::fs;\n}\n";
        assert_eq!(breaches("src/storage/x.rs", in_tests), [""; 0]);
        assert_eq!(breaches("src/storage/x_tests.rs", "use std::fs;"), [""; 0]);
        assert_eq!(breaches("src/env/real.rs", "use std::fs;"), [""; 0]);
    }

    #[test]
    fn a_module_without_a_row_is_a_breach() {
        assert_eq!(
            breaches("src/util.rs", ""),
            ["src/util.rs: module util stands in no row of the layer table"]
        );
    }

    fn files(files: &[(&str, &str)]) -> Vec<(String, String)> {
        files
            .iter()
            .map(|(path, text)| (format!("src/storage/{path}"), (*text).to_owned()))
            .collect()
    }

    #[test]
    fn a_cycle_of_files_is_found_also_through_names_handed_on() {
        let plain = files(&[
            ("log.rs", "use super::segment::Segment;"),
            ("segment.rs", "use super::index::I;"),
            ("index.rs", ""),
        ]);
        assert_eq!(cycle("storage", &plain), None);
        let handed_on = files(&[
            ("mod.rs", "mod log; mod segment;\npub use log::{Log, Other};"),
            ("log.rs", "use super::segment::Segment;"),
            ("segment/mod.rs", "use crate::storage::Log;"),
        ]);
        assert_eq!(
            cycle("storage", &handed_on).as_deref(),
            Some("log -> segment -> log")
        );
    }

    #[test]
    fn tests_may_look_anywhere_in_their_layer() {
        let in_tests = files(&[
            ("log.rs", "use super::segment::Segment;"),
            (
                "segment.rs",
                "\n#[cfg(test)]\nmod tests {\n    use super::super::log::Log;\n}\n",
            ),
            ("segment_tests.rs", "use super::log::Log;"),
            ("segment/testing.rs", "use crate::storage::log::Log;"),
        ]);
        assert_eq!(cycle("storage", &in_tests), None);
    }
}
