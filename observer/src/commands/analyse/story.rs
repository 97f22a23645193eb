//! An analysis as text.

use super::{Analysis, Report};
use observer_core::{
    container::stability::{BAND_MIN_BYTES, band},
    model::units::{Bytes, Seconds},
};

/// Starts that have a line of their own.
const LISTED: usize = 20;
/// Samples that are closer say the time exactly enough for two digits.
const EXACT_SECONDS: f64 = 0.5;

impl Report {
    pub fn story(&self) -> String {
        let mut text = String::new();
        if self.starts_total > 1 {
            text += &format!(
                "{} starts in one curve: memory went to nothing, or to another instance, and came back\n",
                self.starts_total
            );
            for (index, start) in self.starts.iter().take(LISTED).enumerate() {
                text += &format!(
                    "start {:<7} at {}: {}; peak {}\n",
                    index + 1,
                    Seconds(start.started_seconds),
                    start.headline(),
                    Bytes(start.peak_bytes)
                );
            }
            if self.starts_total > LISTED as u64 {
                text += &format!("and {} more\n", self.starts_total - LISTED as u64);
            }
            text += "the first of them:\n";
        }
        text += &self.first.story();
        let format = if self.format == "columns" { None } else { Some(format!("read as {}", self.format)) };
        for note in format.iter().chain(&self.notes) {
            text += &format!("note          {note}\n");
        }
        text
    }
}

impl Analysis {
    /// The story as text.
    pub fn story(&self) -> String {
        let mut lines = vec![self.headline()];
        lines.push(format!("peak          {}{}", Bytes(self.peak_bytes), self.peak_detail()));
        if let Some(steady) = self.steady_bytes {
            let what = match self.verdict {
                "oscillating" => "top of the swing",
                _ if self.without_active_file => "without file cache",
                _ => "working set",
            };
            lines.push(format!("steady        {} ({what})", Bytes(steady)));
        }
        if let Some(overshoot) = self.overshoot_ratio {
            let small = self.steady_bytes.is_some_and(|steady| (steady as f64) < BAND_MIN_BYTES);
            let floor = if small { "; a level below 4 MiB counts as 4 MiB" } else { "" };
            lines.push(format!("overshoot     {overshoot:.2} (highest working set over steady{floor})"));
        }
        if self.plateaus > 1 {
            lines.push(format!("plateaus      {}", self.plateaus));
        }
        lines.push(format!(
            "growth        {}/s at the fastest",
            Bytes(self.fastest_growth_bytes_per_second as u64)
        ));
        lines.push(format!(
            "seen          {} samples over {}, about {} apart",
            self.samples,
            Seconds(self.duration_seconds),
            Seconds(self.spacing_seconds)
        ));
        if let Some(longest) = self.longest_gap_seconds {
            lines.push(format!(
                "gaps          {}, the longest {}: what happened in them is not known, no hold reaches across",
                self.gaps,
                Seconds(longest)
            ));
        }
        lines.join("\n") + "\n"
    }

    pub fn headline(&self) -> String {
        let end = self.ended_seconds.map_or(String::new(), |at| format!("; it ended after {}", Seconds(at)));
        match (self.verdict, self.time_to_stable_seconds) {
            ("stable", Some(at)) => {
                let known = self.confirmed_seconds.unwrap_or(at);
                let exact = if self.spacing_seconds > EXACT_SECONDS {
                    format!(" ± {}", Seconds(self.spacing_seconds))
                } else {
                    String::new()
                };
                format!("stable after {}{exact} (confirmed at {}){end}", Seconds(at), Seconds(known))
            }
            ("drifting", _) => {
                let rate = self.drift_bytes_per_second;
                let way = if rate < 0.0 { "falls" } else { "grows" };
                let rate = Bytes(rate.abs() as u64);
                match self.anonymous_memory_drifts {
                    Some(false) => {
                        let cache = if self.without_active_file { "" } else { "file cache, " };
                        format!(
                            "drifting, but not its anonymous memory: {cache}shared or kernel memory {way} by {rate}/s and does not slow down{end}"
                        )
                    }
                    _ => format!("drifting: it {way} by {rate}/s and does not slow down{end}"),
                }
            }
            ("oscillating", _) => format!(
                "oscillating between {} and {} every {}, inside that since {}{end}",
                Bytes(self.swing_low_bytes.unwrap_or(0)),
                Bytes(self.swing_high_bytes.unwrap_or(0)),
                Seconds(self.swing_period_seconds.unwrap_or(0.0)),
                Seconds(self.time_to_stable_seconds.unwrap_or(0.0)),
            ),
            ("ended", _) => format!("ended before it was stable{end}"),
            _ => format!("not settled: {} are too short, or it still moves", Seconds(self.duration_seconds)),
        }
    }

    fn peak_detail(&self) -> String {
        let anon =
            self.peak_anon_bytes.map_or(String::new(), |anon| format!(", {} of it anonymous", Bytes(anon)));
        let limit = match (self.peak_of_limit_ratio, self.limit_bytes) {
            (Some(ratio), Some(limit)) => format!(", {:.0} % of the limit {}", 100.0 * ratio, Bytes(limit)),
            _ => String::new(),
        };
        // Within the band it is noise of the level.
        let above = self
            .steady_bytes
            .map(|steady| steady as f64)
            .is_some_and(|steady| self.peak_bytes as f64 > steady + band(steady));
        let burst = match (self.verdict, self.time_to_stable_seconds) {
            ("stable", Some(at)) if above && self.peak_seconds >= at => ", when it was stable already",
            _ => "",
        };
        format!(" after {}{burst}{anon}{limit}", Seconds(self.peak_seconds))
    }
}
