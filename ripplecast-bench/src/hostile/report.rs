//! The results of a run. The JSON field names are stable, because scripts read them.

use std::fmt::Write as _;

use serde::Serialize;

use super::{
    attack::Outcome,
    clients::{Action, Wait, Waits},
};
use crate::load::{
    measure::Times,
    table::{Micros, count},
};
use crate::result::Result;

/// All results of a run.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) target: String,
    pub(super) connections: u32,
    /// Well-behaved clients of each kind.
    pub(super) clients: u32,
    /// Seconds per measurement.
    pub(super) seconds: f64,
    pub(super) interrupted: bool,
    /// Whether the attackers' threads ran at the lowest CPU priority.
    pub(super) low_priority: bool,
    pub(super) waits: Vec<Compared>,
    pub(super) attacks: Vec<Outcome>,
}

/// Waits of one kind of client, without and with attackers.
#[derive(Debug, Serialize)]
pub(super) struct Compared {
    pub(super) what: &'static str,
    pub(super) alone_us: Option<Times>,
    pub(super) attacked_us: Option<Times>,
    /// Failed actions. Each also counts as a wait of 30 s.
    pub(super) alone_failed: u64,
    pub(super) attacked_failed: u64,
    /// The error of the first failed action.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) first_failure: Option<String>,
    /// The p99 with attackers divided by the p99 without.
    pub(super) ratio: Option<f64>,
}

/// Fails if actions failed without attackers, because nothing can be compared with such a run.
pub(super) fn can_compare(alone: &Waits) -> Result<()> {
    for (action, wait) in Action::ALL.into_iter().zip(alone) {
        if let Some(failure) = &wait.first_failure {
            let (failed, all, what) = (wait.failed, wait.times.len(), action.name());
            return Err(format!("{failed} of {all} actions failed without attackers ({what}: {failure})"));
        }
    }
    Ok(())
}

/// Combines the waits of both runs.
pub(super) fn compare(alone: &Waits, attacked: &Waits) -> Vec<Compared> {
    let compared = |(action, (alone, attacked)): (Action, (&Wait, &Wait))| {
        let [before, during] = [alone, attacked].map(|wait| Times::of(&wait.times));
        let ratio = before.zip(during).map(|(before, during)| during.p99 / before.p99.max(0.1));
        Compared {
            what: action.name(),
            alone_us: before,
            attacked_us: during,
            alone_failed: alone.failed,
            attacked_failed: attacked.failed,
            first_failure: alone.first_failure.clone().or_else(|| attacked.first_failure.clone()),
            ratio: ratio.map(|ratio| (ratio * 100.0).round() / 100.0),
        }
    };
    Action::ALL.into_iter().zip(alone.iter().zip(attacked)).map(compared).collect()
}

impl Report {
    /// Fails if a kind of client waited at least `most` times as long as without
    /// attackers.
    pub(super) fn verdict(&self, most: f64) -> Result<()> {
        if self.interrupted {
            return Ok(());
        }
        for action in &self.waits {
            let Compared { what, alone_us, attacked_us, ratio, .. } = action;
            let (Some(alone), Some(attacked), Some(ratio)) = (alone_us, attacked_us, ratio) else {
                return Err(format!("no {what} was measured"));
            };
            if *ratio >= most {
                return Err(format!(
                    "a {what} took {ratio:.1} times as long with {} hostile connections (p99 {}, {} without them), \
                     and --max-ratio is {most}",
                    self.connections,
                    Micros(attacked.p99),
                    Micros(alone.p99),
                ));
            }
        }
        Ok(())
    }

    /// Formats the report.
    pub(super) fn table(&self) -> String {
        let mut text = String::new();
        let Self { target, connections, clients, seconds, interrupted, low_priority, .. } = self;
        let interrupted = if *interrupted { "  (interrupted)" } else { "" };
        let priority = match low_priority {
            true => "",
            false => {
                "\nno low CPU priority on this system: the waits contain CPU time that the attackers took\n"
            }
        };
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{target}  {connections} hostile connections  {clients} clients of each kind  {seconds} s{interrupted}\n{priority}\n\
             {:14}{:>10}{:>10}{:>14}{:>14}{:>8}{:>8}",
            "wait", "p50 alone", "p99 alone", "p50 attacked", "p99 attacked", "ratio", "failed"
        );
        for action in &self.waits {
            let at = |times: Option<Times>, of: fn(Times) -> f64| {
                times.map_or_else(|| "-".to_owned(), |times| Micros(of(times)).to_string())
            };
            let ratio = action.ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.1}"));
            let _ = writeln!(
                text,
                "{:14}{:>10}{:>10}{:>14}{:>14}{ratio:>8}{:>8}",
                action.what,
                at(action.alone_us, |times| times.p50),
                at(action.alone_us, |times| times.p99),
                at(action.attacked_us, |times| times.p50),
                at(action.attacked_us, |times| times.p99),
                count(action.alone_failed + action.attacked_failed),
            );
        }
        for failure in self.waits.iter().filter_map(|action| action.first_failure.as_ref()) {
            let _ = writeln!(text, "the first failure: {failure}");
        }
        let _ = writeln!(
            text,
            "\n{:14}{:>12}{:>10}{:>10}{:>10}{:>10}",
            "attack", "connections", "opened", "refused", "closed", "held"
        );
        for outcome in &self.attacks {
            let Outcome { attack, connections, opened, refused, closed, held } = outcome;
            let [connections, opened, refused, closed, held] =
                [connections, opened, refused, closed, held].map(|number| count(*number));
            let name = attack.name();
            let _ =
                writeln!(text, "{name:14}{connections:>12}{opened:>10}{refused:>10}{closed:>10}{held:>10}");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::measure::histogram;

    fn wait(millis: u64, failed: u64) -> Wait {
        let mut times = histogram();
        times.saturating_record(millis * 1_000_000);
        Wait { times, failed, first_failure: (failed > 0).then(|| "reset".to_owned()) }
    }

    #[test]
    fn the_longest_wait_decides() {
        let alone = [wait(1, 0), wait(2, 0), wait(3, 0)];
        let attacked = [wait(2, 0), wait(18, 1), wait(3, 0)];
        let mut report = Report {
            target: String::new(),
            connections: 7,
            clients: 1,
            seconds: 1.0,
            interrupted: false,
            low_priority: true,
            waits: compare(&alone, &attacked),
            attacks: Vec::new(),
        };
        assert!(report.verdict(10.0).is_ok());
        let line = report.verdict(9.0).unwrap_err();
        for part in ["new WebSocket", "9.0 times", "7 hostile", "18.0", "2.00 ms", "--max-ratio"] {
            assert!(line.contains(part), "no {part:?} in {line}");
        }
        let table = report.table();
        assert!(table.contains("the first failure: reset"), "{table}");
        assert!(!table.contains("priority"), "{table}");
        report.low_priority = false;
        assert!(report.table().contains("no low CPU priority"), "{}", report.table());
        report.interrupted = true;
        assert!(report.verdict(9.0).is_ok());
    }
}
