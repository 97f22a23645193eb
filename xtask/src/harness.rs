//! What a test harness prints as it goes: libtest's lines, which the harness of the live tests prints too.

use std::time::{Duration, Instant};

/// Less is not worth a line of the closing summary.
const LONG: Duration = Duration::from_secs(15);
/// A reason is one line of the closing summary.
const LONGEST_REASON: usize = 300;

#[derive(Default)]
pub struct Harness {
    pub passed: Vec<String>,
    /// With the reason, where the test printed one.
    pub failed: Vec<String>,
    pub skipped: Vec<String>,
    /// The test whose verdict is due.
    pub running: Option<String>,
    reason: Option<String>,
    /// Tests that took long, where they run one after the other.
    pub long: Vec<(Duration, String)>,
    /// When the last one ended, or the first began.
    ended: Option<Instant>,
}

impl Harness {
    /// What a test prints itself may stand between its name and its verdict.
    pub fn read(&mut self, line: &str) {
        let ended = *self.ended.get_or_insert_with(Instant::now);
        if let Some((_, failure)) = line.split_once("FAILURE ") {
            let whole = failure.split_once(": ").map_or(failure, |(_, why)| why);
            self.reason = Some(whole.chars().take(LONGEST_REASON).collect());
        }
        match line.strip_prefix("test ").and_then(|line| line.split_once(" ... ")) {
            Some((test, verdict)) => {
                self.running = Some(test.trim().to_owned());
                self.verdict(verdict.trim(), ended);
            }
            None => self.verdict(line.trim(), ended),
        }
    }

    fn verdict(&mut self, said: &str, began: Instant) {
        let list = match said {
            "ok" => &mut self.passed,
            "FAILED" => &mut self.failed,
            _ if said == "ignored" || said.starts_with("ignored, ") => &mut self.skipped,
            _ => return,
        };
        let Some(test) = self.running.take() else { return };
        self.ended = Some(Instant::now());
        if began.elapsed() >= LONG {
            self.long.push((began.elapsed(), test.clone()));
        }
        match self.reason.take().filter(|_| said == "FAILED") {
            Some(reason) => list.push(format!("{test}: {reason}")),
            None => list.push(test),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_has_its_reason_wherever_the_test_printed_it() {
        let mut harness = Harness::default();
        for line in [
            "running 4 tests",
            "test a::first ... ok",
            "test second ... FAILURE second: 0 points follow 0 % of the growth",
            "FAILED",
            "test third ... kernel 5, observer 5",
            "ok",
            "test fourth (skipped: no file system) ... ignored",
            "test fifth ... FAILED",
            "test result: FAILED. 2 passed; 2 failed; 1 ignored",
        ] {
            harness.read(line);
        }
        assert_eq!(harness.passed, ["a::first", "third"]);
        assert_eq!(harness.failed, ["second: 0 points follow 0 % of the growth", "fifth"]);
        assert_eq!(harness.skipped, ["fourth (skipped: no file system)"]);
    }
}
