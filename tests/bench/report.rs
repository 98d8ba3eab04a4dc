//! Figures: each is a ratio within one run, with its spread and its target.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use serde_json::json;

/// The target of a figure.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Reach {
    AtLeast(f64),
    AtMost(f64),
    /// The figure is reported without a target.
    Nothing,
}

/// Median, minimum and maximum of the rounds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rounds {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
}

impl Rounds {
    pub(crate) fn of(values: &[f64]) -> Self {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (middle, last) = (sorted.len() / 2, sorted.len() - 1);
        let median = if sorted.len() % 2 == 1 {
            sorted[middle]
        } else {
            f64::midpoint(sorted[middle - 1], sorted[middle])
        };
        Self {
            median,
            least: sorted[0],
            most: sorted[last],
        }
    }

    /// The ratios of two candidates, round by round.
    pub(crate) fn ratio(values: &[f64], base: &[f64]) -> Self {
        let ratios: Vec<f64> = values
            .iter()
            .zip(base)
            .map(|(value, base)| value / base)
            .collect();
        Self::of(&ratios)
    }
}

/// One line of the report.
#[derive(Clone, Debug)]
pub(crate) struct Figure {
    pub(crate) section: char,
    pub(crate) name: String,
    /// The measured value; `unit` is its unit.
    pub(crate) measured: f64,
    pub(crate) unit: &'static str,
    /// The baseline; empty without a comparison.
    pub(crate) against: String,
    pub(crate) ratio: Rounds,
    pub(crate) reach: Reach,
}

impl Figure {
    fn verdict(&self) -> &'static str {
        let reached = match self.reach {
            Reach::AtLeast(least) => self.ratio.median >= least,
            Reach::AtMost(most) => self.ratio.median <= most,
            Reach::Nothing => return "",
        };
        if reached { "pass" } else { "MISS" }
    }
}

/// All figures and notes.
#[derive(Debug, Default)]
pub(crate) struct Report {
    machine: serde_json::Value,
    figures: Vec<Figure>,
    notes: Vec<String>,
}

impl Report {
    pub(crate) fn new(machine: serde_json::Value) -> Self {
        Self {
            machine,
            ..Self::default()
        }
    }

    pub(crate) fn note(&mut self, note: impl Into<String>) {
        let note = note.into();
        println!("note: {note}");
        self.notes.push(note);
    }

    pub(crate) fn add(&mut self, figure: Figure) {
        println!("{}", row(&figure));
        self.figures.push(figure);
    }

    /// A figure with a baseline: its ratio refers to `base`, round by round.
    pub(crate) fn compare(
        &mut self,
        (section, name, unit): (char, &str, &'static str),
        values: &[f64],
        (against, base): (&str, &[f64]),
        reach: Reach,
    ) {
        self.add(Figure {
            section,
            name: name.to_owned(),
            measured: Rounds::of(values).median,
            unit,
            against: against.to_owned(),
            ratio: Rounds::ratio(values, base),
            reach,
        });
    }

    /// A figure with a target of its own.
    pub(crate) fn absolute(
        &mut self,
        (section, name, unit): (char, &str, &'static str),
        values: &[f64],
        reach: Reach,
    ) {
        let rounds = Rounds::of(values);
        self.add(Figure {
            section,
            name: name.to_owned(),
            measured: rounds.median,
            unit,
            against: String::new(),
            ratio: rounds,
            reach,
        });
    }

    /// The report as a Markdown table.
    pub(crate) fn table(&self) -> String {
        let mut table = format!("\n{}\n\n", describe(&self.machine));
        table += "| | figure | measured | ratio | to | spread | to reach | |\n";
        table += "|---|---|---:|---:|---|---|---|---|\n";
        for figure in &self.figures {
            let _ = writeln!(table, "{}", row(figure));
        }
        for note in &self.notes {
            let _ = write!(table, "\n- {note}");
        }
        table
    }

    /// The report as lines of JSON.
    pub(crate) fn write_json(&self, file: &Path) -> std::io::Result<()> {
        let mut file = File::create(file)?;
        writeln!(file, "{}", json!({ "machine": self.machine }))?;
        for figure in &self.figures {
            let (bound, limit) = match figure.reach {
                Reach::AtLeast(limit) => (Some("at_least"), Some(limit)),
                Reach::AtMost(limit) => (Some("at_most"), Some(limit)),
                Reach::Nothing => (None, None),
            };
            let line = json!({
                "section": figure.section.to_string(), "figure": figure.name, "measured": figure.measured,
                "unit": figure.unit, "against": figure.against, "ratio": figure.ratio.median,
                "least": figure.ratio.least, "most": figure.ratio.most, "bound": bound, "limit": limit,
                "verdict": figure.verdict(),
            });
            writeln!(file, "{line}")?;
        }
        for note in &self.notes {
            writeln!(file, "{}", json!({ "note": note }))?;
        }
        Ok(())
    }
}

fn describe(machine: &serde_json::Value) -> String {
    let part = |(name, value): (&String, &serde_json::Value)| {
        format!(
            "{name}: {}",
            value
                .as_str()
                .map_or_else(|| value.to_string(), str::to_owned)
        )
    };
    let parts: Vec<String> = machine
        .as_object()
        .into_iter()
        .flatten()
        .map(part)
        .collect();
    parts.join(", ")
}

fn row(figure: &Figure) -> String {
    let ratio = figure.ratio;
    let limit = match figure.reach {
        Reach::AtLeast(limit) => format!("≥ {limit}"),
        Reach::AtMost(limit) => format!("≤ {limit}"),
        Reach::Nothing => String::new(),
    };
    let shown = if figure.against.is_empty() {
        String::new()
    } else {
        number(ratio.median)
    };
    format!(
        "| {} | {} | {} {} | {shown} | {} | {} … {} | {limit} | {} |",
        figure.section,
        figure.name,
        number(figure.measured),
        figure.unit,
        figure.against,
        number(ratio.least),
        number(ratio.most),
        figure.verdict()
    )
}

/// Formats a number with three significant digits.
pub(crate) fn number(value: f64) -> String {
    let size = value.abs();
    if size >= 100.0 {
        let digits = format!("{value:.0}");
        let mut grouped = String::new();
        for (at, digit) in digits.chars().enumerate() {
            let left = digits.len() - at;
            if at > 0 && left % 3 == 0 && !grouped.ends_with('-') {
                grouped.push(',');
            }
            grouped.push(digit);
        }
        grouped
    } else if size >= 10.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.2}")
    }
}

/// The quantile `part` of the sorted latencies, in milliseconds.
pub(crate) fn percentile(times: &mut [u32], part: f64) -> f64 {
    if times.is_empty() {
        return f64::NAN;
    }
    times.sort_unstable();
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss
    )]
    let at = ((times.len() as f64 * part) as usize).min(times.len() - 1);
    f64::from(times[at]) / 1000.0
}
