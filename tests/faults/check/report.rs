//! The verdict in words, figures and an exit status.

use std::process::ExitCode;

use serde_json::json;

use super::{RULES, Verdict};

/// How many examples of a rule and fault are printed in full.
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

/// Prints it all and gives the status.
pub(crate) fn print(verdict: &Verdict) -> ExitCode {
    table(verdict);
    examples(verdict);
    let counted = |rule: &str, excused: bool| {
        let of_rule = verdict.violations.iter().filter(|v| v.rule == rule);
        of_rule.filter(|v| v.excused == excused).count()
    };
    println!();
    for rule in RULES {
        let (found, excused) = (counted(rule, false), counted(rule, true));
        let excused = match excused {
            0 => String::new(),
            count => format!(", and {count} that the contract excuses"),
        };
        println!("{rule:30} {found}{excused}");
    }
    let totals = &verdict.totals;
    println!(
        "{} operations, {} grants, {} leases overslept, {} uses of the fenced resource ({} refused), \
         {} updates lost without fencing",
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
    summary(verdict);
    let failed = RULES.iter().filter(|rule| counted(rule, false) > 0).count();
    println!("{} passed, {failed} failed", RULES.len() - failed);
    ExitCode::from(status(verdict))
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
    for rule in RULES {
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

/// One line for programs.
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
        "stalls": totals.stalls, "indeterminate": verdict.indeterminate, "nemeses": rows,
    });
    println!("{line}");
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
