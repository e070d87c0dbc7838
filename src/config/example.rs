//! The example file: every setting with its words, its default and nothing changed.

use std::fmt::Write;

use super::SETTINGS;

/// Returns the text of `docs/siltstone.example.toml`.
pub fn example() -> String {
    let mut text = String::from(
        "# Every setting of `siltstone serve`, with its default. Made from the code; a test keeps it so.\n\
         #\n\
         # The flag wins over the environment, the environment over this file. `--set KEY=VALUE` sets any of them.\n\
         # Sizes are numbers of bytes, or text with a unit: \"64MiB\".\n",
    );
    let mut section = "";
    for setting in &SETTINGS {
        let (group, name) = setting.key.rsplit_once('.').unwrap_or(("", setting.key));
        if group != section {
            section = group;
            push(&mut text, format_args!("\n[{section}]"));
        }
        push(&mut text, format_args!("\n# {}", setting.doc));
        let range = setting
            .range()
            .map_or(String::new(), |range| format!("{range}. "));
        push(
            &mut text,
            format_args!("# {range}Environment: {}", setting.variable()),
        );
        match setting.is_bare() {
            true => push(&mut text, format_args!("#{name} = {}", setting.default)),
            false => push(&mut text, format_args!("#{name} = {:?}", setting.default)),
        }
    }
    text.push_str(
        "\n# What a topic gets that does not say otherwise, under Kafka's names of topic settings.\n\
         # Environment: SILTSTONE_TOPIC_DEFAULTS_<NAME>, the name in capitals with _ for each dot.\n\
         [topic_defaults]\n\
         #retention.ms = -1\n\
         #segment.bytes = 1073741824\n",
    );
    text
}

fn push(text: &mut String, line: std::fmt::Arguments<'_>) {
    writeln!(text, "{line}").expect("a string takes everything");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Sources, load};

    #[test]
    fn the_example_in_the_documentation_is_the_one_the_code_makes() {
        expect_test::expect_file!["../../docs/siltstone.example.toml"].assert_eq(&example());
    }

    #[test]
    fn the_example_loads_as_it_stands_and_with_every_line_taken_in() {
        let taken_in: String = example()
            .lines()
            .map(|line| match line.strip_prefix('#') {
                Some(setting) if setting.contains(" = ") && !setting.starts_with(' ') => {
                    format!("{setting}\n")
                }
                _ => format!("{line}\n"),
            })
            .collect();
        assert_ne!(taken_in, example());
        for (text, given) in [(example(), 0), (taken_in, SETTINGS.len() + 2)] {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), text).unwrap();
            let sources = Sources {
                file: Some(file.path().to_owned()),
                ..Sources::default()
            };
            assert_eq!(load(&sources).unwrap().given.len(), given);
        }
    }
}
