//! Faults, and the limits that define them.

use std::{collections::BTreeMap, fmt};

/// The memory that a life may leave behind beyond its first cycle's: this many KiB, or that fraction of it if that is
/// more. How much the allocator keeps after a burst depends on which thread freed it. A healthy life grew from 5.3 to
/// 7.9 MiB, and from one cycle on held another 2.4 MiB. So the minimum of the last cycles counts, and only a much
/// larger lump is a fault. Finding a leak is the task of `growth`.
const ALLOWANCE_KIB: u64 = 8192;
const ALLOWANCE_SHARE: f64 = 0.5;
/// The first cycles, as a fraction of all, in which the tables and the allocator's heap grow to their final size. They
/// are excluded from the trend. (A life of 42 cycles held 5.3 MiB after its second cycle and 7.1 MiB after its
/// seventh.)
const WARM_UP_SHARE: f64 = 0.25;
/// The growth over the rest of a life that counts as a fault, as a fraction of the memory in use. A leak of 64 bytes
/// per connection is 30 % in ten minutes with the default settings; the slow growth of a healthy life was at most 6 %.
const GROWTH_SHARE: f64 = 0.1;
/// The same in KiB: below this, a fraction of a small server is a handful of pages.
const GROWTH_KIB: f64 = 512.0;
/// The number of cycles at the end of a life over which the minimum is taken.
const LAST: usize = 3;
/// The fewest cycles for a trend, after the warm-up.
const TREND: usize = 6;
/// The most points from which the trend is computed. In a longer life, each is the median of several cycles, so that
/// comparing all pairs stays cheap.
const POINTS: usize = 48;
/// The number of examples kept of each kind of fault.
const EXAMPLES: usize = 3;

/// All faults by kind, each with a count and the first examples.
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

/// The resources of a server without connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Footprint {
    /// Private memory.
    pub(super) kib: u64,
    pub(super) descriptors: usize,
    pub(super) threads: usize,
    pub(super) rooms: u64,
}

/// Returns what a cycle has left behind compared with the baseline. Memory is checked at the end of a life.
pub(super) fn left_behind(baseline: Footprint, now: Footprint) -> Vec<String> {
    let mut found = Vec::new();
    let counts = [
        ("descriptors", now.descriptors as u64, baseline.descriptors as u64),
        ("threads", now.threads as u64, baseline.threads as u64),
        ("rooms", now.rooms, baseline.rooms),
    ];
    for (what, now, then) in counts {
        if now > then {
            found.push(format!("{now} {what}, {then} after the first cycle"));
        }
    }
    found
}

/// Returns a description if a life ends with more memory than after its first cycle, beyond the allowance.
pub(super) fn lump(kib: &[u64]) -> Option<String> {
    let (first, later) = kib.split_first()?;
    let least = later[later.len().saturating_sub(LAST)..].iter().min()?;
    let most = first + ALLOWANCE_KIB.max((*first as f64 * ALLOWANCE_SHARE) as u64);
    (least > &most).then(|| format!("at least {least} KiB at the end, {first} KiB after the first cycle"))
}

/// Returns a description if memory grew steadily over the cycles of one life.
///
/// The trend is the median of the slopes between all pairs of cycles (Theil–Sen), which a few outliers do not affect. A
/// single step up that stays is due to the allocator. So for each possible position of a step, only pairs on the same
/// side of it count, and the smallest of these trends is used. A leak shows wherever the step is assumed.
pub(super) fn growth(kib: &[u64]) -> Option<String> {
    let warm_up = (kib.len() as f64 * WARM_UP_SHARE).ceil() as usize;
    let settled = &kib[warm_up..];
    if settled.len() < TREND {
        return None;
    }
    let points: Vec<f64> = settled.chunks(settled.len().div_ceil(POINTS)).map(median).collect();
    let trend = (0..points.len()).map(|step| slope(&points[..step], &points[step..])).reduce(f64::min)?;
    let (grown, level) = (trend * points.len() as f64, median(settled));
    (grown > GROWTH_KIB.max(level * GROWTH_SHARE)).then(|| {
        format!(
            "grew by {grown:.0} KiB in the last {} of {} cycles, to {} KiB",
            settled.len(),
            kib.len(),
            settled.last().copied().unwrap_or(0)
        )
    })
}

/// Returns the median slope between all pairs of points in the same part, in KiB per point.
fn slope(before: &[f64], after: &[f64]) -> f64 {
    let mut slopes = Vec::new();
    for part in [before, after] {
        for (index, from) in part.iter().enumerate() {
            let later = part[index + 1..].iter().zip(1..);
            slopes.extend(later.map(|(to, distance)| (to - from) / f64::from(distance)));
        }
    }
    slopes.sort_by(f64::total_cmp);
    slopes.get(slopes.len() / 2).copied().unwrap_or(0.0)
}

fn median(kib: &[u64]) -> f64 {
    let mut sorted = kib.to_vec();
    sorted.sort_unstable();
    sorted[sorted.len() / 2] as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const FOOTPRINT: Footprint = Footprint { kib: 20_000, descriptors: 14, threads: 4, rooms: 2 };

    #[test]
    fn resources_left_behind_are_reported() {
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
        assert!(
            lump(&[5000, 5100, 13_300, 13_300, 13_400]).unwrap().contains("13300 KiB at the end, 5000 KiB")
        );
        assert!(lump(&[5000, 13_300]).is_some());
        assert_eq!(lump(&[5000, 14_600, 13_600, 7000]), None, "it was released");
        assert_eq!(lump(&[5000]), None, "nothing to compare");
        assert_eq!(lump(&[20_000, 29_900, 29_900]), None, "within a half");
        assert_eq!(lump(&STEP), None, "initial growth, and one step of the allocator");
    }

    /// A healthy life of 24 cycles that once failed because of a step of the allocator: it grew to 7.9 MiB, and held
    /// 10.3 MiB from one cycle on.
    const STEP: [u64; 24] = [
        5410, 5480, 6120, 6890, 7120, 7350, 7610, 7800, 8090, 8010, 8050, 8120, 8040, 8190, 8060, 8110, 8050,
        10_540, 10_500, 10_620, 10_520, 10_580, 10_510, 10_550,
    ];

    #[test]
    fn a_single_step_is_not_growth_at_any_position() {
        assert_eq!(growth(&STEP), None);
        for at in 0..24 {
            let step: Vec<u64> = (0..24).map(|cycle| if cycle < at { 8060 } else { 10_520 }).collect();
            assert_eq!(growth(&step), None, "at {at}");
            let noisy: Vec<u64> = step.iter().zip(NOISE).map(|(kib, noise)| kib + noise).collect();
            assert_eq!(growth(&noisy), None, "at {at}, with noise");
        }
    }

    /// The fluctuation of a flat series, in KiB.
    const NOISE: [u64; 24] = [
        155, 0, 620, 210, 40, 475, 305, 15, 360, 655, 75, 270, 445, 105, 30, 560, 190, 350, 5, 635, 230, 45,
        415, 120,
    ];

    #[test]
    fn steady_growth_is_found() {
        let leak: Vec<u64> = (0..12).map(|cycle| 20_000 + 1500 * cycle).collect();
        assert!(growth(&leak).unwrap().contains("13500 KiB in the last 9 of 12 cycles, to 36500 KiB"));
        assert_eq!(growth(&leak[..6]), None, "too few cycles for a trend");
    }

    /// A run of ten minutes with the default settings: 24 cycles in the long life, each with about 1,800 connections.
    #[test]
    fn a_leak_of_64_bytes_per_connection_is_found_despite_noise_and_a_step() {
        let leaked = |cycle: usize| (cycle * 1800 * 64 / 1024) as u64;
        let noisy: Vec<u64> =
            NOISE.iter().enumerate().map(|(cycle, noise)| 7200 + noise + leaked(cycle)).collect();
        assert!(growth(&noisy).is_some(), "{noisy:?}");
        let step: Vec<u64> = STEP.iter().enumerate().map(|(cycle, kib)| kib + leaked(cycle)).collect();
        assert!(growth(&step).is_some(), "{step:?}");
        let long: Vec<u64> = (0..1500).map(|cycle| 7200 + NOISE[cycle % 24] + leaked(cycle)).collect();
        assert!(growth(&long).is_some());
    }

    #[test]
    fn fluctuation_is_not_growth() {
        let noise = [12_000, 20_000, 26_000, 21_000, 30_000, 20_500, 27_000, 29_000, 20_900, 30_000];
        assert_eq!(growth(&noise), None);
        let falling: Vec<u64> = (0..12).map(|cycle| 30_000 - 600 * cycle).collect();
        assert_eq!(growth(&falling), None);
        let filling =
            [5400, 5460, 6100, 6900, 7100, 7250, 7400, 7210, 8100, 7220, 7500, 7300, 7650, 7584, 8292, 7652];
        assert_eq!(growth(&filling), None, "it grew at first, and stayed");
        assert_eq!(growth(&[800, 900, 950, 1000, 1050, 1080, 1100, 1120]), None, "a handful of pages");
        // Whichever cycle comes first.
        for turn in 0..24 {
            let noise: Vec<u64> = (0..24).map(|cycle| 7200 + NOISE[(cycle + turn) % 24]).collect();
            assert_eq!(growth(&noise), None, "from {turn} on");
        }
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
