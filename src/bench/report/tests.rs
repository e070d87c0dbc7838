//! The page: what is in it, that it needs nothing else, and where a line's points lie.

use super::*;
use crate::bench::compare::tests::example;

fn page(records: &[RunRecord]) -> String {
    let named = |(place, record): (usize, &RunRecord)| (format!("run <{place}>"), record.clone());
    report(&records.iter().enumerate().map(named).collect::<Vec<_>>())
}

/// Every element that is opened is closed, in order; those around the data are still open where it begins.
fn is_well_formed(page: &str) {
    let mut open = Vec::new();
    for tag in page.split('<').skip(1) {
        let tag = tag.split('>').next().unwrap();
        let name = tag.split([' ', '\n']).next().unwrap();
        if let Some(closed) = name.strip_prefix('/') {
            assert_eq!(open.pop(), Some(closed), "in <{tag}>");
        } else if !tag.ends_with('/') && !["!DOCTYPE", "meta", "br"].contains(&name) {
            open.push(name);
        }
    }
    assert_eq!(open, ["html", "body", "main"]);
}

#[test]
fn a_page_shows_a_run_and_needs_nothing_from_outside() {
    let page = page(&[example()]);
    let without_data = page.split("<script").next().unwrap();
    is_well_formed(without_data);
    for wanted in [
        "Fast &lt;3000&gt;",
        "From the intended send to the acknowledgement, ms",
        "Records in a second, as they are written",
        "Percentiles, ms",
        "schedule",
        "grpc_sink",
        "every record is there",
        "durability",
        "prefers-color-scheme: dark",
        "a test",
    ] {
        assert!(without_data.contains(wanted), "{wanted}");
    }
    for unwanted in [
        "http:", "https:", "src=", "href=", "url(", "@import", "NaN", "inf",
    ] {
        assert!(!page.contains(unwanted), "{unwanted}");
    }
}

#[test]
fn the_record_lies_in_the_page_and_cannot_end_its_element() {
    let mut record = example();
    record.workload.about = "<!--<script></script><script>alert(1)</script>".to_owned();
    let page = page(&[record.clone()]);
    let data = page.split("<script type=\"application/json\">").nth(1).unwrap();
    let json = data.split("</script>").next().unwrap();
    assert_eq!(serde_json::from_str::<RunRecord>(json).unwrap(), record);
    assert_eq!(page.matches("<script").count(), 1);
}

#[test]
fn several_runs_share_each_chart_and_the_table_has_their_ratio() {
    let mut second = example();
    second.figures[0].value = 25.0;
    second.machine.cores = 3;
    let page = page(&[example(), second]);
    is_well_formed(page.split("<script").next().unwrap());
    for wanted in [
        "run &lt;0&gt;: p50",
        "run &lt;1&gt;: p50",
        "c0 other",
        "0.500",
        "machine.cores",
        "What differs",
    ] {
        assert!(page.contains(wanted), "{wanted}");
    }
}

#[test]
fn points_lie_where_their_values_are_and_a_gap_is_not_drawn_over() {
    let line = |points: Vec<(f64, Option<f64>)>| {
        let chart = Chart {
            title: "x".to_owned(),
            across: Across::Seconds,
            lines: vec![Line {
                label: "l".to_owned(),
                stroke: Stroke::of(0, 0),
                points,
            }],
            unit: "MB/s",
        };
        let svg = chart.svg();
        let path = svg.split("<path class=\"line c0\" d=\"").nth(1).unwrap();
        path.split('"').next().unwrap().to_owned()
    };
    // From nothing at the bottom to ten at the top; 794 across for four seconds.
    assert_eq!(
        line(vec![(0.0, Some(0.0)), (2.0, Some(10.0)), (4.0, Some(5.0))]),
        "M70.0 266.0L467.0 44.0L864.0 155.0"
    );
    assert_eq!(
        line(vec![(0.0, Some(10.0)), (1.0, None), (2.0, Some(10.0))]),
        "M70.0 44.0M864.0 44.0"
    );
}

#[test]
fn a_chart_of_nothing_is_nothing_and_one_of_zeros_is_one() {
    let chart = |points| Chart {
        title: "x".to_owned(),
        across: Across::Percentiles,
        lines: vec![Line {
            label: "l".to_owned(),
            stroke: Stroke::of(0, 0),
            points,
        }],
        unit: "ms",
    };
    assert_eq!(chart(vec![]).svg(), "");
    assert_eq!(chart(vec![(1.0, None)]).svg(), "");
    let svg = chart(vec![(0.0, Some(0.0)), (100.0, Some(0.0))]).svg();
    assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
}

#[test]
fn numbers_have_as_many_digits_as_say_something() {
    let shown_as = [0.0, 0.0123, 1.234, 56.78, 1234.5, 1_234_567.8].map(shown);
    assert_eq!(shown_as, ["0", "0.0123", "1.23", "56.8", "1,234", "1,234,568"]);
}
