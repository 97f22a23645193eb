//! Page faults of one cgroup, counted by the kernel and by the program.

/// The kernel's count (pgfault of memory.stat) is exact and read seldom; the program counts at once, and only while it is
/// attached. Together: the kernel's last count, and what the program saw since.
#[derive(Clone, Copy, Debug, Default)]
pub struct PageFaults {
    /// What the kernel had counted before the observer started; `None` until its count was read.
    kernel_before: Option<u64>,
    kernel: u64,
    program: u64,
    /// Its count when the kernel's was read.
    program_then: u64,
    reported: u64,
}

impl PageFaults {
    pub fn of_a_new_cgroup() -> Self {
        Self { kernel_before: Some(0), ..Self::default() }
    }

    /// Faults to report since the last report.
    pub fn by_kernel(&mut self, count: u64) -> u64 {
        // What the program counted before the first look at the kernel's count is in that count too.
        let before = *self.kernel_before.get_or_insert(count.saturating_sub(self.program));
        self.kernel = count.saturating_sub(before);
        self.program_then = self.program;
        self.grown()
    }

    /// As [`PageFaults::by_kernel`].
    pub fn by_program(&mut self, count: u64) -> u64 {
        self.program = count;
        self.grown()
    }

    /// The kernel's count may be behind by 64 for each CPU: then nothing is reported, and nothing taken back.
    fn grown(&mut self) -> u64 {
        let now = self.kernel + self.program.saturating_sub(self.program_then);
        let grown = now.saturating_sub(self.reported);
        self.reported += grown;
        grown
    }
}

#[cfg(test)]
mod tests {
    use super::PageFaults;

    #[test]
    fn faults_are_counted_once_over_attaching_and_detaching() {
        let mut new = PageFaults::of_a_new_cgroup();
        assert_eq!(new.by_program(100), 100);
        assert_eq!(new.by_kernel(110), 10); // faults the kernel took for the task
        assert_eq!(new.by_program(150), 50);
        assert_eq!(new.by_kernel(159), 0); // behind by one: nothing is taken back
        assert_eq!(new.by_kernel(400), 240); // detached meanwhile
        assert_eq!(new.by_program(160), 10); // attached again
    }

    #[test]
    fn what_was_before_the_observer_is_not_counted() {
        let mut seeded = PageFaults::default();
        assert_eq!(seeded.by_program(5), 5);
        assert_eq!(seeded.by_kernel(1_000_005), 0);
        assert_eq!(seeded.by_kernel(1_000_010), 5);
    }
}
