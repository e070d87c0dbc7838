//! Rust source as far as the rules need it: text without comments and literals, tokens, the crate's own paths.
//!
//! Not a parser: it knows comments, strings, braces and `::`. What a macro builds is not seen.

/// Replaces comments and the insides of string and character literals by spaces; lines stay where they are.
pub(crate) fn without_comments_and_literals(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let end = literal_or_comment_end(&chars, at);
        if end == at {
            out.push(chars[at]);
            at += 1;
        } else {
            out.extend(chars[at..end].iter().map(|&c| if c == '\n' { '\n' } else { ' ' }));
            at = end;
        }
    }
    out
}

/// Returns where the comment or literal that starts at `at` ends, or `at` if none starts there.
fn literal_or_comment_end(chars: &[char], at: usize) -> usize {
    match (chars[at], chars.get(at + 1)) {
        ('/', Some('/')) => find(chars, at, &['\n']),
        ('/', Some('*')) => block_comment_end(chars, at),
        ('"', _) => string_end(chars, at),
        ('\'', Some('\\')) => find(chars, at + 3, &['\'']) + 1,
        ('\'', Some(_)) if chars.get(at + 2) == Some(&'\'') => at + 3,
        _ => at,
    }
    .min(chars.len())
}

fn block_comment_end(chars: &[char], at: usize) -> usize {
    let (mut depth, mut here) = (0, at);
    while here + 1 < chars.len() {
        match (chars[here], chars[here + 1]) {
            ('/', '*') => depth += 1,
            ('*', '/') => depth -= 1,
            _ => {
                here += 1;
                continue;
            }
        }
        here += 2;
        if depth == 0 {
            return here;
        }
    }
    chars.len()
}

fn string_end(chars: &[char], quote: usize) -> usize {
    let hashes = chars[..quote].iter().rev().take_while(|&&c| c == '#').count();
    let prefix: String = chars[..quote - hashes]
        .iter()
        .rev()
        .take_while(|c| c.is_alphanumeric() || **c == '_')
        .collect();
    if matches!(prefix.as_str(), "r" | "rb" | "rc") {
        let mut close = vec!['"'];
        close.extend(std::iter::repeat_n('#', hashes));
        return find(chars, quote + 1, &close) + close.len();
    }
    let mut here = quote + 1;
    while here < chars.len() && chars[here] != '"' {
        here += if chars[here] == '\\' { 2 } else { 1 };
    }
    here + 1
}

fn find(chars: &[char], from: usize, wanted: &[char]) -> usize {
    (from..chars.len())
        .find(|&at| chars[at..].starts_with(wanted))
        .unwrap_or(chars.len())
}

/// Identifiers, `::`, and every other visible character by itself.
pub(crate) fn tokens(code: &str) -> Vec<&str> {
    let mut tokens = Vec::new();
    let mut rest = code.trim_start();
    while let Some(first) = rest.chars().next() {
        let len = if first.is_alphanumeric() || first == '_' {
            rest.find(|c: char| !c.is_alphanumeric() && c != '_')
                .unwrap_or(rest.len())
        } else if rest.starts_with("::") {
            2
        } else {
            first.len_utf8()
        };
        tokens.push(&rest[..len]);
        rest = rest[len..].trim_start();
    }
    tokens
}

/// Returns the part of a file before its unit tests, which stand at its end.
pub(crate) fn before_tests(text: &str) -> &str {
    let mut from = 0;
    while let Some(found) = text[from..].find("#[cfg(test)]\n") {
        let at = from + found;
        let next = text[at..].lines().nth(1).unwrap_or("");
        if text[..at].ends_with('\n') && next.starts_with("mod ") && next.ends_with('{') {
            return &text[..at];
        }
        from = at + 1;
    }
    text
}

/// The module that a file under `src/` is: `src/a/b.rs` and `src/a/b/mod.rs` are `[a, b]`, the root is empty.
pub(crate) fn module_of(path: &str) -> Vec<String> {
    let inside = path.strip_prefix("src/").unwrap_or(path).trim_end_matches(".rs");
    let mut module: Vec<String> = inside.split('/').map(str::to_owned).collect();
    if matches!(module.last().map(String::as_str), Some("mod" | "lib" | "main")) {
        module.pop();
    }
    module
}

/// A path into this crate, from its root: `crate::a::{b, c::*}` is `[a, b]` and `[a, c, *]`.
pub(crate) type CratePath = Vec<String>;

/// Every path that a file writes by way of `crate`, `super` or `self`.
pub(crate) fn crate_paths(module: &[String], text: &str) -> Vec<CratePath> {
    let code = without_comments_and_literals(text);
    let tokens = tokens(&code);
    let mut paths = Vec::new();
    // For each open brace: the inline module that it opened, if one.
    let mut open: Vec<Option<&str>> = Vec::new();
    for at in 0..tokens.len() {
        match tokens[at] {
            "{" => open.push((at >= 2 && tokens[at - 2] == "mod").then(|| tokens[at - 1])),
            "}" => drop(open.pop()),
            start @ ("crate" | "super" | "self")
                if tokens.get(at + 1) == Some(&"::") && (at == 0 || tokens[at - 1] != "::") =>
            {
                let mut here: CratePath = module.to_vec();
                here.extend(open.iter().flatten().map(|&name| name.to_owned()));
                match start {
                    "crate" => here.clear(),
                    "super" => drop(here.pop()),
                    _ => {}
                }
                read_tree(&tokens, at + 2, here, &mut paths);
            }
            _ => {}
        }
    }
    paths
}

/// Every path that a file writes from `std`.
pub(crate) fn std_paths(text: &str) -> Vec<CratePath> {
    let code = without_comments_and_literals(text);
    let tokens = tokens(&code);
    let mut paths = Vec::new();
    for at in 0..tokens.len() {
        if tokens[at] == "std" && tokens.get(at + 1) == Some(&"::") {
            read_tree(&tokens, at + 2, vec!["std".to_owned()], &mut paths);
        }
    }
    paths
}

/// Reads what follows `prefix::` at `at` and returns the token after it.
fn read_tree(tokens: &[&str], mut at: usize, mut prefix: CratePath, paths: &mut Vec<CratePath>) -> usize {
    loop {
        match tokens.get(at).copied() {
            Some("{") => {
                at += 1;
                while !matches!(tokens.get(at), None | Some(&"}")) {
                    at = if tokens[at] == "," {
                        at + 1
                    } else {
                        read_tree(tokens, at, prefix.clone(), paths)
                    };
                }
                return at + 1;
            }
            Some("super") => drop(prefix.pop()),
            Some("self") => {}
            Some(name) if name == "*" || is_identifier(name) => prefix.push(name.to_owned()),
            _ => {
                paths.push(prefix);
                return at + 1;
            }
        }
        at += 1;
        match tokens.get(at).copied() {
            Some("::") => at += 1,
            Some("as") => {
                paths.push(prefix);
                return at + 2;
            }
            _ => {
                paths.push(prefix);
                return at;
            }
        }
    }
}

fn is_identifier(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_paths(path: &str, text: &str, expected: &[&str]) {
        let paths: Vec<String> = crate_paths(&module_of(path), text)
            .iter()
            .map(|path| path.join("::"))
            .collect();
        assert_eq!(paths, expected, "{text}");
    }

    #[test]
    fn paths_are_found_in_groups_and_in_code() {
        check_paths(
            "src/a/b.rs",
            "use crate::{types::{Offset, ids::*}, env as world};\nfn f() -> crate::record::Codec { todo() }",
            &["types::Offset", "types::ids::*", "env", "record::Codec"],
        );
    }

    #[test]
    fn super_is_resolved_from_files_and_inline_modules() {
        check_paths(
            "src/a/b.rs",
            "use super::c::D; use super::super::e::F;",
            &["a::c::D", "e::F"],
        );
        check_paths("src/a/mod.rs", "use super::e::F;", &["e::F"]);
        check_paths(
            "src/a/b.rs",
            "mod tests { use super::*; fn f() { super::super::g(); } }",
            &["a::b::*", "a::g"],
        );
    }

    #[test]
    fn comments_and_literals_are_no_code() {
        let text = "/// [`crate::x`]\nlet a = \"crate::x\"; /* crate::y /* nested */ crate::z */ let b = r#\"crate::\"x\"#;\n\
                    let c = '\"'; let d: &'static str = \"\\\"crate::x\"; crate::kept();";
        check_paths("src/a.rs", text, &["kept"]);
        assert_eq!(
            without_comments_and_literals(text).lines().count(),
            text.lines().count()
        );
    }

    #[test]
    fn tests_at_the_end_are_cut_off() {
        assert_eq!(
            before_tests("fn a() {}\n#[cfg(test)]\nmod tests {\n}\n"),
            "fn a() {}\n"
        );
        let with_file = "fn a() {}\n#[cfg(test)]\nmod a_tests;\nfn b() {}\n";
        assert_eq!(before_tests(with_file), with_file);
    }
}
