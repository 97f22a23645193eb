//! What a test harness prints as it goes: libtest's lines, which the harness of the live tests prints too.

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
}

impl Harness {
    /// What a test prints itself may stand between its name and its verdict.
    pub fn read(&mut self, line: &str) {
        if let Some((_, failure)) = line.split_once("FAILURE ") {
            let whole = failure.split_once(": ").map_or(failure, |(_, why)| why);
            self.reason = Some(whole.chars().take(LONGEST_REASON).collect());
        }
        match line.strip_prefix("test ").and_then(|line| line.split_once(" ... ")) {
            Some((test, verdict)) => {
                self.running = Some(test.trim().to_owned());
                self.verdict(verdict.trim());
            }
            None => self.verdict(line.trim()),
        }
    }

    fn verdict(&mut self, said: &str) {
        let list = match said {
            "ok" => &mut self.passed,
            "FAILED" => &mut self.failed,
            _ if said == "ignored" || said.starts_with("ignored, ") => &mut self.skipped,
            _ => return,
        };
        let Some(test) = self.running.take() else { return };
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
