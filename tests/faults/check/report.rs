//! The verdict as text, figures and an exit status.

use std::process::ExitCode;

use serde_json::json;

use super::{RULES, Verdict};

/// How many examples per rule and fault to print in full.
const EXAMPLES: usize = 1;

/// 0 green, 1 violations, 3 indeterminate.
pub(crate) fn status(verdict: &Verdict) -> u8 {
    if verdict
        .violations
        .iter()
        .any(|violation| !violation.excused)
    {
        1
    } else if verdict.indeterminate.is_empty() {
        0
    } else {
        3
    }
}

/// Prints the report and returns the exit status.
pub(crate) fn print(verdict: &Verdict, in_markdown: bool) -> ExitCode {
    table(verdict);
    examples(verdict);
    println!();
    for (rule, _) in RULES {
        let (found, excused) = (count(verdict, rule, false), count(verdict, rule, true));
        let excused = match excused {
            0 => String::new(),
            count => format!(", and {count} that the contract excuses"),
        };
        println!("{rule:30} {found}{excused}");
    }
    let totals = &verdict.totals;
    println!(
        "{} runs, {} s, {} faults, {} operations, {} grants, {} leases used when they were over, \
         {} uses of the fenced resource ({} refused), {} updates lost without fencing",
        totals.runs,
        totals.seconds,
        faults(verdict),
        totals.operations,
        totals.grants,
        totals.overslept,
        totals.accesses,
        totals.refused_accesses,
        totals.lost_by_control
    );
    for doubt in &verdict.indeterminate {
        println!("indeterminate: {doubt}");
    }
    if in_markdown {
        markdown(verdict);
    }
    summary(verdict);
    let failed = RULES
        .iter()
        .filter(|(rule, _)| count(verdict, rule, false) > 0)
        .count();
    println!("{} passed, {failed} failed", RULES.len() - failed);
    ExitCode::from(status(verdict))
}

/// The number of violations of a rule, either excused or counted.
fn count(verdict: &Verdict, rule: &str, excused: bool) -> usize {
    let of_rule = verdict.violations.iter().filter(|v| v.rule == rule);
    of_rule.filter(|v| v.excused == excused).count()
}

fn faults(verdict: &Verdict) -> usize {
    let of_nothing = |name: &str| name == "none" || name == "start";
    let rows = verdict.rows.iter().filter(|(name, _)| !of_nothing(name));
    rows.map(|(_, row)| row.injections).sum()
}

/// The same figures as Markdown for a document.
fn markdown(verdict: &Verdict) {
    let totals = &verdict.totals;
    println!("\n| Figure | |\n|---|---:|");
    for (name, figure) in [
        ("campaigns", totals.runs),
        ("minutes", usize::try_from(totals.seconds / 60).unwrap_or(0)),
        ("faults injected", faults(verdict)),
        ("operations", totals.operations),
        ("grants", totals.grants),
        ("leases used when they were over", totals.overslept),
        (
            "of these uses refused by the fenced resource",
            totals.refused_accesses,
        ),
        (
            "updates lost by the same resource without fencing",
            totals.lost_by_control,
        ),
    ] {
        println!("| {name} | {figure} |");
    }
    println!("\n| Rule | Demands | Violations | Excused |\n|---|---|---:|---:|");
    for (rule, demands) in RULES {
        let (found, excused) = (count(verdict, rule, false), count(verdict, rule, true));
        println!("| `{rule}` | {demands} | {found} | {excused} |");
    }
    println!(
        "\nMilliseconds until the first grant (p50 / p99 / max):\n\n\
         | Fault | Injected | Operations | Unknown | After injection | After its effect | After heal | Excused |\n\
         |---|---:|---:|---:|---:|---:|---:|---|"
    );
    for (name, row) in verdict.rows.iter().filter(|(_, row)| row.injections > 0) {
        let excused = row
            .violations
            .iter()
            .filter(|(_, (_, excused))| *excused > 0);
        let excused: Vec<String> = excused
            .map(|(rule, (_, excused))| format!("{rule} {excused}"))
            .collect();
        println!(
            "| {name} | {} | {} | {} | {} | {} | {} | {} |",
            row.injections,
            row.operations,
            row.unknown,
            spread(&row.after_injection).replace('/', " / "),
            spread(&row.after_effect).replace('/', " / "),
            spread(&row.after_heal).replace('/', " / "),
            excused.join(", ")
        );
    }
    println!();
}

fn table(verdict: &Verdict) {
    println!(
        "\n{:61}first grant, ms (p50/p99/max), after",
        "from one fault to the next"
    );
    println!(
        "{:26} {:>4} {:>4} {:>6} {:>7} {:>9} {:>17} {:>17} {:>17}  violations",
        "nemesis", "inj.", "seen", "ops", "unknown", "overslept", "injection", "effect", "heal"
    );
    for (name, row) in &verdict.rows {
        let violations: Vec<String> = row
            .violations
            .iter()
            .map(|(rule, (counted, excused))| match excused {
                0 => format!("{rule} {counted}"),
                _ => format!("{rule} {counted} ({excused})"),
            })
            .collect();
        println!(
            "{name:26} {:>4} {:>4} {:>6} {:>7} {:>9} {:>17} {:>17} {:>17}  {}",
            row.injections,
            row.seen,
            row.operations,
            row.unknown,
            row.overslept,
            spread(&row.after_injection),
            spread(&row.after_effect),
            spread(&row.after_heal),
            violations.join(", ")
        );
    }
}

/// One violation of each rule under each fault, with the lines of the history that show it.
fn examples(verdict: &Verdict) {
    for (rule, _) in RULES {
        for nemesis in verdict.rows.keys() {
            let of_both = verdict.violations.iter();
            let of_both = of_both.filter(|v| v.rule == rule && v.nemesis == *nemesis);
            for violation in of_both.take(EXAMPLES) {
                let excused = if violation.excused { " (excused)" } else { "" };
                println!("\n{rule} under {nemesis}{excused}: {}", violation.text);
                for event in &violation.evidence {
                    let line = serde_json::to_string(event).expect("an event is plain data");
                    println!("  {line}");
                }
            }
        }
    }
}

/// One line of JSON for programs.
fn summary(verdict: &Verdict) {
    let rows: serde_json::Map<String, serde_json::Value> = verdict
        .rows
        .iter()
        .map(|(name, row)| {
            let violations: serde_json::Map<_, _> = row
                .violations
                .iter()
                .map(|(rule, (counted, excused))| {
                    let count = json!({"counted": counted, "excused": excused});
                    ((*rule).to_owned(), count)
                })
                .collect();
            let row = json!({
                "injections": row.injections, "seen": row.seen, "operations": row.operations,
                "unknown": row.unknown, "overslept": row.overslept, "violations": violations,
                "grant_after_injection_ms": percentiles(&row.after_injection),
                "grant_after_effect_ms": percentiles(&row.after_effect),
                "grant_after_heal_ms": percentiles(&row.after_heal),
                "longest_gap_ms": percentiles(&row.longest_gap),
            });
            (name.clone(), row)
        })
        .collect();
    let totals = &verdict.totals;
    let line = json!({
        "seconds": totals.seconds, "operations": totals.operations, "grants": totals.grants,
        "overslept": totals.overslept, "lost_by_control": totals.lost_by_control,
        "quiet_operations": totals.quiet_operations, "quiet_unknown": totals.quiet_unknown,
        "runs": totals.runs, "faults": faults(verdict), "first_seconds": verdict.first_seconds,
        "violations": total_violations(verdict), "stalls": totals.stalls, "indeterminate": verdict.indeterminate, "nemeses": rows,
    });
    println!("{line}");
}

fn total_violations(verdict: &Verdict) -> serde_json::Value {
    let counts = RULES.iter().map(|(rule, _)| {
        let (counted, excused) = (count(verdict, rule, false), count(verdict, rule, true));
        (
            (*rule).to_owned(),
            json!({"counted": counted, "excused": excused}),
        )
    });
    counts.collect::<serde_json::Map<_, _>>().into()
}

/// p50, p99 and the maximum.
fn percentiles(samples: &[u64]) -> [u64; 3] {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable();
    let at = |percent: usize| {
        let rank = (sorted.len() * percent).div_ceil(100);
        sorted.get(rank.saturating_sub(1)).copied().unwrap_or(0)
    };
    [at(50), at(99), at(100)]
}

fn spread(samples: &[u64]) -> String {
    percentiles(samples).map(|ms| ms.to_string()).join("/")
}
