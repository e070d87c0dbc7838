//! What others build on has examples: in the modules `client` and `embedded` every public type and function has one in its docs, and
//! every public method is called in an example of one of them.
//!
//! What is not here: whether they compile, which `cargo test` sees to.

use std::collections::BTreeSet;

use super::code::before_tests;

/// What such files begin with.
const SHOWN: [&str; 2] = ["src/client/", "src/embedded/"];
const KINDS: [&str; 5] = ["fn", "struct", "enum", "trait", "type"];

/// A public item of a file.
#[derive(Debug)]
struct Item<'a> {
    name: &'a str,
    is_method: bool,
    has_example: bool,
}

/// Returns breaches in all files together: a method may be shown by another file's example.
pub(crate) fn breaches(files: &[(String, String)]) -> Vec<String> {
    let shown = |path: &str| SHOWN.iter().any(|begin| path.starts_with(begin)) && !is_of_tests(path);
    let files: Vec<_> = files
        .iter()
        .filter(|(path, _)| shown(path))
        .map(|(path, text)| (path, before_tests(text)))
        .collect();
    let called: BTreeSet<&str> = files.iter().flat_map(|(_, text)| called(text)).collect();
    let mut breaches = Vec::new();
    for (path, text) in files {
        for item in items(text) {
            let is_called = item.is_method && called.contains(item.name);
            if !item.has_example && !is_called {
                breaches.push(format!("{path}: {} is public and no example shows it", item.name));
            }
        }
    }
    breaches
}

fn is_of_tests(path: &str) -> bool {
    path.ends_with("tests.rs") || path.ends_with("/testing.rs")
}

/// Returns the text of a line of documentation.
fn doc(line: &str) -> Option<&str> {
    let line = line.trim_start();
    line.strip_prefix("///").or_else(|| line.strip_prefix("//!"))
}

/// Returns the public items of a file; those of a crate or a module are not.
fn items(text: &str) -> Vec<Item<'_>> {
    let mut items = Vec::new();
    let mut has_example = false;
    for line in text.lines() {
        if let Some(doc) = doc(line) {
            has_example |= doc.trim_start().starts_with("```");
            continue;
        }
        let code = line.trim_start();
        if code.starts_with("#[") {
            continue;
        }
        let words = code.strip_prefix("pub ").unwrap_or_default();
        let words = words.strip_prefix("async ").unwrap_or(words);
        if let Some((kind, rest)) = words.split_once(' ')
            && KINDS.contains(&kind)
        {
            items.push(Item {
                name: word(rest),
                is_method: kind == "fn" && line.starts_with(' '),
                has_example,
            });
        }
        has_example = false;
    }
    items
}

/// Returns the identifier that a text begins with.
fn word(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_');
    &text[..end.unwrap_or(text.len())]
}

/// Returns the names that the examples of a file call, as `.name(` or `::name(`.
fn called(text: &str) -> Vec<&str> {
    let mut names = Vec::new();
    let mut is_example = false;
    for line in text.lines().filter_map(doc) {
        if line.trim_start().starts_with("```") {
            is_example = !is_example;
        } else if is_example {
            let parts = line.match_indices('(').map(|(at, _)| &line[..at]);
            names.extend(parts.filter_map(|before| {
                let begin = before.rfind(|c: char| !c.is_alphanumeric() && c != '_')?;
                let is_call = before[..=begin].ends_with(['.', ':']);
                is_call.then(|| &before[begin + 1..])
            }));
        }
    }
    names
}

#[test]
fn what_no_example_shows_is_found() {
    let text = "//! A file.\n\
        /// ```\n/// a.shown();\n/// T::made();\n/// // a.not_here\n/// ```\n#[derive(Debug)]\npub struct Shown;\n\
        /// Told of.\npub enum Told {}\n\
        impl Shown {\n    pub fn shown(&self) {}\n    pub(super) fn own(&self) {}\n    pub async fn made() {}\n    \
        pub fn not_here(&self) {}\n}\npub type Bare = u8;\npub fn shown() {}\n";
    let files = [("src/client/x.rs".to_owned(), text.to_owned())];
    let told: Vec<_> = breaches(&files)
        .iter()
        .map(|breach| breach.split(' ').nth(1).unwrap().to_owned())
        .collect();
    assert_eq!(told, ["Told", "not_here", "Bare", "shown"]);
}
