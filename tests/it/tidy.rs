//! What a machine can check of the house rules, so that nobody has to remember it.
//!
//! A rule is a function of a path and a text that returns its breaches as lines of text; each has a test that shows what it
//! catches. One test walks the checkout and applies them all. Sizes of functions, banned calls and missing docs are clippy's.

mod code;
mod examples;
mod layers;

use std::path::{Path, PathBuf};

use code::{before_tests, tokens, without_comments_and_literals};

const CODE_LINES_MAX: usize = 700;
const ARCHITECTURE_LINES_MAX: usize = 250;
const ONLY_UNSAFE_FILE: &str = "src/env/mmap.rs";
const NOT_OURS: [&str; 5] = ["target", ".git", ".venv", ".work", "siltstone-data"];
const CHANGELOG_SECTIONS: [&str; 4] = ["Features", "Fixes", "Format", "Other"];

/// A rule: breaches in the file at `path`, relative to the checkout's root.
type Rule = fn(path: &str, text: &str) -> Vec<String>;

const RUST_RULES: [Rule; 4] = [
    opens_with_its_purpose,
    is_short_enough,
    keeps_unsafe_in_its_place,
    leaves_nothing_for_later,
];

#[test]
fn the_house_rules_hold() {
    let files = checkout();
    let mut breaches = Vec::new();
    for (path, text) in &files {
        let rules: &[Rule] = match path.rsplit('.').next() {
            Some("rs") => &RUST_RULES,
            Some("md") => &[leaves_nothing_for_later, has_no_dead_link],
            _ => &[leaves_nothing_for_later],
        };
        breaches.extend(rules.iter().flat_map(|rule| rule(path, text)));
        if path.starts_with("src/") && path.ends_with(".rs") {
            breaches.extend(layers::breaches(path, text));
        }
    }
    breaches.extend(examples::breaches(&files));
    for layer in ["storage", "tier"] {
        breaches.extend(
            layers::cycle(layer, &files).map(|cycle| format!("src/{layer}: a cycle of imports: {cycle}")),
        );
    }
    breaches.extend(is_a_map_of(
        "ARCHITECTURE.md",
        text_of(&files, "ARCHITECTURE.md"),
        &top_modules(&files),
    ));
    breaches.extend(is_a_changelog("CHANGELOG.md", text_of(&files, "CHANGELOG.md")));
    assert!(
        breaches.is_empty(),
        "{} breaches:\n{}",
        breaches.len(),
        breaches.join("\n")
    );
}

/// A file says in its first line what it is.
fn opens_with_its_purpose(path: &str, text: &str) -> Vec<String> {
    let opens = text
        .lines()
        .next()
        .is_some_and(|line| line.starts_with("//! ") && line.len() > "//! ".len());
    breach_unless(opens, format!("{path}: does not open with `//!` and what it is"))
}

/// A file holds one concept: at most 700 lines of code, blank lines, comments and the tests at its end apart.
fn is_short_enough(path: &str, text: &str) -> Vec<String> {
    let lines = before_tests(text)
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with("//"))
        .count();
    breach_unless(
        lines <= CODE_LINES_MAX,
        format!("{path}: {lines} lines of code, at most {CODE_LINES_MAX}"),
    )
}

/// `unsafe` stands in one file.
fn keeps_unsafe_in_its_place(path: &str, text: &str) -> Vec<String> {
    let code = without_comments_and_literals(text);
    let has_unsafe = tokens(&code).contains(&"unsafe");
    breach_unless(
        !has_unsafe || path == ONLY_UNSAFE_FILE,
        format!("{path}: unsafe belongs in {ONLY_UNSAFE_FILE}"),
    )
}

/// Work left over is done, or written under "Not here" in the README.
fn leaves_nothing_for_later(path: &str, text: &str) -> Vec<String> {
    // In two parts, so that this file keeps its own rule.
    let marks = [["TO", "DO"].concat(), ["FIX", "ME"].concat()];
    let lines = text
        .lines()
        .enumerate()
        .filter(|(_, line)| marks.iter().any(|mark| line.contains(mark.as_str())));
    lines
        .map(|(number, _)| format!("{path}:{}: leaves something for later", number + 1))
        .collect()
}

/// Every relative link of a document leads somewhere.
fn has_no_dead_link(path: &str, text: &str) -> Vec<String> {
    let folder = Path::new(path).parent().unwrap_or(Path::new(""));
    let dead = links(text)
        .into_iter()
        .filter(|link| !link.contains("://") && !link.starts_with('#') && !link.starts_with("mailto:"))
        .map(|link| link.split('#').next().unwrap_or(link))
        .filter(|link| !root().join(folder).join(link).exists());
    dead.map(|link| format!("{path}: a dead link to {link}"))
        .collect()
}

/// The targets of `[text](target)` outside code blocks.
fn links(text: &str) -> Vec<&str> {
    let outside_code = text.split("```").step_by(2);
    outside_code
        .flat_map(|part| part.split("](").skip(1))
        .filter_map(|rest| rest.split(')').next())
        .filter(|target| !target.is_empty() && !target.contains(char::is_whitespace))
        .collect()
}

/// The map of the house is short and names every module at the top, as `src/name` or `name/`.
fn is_a_map_of(path: &str, text: &str, modules: &[String]) -> Vec<String> {
    let lines = text.lines().count();
    let long = breach_unless(
        lines < ARCHITECTURE_LINES_MAX,
        format!("{path}: {lines} lines, fewer than {ARCHITECTURE_LINES_MAX} make a map"),
    );
    let unnamed = modules
        .iter()
        .filter(|module| !text.contains(&format!("`{module}`")) && !text.contains(&format!("`src/{module}`")))
        .map(|module| format!("{path}: does not name `{module}`"));
    long.into_iter().chain(unnamed).collect()
}

/// Versions, newest first; in each the known sections, in their order, of bullets.
fn is_a_changelog(path: &str, text: &str) -> Vec<String> {
    let mut breaches = breach_unless(
        text.starts_with("# Changelog\n"),
        format!("{path}: does not open with `# Changelog`"),
    );
    let (mut versions, mut next_section) = (0, 0);
    for (number, line) in text.lines().enumerate().skip(1) {
        let place = format!("{path}:{}", number + 1);
        if let Some(version) = line.strip_prefix("## ") {
            versions += 1;
            next_section = 0;
            breaches.extend(breach_unless(
                is_a_version(version),
                format!("{place}: `{version}` is not `1.2.3 (date or unreleased)`"),
            ));
        } else if let Some(section) = line.strip_prefix("### ") {
            match CHANGELOG_SECTIONS[next_section..]
                .iter()
                .position(|&known| known == section)
            {
                Some(skipped) => next_section += skipped + 1,
                None => breaches.push(format!(
                    "{place}: section `{section}` is unknown, doubled or out of order"
                )),
            }
        } else if versions > 0 && !line.is_empty() {
            let in_list = next_section > 0 && (line.starts_with("- ") || line.starts_with("  "));
            breaches.extend(breach_unless(
                in_list,
                format!("{place}: is not a bullet of a section"),
            ));
        }
    }
    breaches.extend(breach_unless(versions > 0, format!("{path}: names no version")));
    breaches
}

fn is_a_version(heading: &str) -> bool {
    let Some((version, when)) = heading
        .strip_suffix(')')
        .and_then(|heading| heading.split_once(" ("))
    else {
        return false;
    };
    let numbers: Vec<&str> = version.split('.').collect();
    let date = when.len() == 10 && when.chars().all(|c| c.is_ascii_digit() || c == '-');
    numbers.len() == 3
        && numbers.iter().all(|number| number.parse::<u32>().is_ok())
        && (date || when == "unreleased")
}

fn breach_unless(holds: bool, breach: String) -> Vec<String> {
    if holds { Vec::new() } else { vec![breach] }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The text files of the checkout with their paths from its root, in the order of their names.
fn checkout() -> Vec<(String, String)> {
    let mut files = Vec::new();
    let mut folders = vec![root()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder of the checkout can be listed") {
            let path = entry.expect("an entry of the checkout can be read").path();
            let name = path
                .file_name()
                .map(|name| name.to_string_lossy().into_owned())
                .unwrap_or_default();
            if NOT_OURS.contains(&name.as_str()) || path.is_symlink() {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else if matches!(
                path.extension().and_then(|e| e.to_str()),
                Some("rs" | "md" | "proto" | "py" | "toml" | "java")
            ) {
                let text = std::fs::read_to_string(&path).expect("source files are UTF-8");
                let relative = path.strip_prefix(root()).expect("the walk stays below the root");
                files.push((relative.to_string_lossy().into_owned(), text));
            }
        }
    }
    files.sort();
    files
}

fn text_of<'a>(files: &'a [(String, String)], path: &str) -> &'a str {
    files
        .iter()
        .find(|(known, _)| known == path)
        .map_or("", |(_, text)| text)
}

/// The modules directly under `src/`.
fn top_modules(files: &[(String, String)]) -> Vec<String> {
    let mut modules: Vec<String> = files
        .iter()
        .filter(|(path, _)| path.starts_with("src/") && path.ends_with(".rs"))
        .filter_map(|(path, _)| code::module_of(path).into_iter().next())
        .collect();
    modules.dedup();
    modules
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(rule: Rule, path: &str, text: &str, expected: &[&str]) {
        assert_eq!(rule(path, text), expected, "{text}");
    }

    #[test]
    fn a_file_without_a_purpose_is_a_breach() {
        check(opens_with_its_purpose, "src/a.rs", "//! What it is.\n", &[]);
        for text in ["", "use std::fs;\n", "//!\n//! Late.\n"] {
            check(
                opens_with_its_purpose,
                "src/a.rs",
                text,
                &["src/a.rs: does not open with `//!` and what it is"],
            );
        }
    }

    #[test]
    fn a_long_file_is_a_breach_but_its_tests_and_comments_do_not_count() {
        let body = "fn f() {}\n".repeat(CODE_LINES_MAX);
        let tests = format!("#[cfg(test)]\nmod tests {{\n{}}}\n", "fn t() {}\n".repeat(500));
        check(
            is_short_enough,
            "src/a.rs",
            &format!("//! Long.\n\n// Why.\n{body}{tests}"),
            &[],
        );
        check(
            is_short_enough,
            "src/a.rs",
            &format!("{body}fn g() {{}}\n"),
            &["src/a.rs: 701 lines of code, at most 700"],
        );
    }

    #[test]
    fn unsafe_elsewhere_is_a_breach() {
        let text = "fn f() { unsafe { g() } }";
        check(keeps_unsafe_in_its_place, ONLY_UNSAFE_FILE, text, &[]);
        check(
            keeps_unsafe_in_its_place,
            "src/a.rs",
            text,
            &["src/a.rs: unsafe belongs in src/env/mmap.rs"],
        );
        check(
            keeps_unsafe_in_its_place,
            "src/a.rs",
            "// unsafe\nconst A: &str = \"unsafe\";",
            &[],
        );
    }

    #[test]
    fn work_left_over_is_a_breach() {
        let mark = ["TO", "DO"].concat();
        check(
            leaves_nothing_for_later,
            "src/a.rs",
            &format!("fn f() {{}}\n// {mark}: more\n"),
            &["src/a.rs:2: leaves something for later"],
        );
    }

    #[test]
    fn a_dead_link_is_a_breach() {
        let text = "[a](Cargo.toml) [b](https://example.org/x) [c](#here) [d](src/lib.rs#top) [e](no/such.md)\n```sh\n[f](no/code)\n```\n";
        check(
            has_no_dead_link,
            "README.md",
            text,
            &["README.md: a dead link to no/such.md"],
        );
        check(
            has_no_dead_link,
            "examples/page.md",
            "[up](../Cargo.toml) [a](Cargo.toml)",
            &["examples/page.md: a dead link to Cargo.toml"],
        );
    }

    #[test]
    fn a_map_that_is_long_or_omits_a_module_is_a_breach() {
        let modules = ["record".to_owned(), "storage".to_owned()];
        assert_eq!(
            is_a_map_of("A.md", "`src/record` and `storage`\n", &modules),
            [""; 0]
        );
        assert_eq!(
            is_a_map_of("A.md", "`record` and storage\n", &modules),
            ["A.md: does not name `storage`"]
        );
        let long = "`record` `storage`\n".repeat(ARCHITECTURE_LINES_MAX);
        assert_eq!(
            is_a_map_of("A.md", &long, &modules),
            ["A.md: 250 lines, fewer than 250 make a map"]
        );
    }

    #[test]
    fn a_malformed_changelog_is_a_breach() {
        let good = "# Changelog\nFor users.\n\n## 0.2.0 (unreleased)\n\n### Features\n- One,\n  two.\n\n### Other\n- Three.\n\n## 0.1.0 (2026-01-31)\n\n### Fixes\n- Four.\n";
        assert_eq!(is_a_changelog("C.md", good), [""; 0]);
        let broken = |from: &str, to: &str| is_a_changelog("C.md", &good.replacen(from, to, 1)).join("; ");
        assert_eq!(
            broken("# Changelog", "# Changes"),
            "C.md: does not open with `# Changelog`"
        );
        assert_eq!(
            broken("0.2.0 (unreleased)", "next"),
            "C.md:4: `next` is not `1.2.3 (date or unreleased)`"
        );
        assert_eq!(
            broken("### Features", "### Misc"),
            "C.md:6: section `Misc` is unknown, doubled or out of order; \
                                                        C.md:7: is not a bullet of a section; C.md:8: is not a bullet of a section"
        );
        assert_eq!(
            broken("### Other", "### Features"),
            "C.md:10: section `Features` is unknown, doubled or out of order"
        );
        assert_eq!(
            broken("- Three", "Three"),
            "C.md:11: is not a bullet of a section"
        );
        assert_eq!(
            is_a_changelog("C.md", "# Changelog\n"),
            ["C.md: names no version"]
        );
    }
}
