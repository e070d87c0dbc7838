//! A chart of lines as SVG.
//!
//! ```text
//!  title                      - p50 - p99 - max
//!  100 |..............................
//!   10 |......./\.....................   up: logarithmic for times, from nothing for amounts
//!    1 |______/__\____________________
//!      0      5     10   across: seconds, or percentiles that come nearer and nearer to 100
//! ```
//!
//! Colours come from the page's style, by class. What is not here: what is drawn.

use std::fmt::Write as _;

use super::{escaped, shown};
use crate::bench::measure::number;
use crate::bench::payload::to_u64;

const WIDTH: f64 = 880.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 44.0;
const BOTTOM: f64 = 34.0;
/// Letters of a legend take about so much room.
const LETTER: f64 = 6.6;
const COLOURS: usize = 5;

/// What lies across.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Across {
    /// Seconds, evenly.
    Seconds,
    /// Percentiles: each nine takes as much room.
    Percentiles,
}

/// How a line looks: its colour by what it is, solid for the first run, dashed for the others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Stroke {
    colour: usize,
    run: usize,
}

impl Stroke {
    pub(super) fn of(kind: usize, run: usize) -> Self {
        Self {
            colour: kind % COLOURS,
            run,
        }
    }

    fn class(self) -> String {
        format!("c{}{}", self.colour, if self.run > 0 { " other" } else { "" })
    }
}

/// A line.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Line {
    pub(super) label: String,
    pub(super) stroke: Stroke,
    /// Where nothing was measured there is a gap.
    pub(super) points: Vec<(f64, Option<f64>)>,
}

/// A chart.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Chart {
    pub(super) title: String,
    pub(super) across: Across,
    pub(super) lines: Vec<Line>,
    pub(super) unit: &'static str,
}

/// From values to places.
struct Scale {
    /// As they are, or their logarithms.
    is_logarithmic: bool,
    least: f64,
    greatest: f64,
}

impl Scale {
    fn part(&self, value: f64) -> f64 {
        let value = if self.is_logarithmic {
            value.max(1e-9).log10()
        } else {
            value
        };
        ((value - self.least) / (self.greatest - self.least)).clamp(0.0, 1.0)
    }

    fn y(&self, value: f64) -> f64 {
        HEIGHT - BOTTOM - self.part(value) * (HEIGHT - TOP - BOTTOM)
    }

    /// The scale of these values, and where it has its lines.
    fn of(values: &[f64], is_logarithmic: bool) -> (Self, Vec<f64>) {
        let greatest = values.iter().copied().fold(0.0, f64::max);
        if is_logarithmic {
            let positive = values.iter().copied().filter(|value| *value > 0.0);
            let least = positive.fold(f64::INFINITY, f64::min).min(greatest).max(1e-6);
            let (from, to) = (least.log10().floor(), greatest.max(1e-6).log10().ceil());
            let to = to.max(from + 1.0);
            let decades = std::iter::successors(Some(from), |decade| Some(decade + 1.0));
            let ticks = decades
                .take_while(|decade| *decade <= to)
                .map(|decade| 10_f64.powf(decade));
            let ticks = ticks.collect();
            let scale = Self {
                is_logarithmic,
                least: from,
                greatest: to,
            };
            return (scale, ticks);
        }
        let step = nice_step(greatest / 5.0);
        let top = ((greatest / step).ceil() * step).max(step);
        let ticks = std::iter::successors(Some(0.0), |tick| Some(tick + step));
        let ticks = ticks.take_while(|tick| *tick <= top + step / 2.0).collect();
        let scale = Self {
            is_logarithmic,
            least: 0.0,
            greatest: top,
        };
        (scale, ticks)
    }
}

/// 1, 2 or 5 times a power of ten that is no less than `step`.
fn nice_step(step: f64) -> f64 {
    let step = step.max(1e-6);
    let power = 10_f64.powf(step.log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power);
    steps
        .into_iter()
        .find(|nice| *nice >= step * 0.999)
        .unwrap_or(power * 10.0)
}

impl Across {
    fn value(self, at: f64) -> f64 {
        match self {
            Self::Seconds => at,
            // How many nines; 100 stands one step behind the last that is told.
            Self::Percentiles => -((100.0 - at).max(1e-4) / 100.0).log10(),
        }
    }

    /// Returns where across has its lines, with what is said there.
    fn ticks(self, greatest: f64) -> Vec<(f64, String)> {
        match self {
            Self::Seconds => {
                let step = nice_step(greatest / 10.0).max(1.0);
                let ticks = std::iter::successors(Some(0.0), |tick| Some(tick + step));
                ticks
                    .take_while(|tick| *tick <= greatest)
                    .map(|tick| (tick, format!("{tick} s")))
                    .collect()
            }
            Self::Percentiles => [0.0, 50.0, 90.0, 99.0, 99.9, 99.99, 99.999]
                .into_iter()
                .map(|percent| (percent, format!("{percent}")))
                .filter(|(percent, _)| self.value(*percent) <= greatest + 1e-9)
                .collect(),
        }
    }
}

impl Chart {
    /// Draws it; nothing where there is nothing to draw.
    pub(super) fn svg(&self) -> String {
        let values: Vec<f64> = self
            .lines
            .iter()
            .flat_map(|line| line.points.iter().filter_map(|(_, value)| *value))
            .collect();
        if values.is_empty() {
            return String::new();
        }
        let (scale, ticks) = Scale::of(&values, self.unit == "ms");
        let all = self.lines.iter().flat_map(|line| &line.points);
        let greatest = all
            .map(|(at, _)| self.across.value(*at))
            .fold(0.0, f64::max)
            .max(1.0);
        let x = |at: f64| LEFT + self.across.value(at) / greatest * (WIDTH - LEFT - RIGHT);
        let title = escaped(&self.title);
        let mut svg = format!(
            "<figure><svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{title}\">\n\
             <text class=\"title\" x=\"{LEFT}\" y=\"18\">{title}</text>\n"
        );
        for tick in ticks {
            let y = scale.y(tick);
            let _ = writeln!(
                svg,
                "<path class=\"grid\" d=\"M{LEFT} {y:.1}H{:.1}\"/><text class=\"tick up\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
                WIDTH - RIGHT,
                LEFT - 8.0,
                y + 4.0,
                tick_text(tick)
            );
        }
        for (at, text) in self.across.ticks(greatest) {
            let _ = writeln!(
                svg,
                "<path class=\"grid\" d=\"M{:.1} {TOP}V{:.1}\"/><text class=\"tick across\" x=\"{:.1}\" y=\"{:.1}\">{text}</text>",
                x(at),
                HEIGHT - BOTTOM,
                x(at),
                HEIGHT - BOTTOM + 18.0
            );
        }
        for line in &self.lines {
            svg.push_str(&self.path(line, &x, &scale));
        }
        svg.push_str(&self.legend());
        svg.push_str("</svg></figure>\n");
        svg
    }

    /// A line with its gaps, and a dot with a hint on each point.
    fn path(&self, line: &Line, x: &impl Fn(f64) -> f64, scale: &Scale) -> String {
        let (mut path, mut dots, mut is_drawing) = (String::new(), String::new(), false);
        let class = line.stroke.class();
        for (at, value) in &line.points {
            let Some(value) = value else {
                is_drawing = false;
                continue;
            };
            let (x, y) = (x(*at), scale.y(*value));
            let _ = write!(path, "{}{x:.1} {y:.1}", if is_drawing { "L" } else { "M" });
            is_drawing = true;
            let at = match self.across {
                Across::Seconds => format!("second {at}"),
                Across::Percentiles => format!("{at} %"),
            };
            let hint = format!("{}, {at}: {} {}", line.label, shown(*value), self.unit);
            let _ = writeln!(
                dots,
                "<circle class=\"{class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2\"><title>{}</title></circle>",
                escaped(&hint)
            );
        }
        format!("<path class=\"line {class}\" d=\"{path}\"/>\n{dots}")
    }

    fn legend(&self) -> String {
        let mut legend = String::new();
        let mut x = LEFT;
        for line in self
            .lines
            .iter()
            .filter(|line| line.points.iter().any(|(_, value)| value.is_some()))
        {
            let class = line.stroke.class();
            let _ = writeln!(
                legend,
                "<path class=\"line {class}\" d=\"M{x:.1} 32h18\"/><text class=\"tick\" x=\"{:.1}\" y=\"36\">{}</text>",
                x + 24.0,
                escaped(&line.label)
            );
            x += 44.0 + LETTER * number(to_u64(line.label.chars().count()));
        }
        legend
    }
}

/// A number on a scale: as short as it can be.
fn tick_text(tick: f64) -> String {
    match tick.abs() {
        large if large >= 1e6 => format!("{} M", short(tick / 1e6)),
        large if large >= 1e3 => format!("{} k", short(tick / 1e3)),
        _ => short(tick),
    }
}

/// Without zeros that say nothing.
fn short(value: f64) -> String {
    let text = format!("{value:.6}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}
