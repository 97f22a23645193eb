//! What the start-ups of each workload were like: the last few of each, kept over restarts of the observer. Pure; the
//! file is the app's business.

use std::{collections::BTreeMap, sync::Arc};

use crate::model::{
    container::Workload,
    past_startup::{NAME, PastStartup, Summary, quantiles},
    usage_histogram::Levels,
};

/// Start-ups kept per workload: enough for a p95 that is not the maximum, few enough to follow a new release.
pub const KEPT: usize = 24;
/// Of these, what a workload gives up last when memory is short.
const ENOUGH: usize = 6;
/// Workloads kept: far more than a node runs. The one that started longest ago goes first.
pub const WORKLOADS: usize = 1000;
/// Memory that all of it may take, bytes: 4 KiB for each workload.
pub const BYTES: usize = WORKLOADS * 4096;
/// What is remembered of one workload.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Remembered {
    pub startups: Vec<PastStartup>,
    /// Unreclaimable memory after start-up.
    pub levels: Levels,
}

impl Remembered {
    fn started(&self) -> f64 {
        self.startups.last().map_or(0.0, |past| past.started)
    }

    fn size(&self) -> usize {
        self.startups.iter().map(PastStartup::size).sum::<usize>() + self.levels.size()
    }
}

/// Bounded in number and bytes. A clone is cheap; a clone is written to the file while the original goes on changing.
#[derive(Clone, Debug)]
pub struct Histories {
    by_workload: BTreeMap<Workload, Arc<Remembered>>,
    size: usize,
    most: usize,
    dropped: Dropped,
}

/// What the bounds did not leave room for, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    pub workloads: u64,
    /// Of workloads that are still remembered.
    pub startups: u64,
}

impl Default for Histories {
    fn default() -> Self {
        Self { by_workload: BTreeMap::new(), size: 0, most: BYTES, dropped: Dropped::default() }
    }
}

impl Histories {
    pub fn get(&self, workload: &Workload) -> &[PastStartup] {
        self.by_workload.get(workload).map_or(&[], |known| &known.startups)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&Workload, &Remembered)> {
        self.by_workload.iter().map(|(workload, known)| (workload, &**known))
    }

    /// Hands out everything.
    pub fn drain(&mut self) -> impl Iterator<Item = (Workload, Remembered)> {
        self.size = 0;
        std::mem::take(&mut self.by_workload)
            .into_iter()
            .map(|(workload, known)| (workload, Arc::unwrap_or_clone(known)))
    }

    pub fn levels(&self, workload: &Workload) -> Option<&Levels> {
        self.by_workload.get(workload).map(|known| &known.levels)
    }

    /// Memory it takes, bytes; what the maps themselves take is not in it.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Memory it may take, bytes.
    pub fn bound(&self) -> usize {
        self.most
    }

    pub fn dropped(&self) -> Dropped {
        self.dropped
    }

    /// Keeps to this many bytes from now on.
    pub fn keep_to(&mut self, bytes: usize) {
        self.most = bytes.min(BYTES);
        self.make_room(None);
    }

    /// A container of it was at `bytes` for `seconds` until `now` (Unix time).
    pub fn was_at(&mut self, workload: &Workload, bytes: u64, seconds: f64, now: f64) {
        if self.by_workload.contains_key(workload) {
            self.change(workload, |known| known.levels.add(bytes, seconds, now));
        }
    }

    /// Takes what an earlier run kept, as far as it can be true. Returns how many start-ups it did not take.
    pub fn restore(&mut self, workload: &Workload, mut startups: Vec<PastStartup>, levels: Levels) -> usize {
        let came = startups.len();
        startups.retain(PastStartup::is_sound);
        startups.drain(..startups.len().saturating_sub(KEPT));
        let refused = came - startups.len();
        if !startups.is_empty() && workload.size() <= NAME {
            let levels = levels.checked().unwrap_or_default();
            self.change(workload, |known| *known = Remembered { startups, levels });
        }
        refused
    }

    /// Adds a start-up, or replaces its earlier record.
    pub fn remember(&mut self, workload: &Workload, past: PastStartup) {
        self.change(workload, |known| {
            let startups = &mut known.startups;
            match startups.iter_mut().find(|known| known.started == past.started) {
                Some(known) => *known = past,
                None => {
                    if startups.len() == KEPT {
                        startups.remove(0);
                    }
                    startups.push(past);
                }
            }
        });
    }

    /// What was remembered under another name, for want of the right one.
    pub fn rename(&mut self, old: &Workload, new: &Workload) {
        let Some(known) = self.by_workload.remove(old) else { return };
        self.size -= known.size() + old.size();
        let Remembered { startups, levels } = Arc::unwrap_or_clone(known);
        startups.into_iter().for_each(|past| self.remember(new, past));
        self.change(new, |known| {
            known.startups.sort_by(|a, b| a.started.total_cmp(&b.started));
            if known.levels == Levels::default() {
                known.levels = levels;
            }
        });
    }

    /// Of what was remembered under another name, only the start-up of this time is the new one's.
    pub fn move_startup(&mut self, old: &Workload, new: &Workload, started: Option<f64>) {
        let is_it = |past: &PastStartup| Some(past.started) == started;
        if !self.get(old).iter().any(is_it) {
            return;
        }
        let mut moved = Vec::new();
        self.change(old, |known| moved.extend(known.startups.extract_if(.., |past| is_it(past))));
        if self.get(old).is_empty()
            && let Some(known) = self.by_workload.remove(old)
        {
            self.size -= known.size() + old.size();
        }
        moved.into_iter().for_each(|past| self.remember(new, past));
    }

    fn change(&mut self, workload: &Workload, change: impl FnOnce(&mut Remembered)) {
        if !self.by_workload.contains_key(workload) {
            self.by_workload.insert(workload.clone(), Arc::default());
            self.size += workload.size();
        }
        let Some(known) = self.by_workload.get_mut(workload) else { return };
        let known = Arc::make_mut(known);
        let before = known.size();
        change(known);
        self.size = self.size + known.size() - before;
        self.make_room(Some(workload));
    }

    /// The oldest start-ups of those with the most go first; where none has more than enough, the workload that started
    /// longest ago, but not the one that was just changed.
    fn make_room(&mut self, changed: Option<&Workload>) {
        while self.by_workload.len() > WORKLOADS {
            self.drop_oldest(changed);
        }
        while self.size > self.most {
            let workloads = self.by_workload.len();
            let most = self.by_workload.values_mut().max_by_key(|known| known.startups.len());
            match most {
                Some(known) if known.startups.len() > ENOUGH => {
                    let known = Arc::make_mut(known);
                    self.size -= known.startups.remove(0).size();
                    self.dropped.startups += 1;
                }
                _ if workloads > 1 => self.drop_oldest(changed),
                _ => return,
            }
        }
    }

    fn drop_oldest(&mut self, but: Option<&Workload>) {
        let others = self.by_workload.iter().filter(|(workload, _)| Some(*workload) != but);
        let oldest = others.min_by(|a, b| a.1.started().total_cmp(&b.1.started()));
        let Some(oldest) = oldest.map(|(workload, _)| workload.clone()) else { return };
        if let Some(known) = self.by_workload.remove(&oldest) {
            self.size -= known.size() + oldest.size();
            self.dropped.workloads += 1;
        }
    }

    pub fn summary(&self, workload: &Workload) -> Option<Summary> {
        let past = self.get(workload);
        let peaks = quantiles(past.iter().map(|past| past.peak as f64))?;
        let bytes = |quantiles: [f64; 3]| quantiles.map(|bytes| bytes as u64);
        Some(Summary {
            startups: past.len() as u64,
            peak: bytes(peaks),
            time_to_stable: quantiles(past.iter().filter_map(|past| past.time_to_stable)),
            steady: quantiles(past.iter().filter_map(|past| Some(past.steady? as f64))).map(bytes),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{
        container::Labels,
        past_startup::{SPANS, StartupOutcome},
    };

    fn past(started: f64, peak: u64) -> PastStartup {
        PastStartup {
            started,
            pod: String::new(),
            outcome: StartupOutcome::Stable,
            cut_short: false,
            peak,
            peak_seconds: 1.0,
            unreclaimable_peak: 0,
            growth: 0.0,
            time_to_stable: Some(2.0),
            steady: Some(peak / 2),
            overshoot: Some(2.0),
            span: 1.0,
            curve: [peak / 2, peak, peak / 2].map(|bytes| bytes as f32).to_vec(),
        }
    }

    fn web() -> Workload {
        let labels = Labels { workload: "web".into(), ..Labels::default() };
        Workload::of(&labels)
    }

    #[test]
    fn the_last_start_ups_are_kept_and_one_reported_again_is_replaced() {
        let mut histories = Histories::default();
        for i in 0..100 {
            histories.remember(&web(), past(f64::from(i), 100 + i as u64));
        }
        histories.remember(&web(), past(99.0, 500));
        let summary = histories.summary(&web()).unwrap();
        assert_eq!((summary.startups, summary.peak[2]), (KEPT as u64, 500));
        assert_eq!(histories.get(&web()).first().unwrap().started, 76.0);
    }

    #[test]
    fn the_number_of_workloads_is_bounded() {
        let mut histories = Histories::default();
        for i in 0..WORKLOADS + 5 {
            let labels = Labels { workload: format!("w{i}"), ..Labels::default() };
            histories.remember(&Workload::of(&labels), past(i as f64, 1));
        }
        assert_eq!(histories.iter().count(), WORKLOADS);
        assert!(
            histories.get(&Workload::of(&Labels { workload: "w0".into(), ..Labels::default() })).is_empty()
        );
    }

    #[test]
    fn memory_is_bounded_and_the_least_useful_goes_first() {
        let named = |i: usize| Workload { workload: format!("w{i}"), ..Workload::default() };
        let mut histories = Histories::default();
        for i in 0..WORKLOADS {
            for k in 0..KEPT {
                let past = PastStartup { curve: vec![1.0; SPANS], ..past((i * KEPT + k) as f64, 1) };
                histories.remember(&named(i), past);
            }
        }
        assert!(histories.size() <= BYTES);
        assert_eq!(
            histories.size(),
            histories.iter().map(|(w, known)| w.size() + known.size()).sum::<usize>()
        );
        assert!((0..WORKLOADS).all(|i| histories.get(&named(i)).len() >= ENOUGH));
        assert!(histories.dropped().startups > 0);
        histories.keep_to(100_000);
        assert!(histories.size() <= 100_000 && histories.dropped().workloads > 0);
        assert!(histories.get(&named(0)).is_empty() && !histories.get(&named(WORKLOADS - 1)).is_empty());
    }

    #[test]
    fn what_cannot_be_a_start_up_is_not_restored() {
        let sound = past(1.0, 100);
        for broken in [
            PastStartup { span: 1e9, ..sound.clone() },
            PastStartup { span: 0.0, ..sound.clone() },
            PastStartup { span: f64::NAN, ..sound.clone() },
            PastStartup { peak: u64::MAX, ..sound.clone() },
            PastStartup { started: 1e308, ..sound.clone() },
            PastStartup { time_to_stable: Some(-1.0), ..sound.clone() },
            PastStartup { growth: f64::INFINITY, ..sound.clone() },
            PastStartup { curve: vec![1.0; SPANS + 1], ..sound.clone() },
            PastStartup { curve: vec![-1.0], ..sound.clone() },
            PastStartup { pod: "p".repeat(NAME + 1), ..sound.clone() },
        ] {
            let mut histories = Histories::default();
            assert_eq!(histories.restore(&web(), vec![broken.clone(), sound.clone()], Levels::default()), 1);
            assert_eq!(histories.get(&web()), std::slice::from_ref(&sound), "{broken:?}");
        }
    }

    #[test]
    fn a_curve_is_read_between_two_moments_and_held_after_its_end() {
        let past = past(0.0, 100);
        assert_eq!(past.highest_between(0.0, 0.5), 50);
        assert_eq!(past.highest_between(0.5, 1.5), 100);
        assert_eq!(past.highest_between(2.0, 9.0), 50);
        let killed = PastStartup { outcome: StartupOutcome::OomKilled, ..past };
        assert_eq!(killed.highest_between(5.0, 9.0), 100);
    }
}
