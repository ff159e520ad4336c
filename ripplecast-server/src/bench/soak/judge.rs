//! What is wrong, and what would be.

use std::{collections::BTreeMap, fmt};

/// Memory that a life may leave behind beyond its first cycle's: so many KiB, or that share of it if this is more. What the
/// allocator keeps of a burst depends on which thread freed it: up to 2.2 MiB more at the end of a life, and once 5.4 MiB for
/// two cycles in the middle of one. So it is the least of the last cycles that counts: a lump that stays. A leak is for
/// `growth` to find.
const ALLOWANCE_KIB: u64 = 4096;
const ALLOWANCE_SHARE: f64 = 0.5;
/// How much more the least memory of the last third of the cycles may be than that of the middle third. The first third is
/// left out: in it the tables and the allocator's heap fill up, to where they stay. (A life of 42 cycles held 5.3 MiB after
/// its second cycle, 7.1 MiB after its seventh, and no less than 7.4 MiB at the end: 5 % more than in the middle.) A steady
/// leak grows from the middle to the end by half of what it grows from the beginning to the end. In ten minutes this finds
/// some 50 bytes that each connection leaves behind.
const GROWTH_SHARE: f64 = 0.15;
/// The same in KiB: below this, a share of a small server is a handful of pages.
const GROWTH_KIB: u64 = 512;
/// Cycles at the end of a life of which the least memory counts.
const LAST: usize = 3;
/// Cycles that a trend takes, two in each third.
const TREND: usize = 6;
/// Examples that are kept of each kind of fault.
const EXAMPLES: usize = 3;

/// All that was wrong, by kind, with the first few examples of each.
#[derive(Debug, Default)]
pub(super) struct Faults(BTreeMap<&'static str, (u64, Vec<String>)>);

impl Faults {
    pub(super) fn add(&mut self, kind: &'static str, example: impl Into<String>) {
        let (count, examples) = self.0.entry(kind).or_default();
        *count += 1;
        if examples.len() < EXAMPLES {
            examples.push(example.into());
        }
    }

    pub(super) fn count(&self) -> u64 {
        self.0.values().map(|(count, _)| count).sum()
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (kind, (count, examples)) in &self.0 {
            writeln!(f, "  {kind}: {count}")?;
            for example in examples {
                writeln!(f, "    {example}")?;
            }
        }
        Ok(())
    }
}

/// What a server holds when nobody is connected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Footprint {
    /// Memory that is its own.
    pub(super) kib: u64,
    pub(super) descriptors: usize,
    pub(super) threads: usize,
    pub(super) rooms: u64,
}

/// What a cycle has left behind, beside the baseline; memory is judged at the end of a life.
pub(super) fn left_behind(baseline: Footprint, now: Footprint) -> Vec<String> {
    let mut found = Vec::new();
    let counts = [
        ("descriptors", now.descriptors as u64, baseline.descriptors as u64),
        ("threads", now.threads as u64, baseline.threads as u64),
        ("rooms", now.rooms, baseline.rooms),
    ];
    for (what, now, then) in counts {
        if now > then {
            found.push(format!("{now} {what}, and {then} after the first cycle"));
        }
    }
    found
}

/// Whether a life ends with more memory than after its first cycle, beyond the allowance.
pub(super) fn lump(kib: &[u64]) -> Option<String> {
    let (first, later) = kib.split_first()?;
    let least = later[later.len().saturating_sub(LAST)..].iter().min()?;
    let most = first + ALLOWANCE_KIB.max((*first as f64 * ALLOWANCE_SHARE) as u64);
    (least > &most)
        .then(|| format!("at the end no less than {least} KiB, and {first} KiB after the first cycle"))
}

/// Whether memory grew over the cycles of one life: the least of the last third against the least of the middle third. The
/// least, since what an allocator keeps for later goes up and down, and a leak only up. The first cycle does not count.
pub(super) fn growth(kib: &[u64]) -> Option<String> {
    let kib = kib.get(1..)?;
    if kib.len() < TREND {
        return None;
    }
    let third = kib.len() / 3;
    let least = |part: &[u64]| part.iter().min().copied().unwrap_or(0);
    let (before, rest) = kib.split_at(kib.len() - third);
    let (middle, last) = (least(&before[third..]), least(rest));
    let most = middle + GROWTH_KIB.max((middle as f64 * GROWTH_SHARE) as u64);
    (last > most).then(|| {
        format!(
            "from the middle of {} cycles to their end the least memory grew from {middle} KiB to {last} KiB",
            kib.len()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FOOTPRINT: Footprint = Footprint { kib: 20_000, descriptors: 14, threads: 4, rooms: 2 };

    #[test]
    fn what_is_left_behind_is_named() {
        assert!(left_behind(FOOTPRINT, FOOTPRINT).is_empty());
        assert!(left_behind(FOOTPRINT, Footprint { kib: 20_500, descriptors: 13, ..FOOTPRINT }).is_empty());
        for (now, name) in [
            (Footprint { descriptors: 15, ..FOOTPRINT }, "descriptors"),
            (Footprint { threads: 5, ..FOOTPRINT }, "threads"),
            (Footprint { rooms: 3, ..FOOTPRINT }, "rooms"),
        ] {
            let found = left_behind(FOOTPRINT, now);
            assert!(found.len() == 1 && found[0].contains(name), "{found:?}");
        }
    }

    #[test]
    fn a_lump_that_stays_is_found() {
        assert!(lump(&[5000, 5100, 9200, 9300, 9400]).unwrap().contains("9200 KiB, and 5000 KiB"));
        assert!(lump(&[5000, 9200]).is_some());
        assert_eq!(lump(&[5000, 10_600, 9600, 7000]), None, "it went away");
        assert_eq!(lump(&[5000]), None, "nothing to compare");
        assert_eq!(lump(&[20_000, 29_900, 29_900]), None, "within a half");
    }

    #[test]
    fn a_steady_growth_is_found() {
        let leak: Vec<u64> = (0..10).map(|cycle| 20_000 + 1500 * cycle).collect();
        assert!(growth(&leak).unwrap().contains("26000 KiB to 30500 KiB"));
        assert_eq!(growth(&leak[..6]), None, "too few to tell");
    }

    #[test]
    fn ups_and_downs_are_no_growth() {
        let noise = [12_000, 20_000, 26_000, 21_000, 30_000, 20_500, 27_000, 29_000, 20_900, 30_000];
        assert_eq!(growth(&noise), None);
        let falling: Vec<u64> = (0..9).map(|cycle| 30_000 - 600 * cycle).collect();
        assert_eq!(growth(&falling), None);
        let filling =
            [5400, 5460, 6100, 6900, 7100, 7250, 7400, 7210, 8100, 7220, 7500, 7300, 7650, 7584, 8292, 7652];
        assert_eq!(growth(&filling), None, "it filled up, and stayed");
        assert_eq!(growth(&[800, 900, 950, 1000, 1050, 1080, 1100]), None, "a handful of pages");
    }

    #[test]
    fn faults_are_counted_and_the_first_are_shown() {
        let mut faults = Faults::default();
        (0..10).for_each(|number| faults.add("lost", format!("number {number}")));
        faults.add("again", "one");
        assert_eq!(faults.count(), 11);
        let text = faults.to_string();
        assert!(
            text.contains("lost: 10") && text.contains("number 2") && !text.contains("number 3"),
            "{text}"
        );
    }
}
