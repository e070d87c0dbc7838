//! Names of topics by pattern: words joined by commas, in which `*` stands for any characters.

use std::fmt;

/// Longest list of patterns, in bytes.
const MAX_LEN: usize = 4096;

/// Which topics are meant.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TopicPatterns(Vec<String>);

impl TopicPatterns {
    /// Means every topic.
    pub fn everything() -> Self {
        Self(vec!["*".to_owned()])
    }

    /// Reads patterns; an empty text means no topic.
    ///
    /// # Errors
    /// What would be taken, in words.
    pub fn parse(text: &str) -> Result<Self, String> {
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '*');
        let words = text.split(',').map(str::trim).filter(|word| !word.is_empty());
        let words: Vec<String> = words.map(str::to_owned).collect();
        let sound = text.len() <= MAX_LEN && words.iter().all(|word| word.chars().all(fits));
        match sound {
            true => Ok(Self(words)),
            false => Err(format!(
                "names of topics joined by commas, * for any characters, {MAX_LEN} bytes at most"
            )),
        }
    }

    /// Tells whether a topic is meant.
    pub fn matches(&self, name: &str) -> bool {
        self.0.iter().any(|pattern| is_like(pattern, name))
    }
}

impl fmt::Display for TopicPatterns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(","))
    }
}

/// Takes each part between stars where it comes first; the last one must be the end.
fn is_like(pattern: &str, name: &str) -> bool {
    let Some((begin, rest)) = pattern.split_once('*') else {
        return pattern == name;
    };
    let Some(mut left) = name.strip_prefix(begin) else {
        return false;
    };
    let (middle, end) = rest.rsplit_once('*').unwrap_or(("", rest));
    for part in middle.split('*').filter(|part| !part.is_empty()) {
        match left.find(part) {
            Some(at) => left = &left[at + part.len()..],
            None => return false,
        }
    }
    left.ends_with(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_characters_and_everything_else_for_itself() {
        let like = |pattern: &str, name: &str| TopicPatterns::parse(pattern).expect("sound").matches(name);
        assert!(like("*", "flights") && like("flights", "flights") && like("a,flights*", "flights"));
        assert!(like("f*s", "flights") && like("*light*", "flights") && like("f*g*t*", "flights"));
        assert!(!like("", "flights") && !like("flight", "flights") && !like("f*t", "flights"));
        assert!(!like("ab*ba", "aba") && like("ab*ba", "abba") && like("a*b*b", "abb"));
        assert_eq!(
            TopicPatterns::parse(" a , b* ").expect("sound").to_string(),
            "a,b*"
        );
        TopicPatterns::parse("a b").expect_err("no topic has a blank in its name");
    }
}
