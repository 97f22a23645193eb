//! Page faults of one cgroup, counted by the kernel and by the program.

/// The kernel's count (pgfault of memory.stat) is exact and read seldom; the program counts at once, and only while it
/// is attached. What is reported is the higher of the kernel's last count, and the program's with all that it is known
/// to have missed. The two are not read at the same moment: a count of the program is compared with an older one of the
/// kernel only, so that no fault is counted twice.
#[derive(Clone, Copy, Debug, Default)]
pub struct PageFaults {
    /// What the kernel had counted before the observer started; `None` until its count was read.
    kernel_before: Option<u64>,
    kernel: u64,
    /// The kernel's count was read since the program's.
    kernel_is_news: bool,
    program: u64,
    /// At least so many came while the program was not attached, or were taken by the kernel for the task.
    missed: u64,
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
        (self.kernel, self.kernel_is_news) = (count.saturating_sub(before), true);
        self.grown()
    }

    /// As [`PageFaults::by_kernel`].
    pub fn by_program(&mut self, count: u64) -> u64 {
        self.program = count;
        if std::mem::take(&mut self.kernel_is_news) {
            self.missed = self.missed.max(self.kernel.saturating_sub(count));
        }
        self.grown()
    }

    /// The kernel's count may be behind by 64 for each CPU: then nothing is reported, and nothing taken back.
    fn grown(&mut self) -> u64 {
        let now = self.kernel.max(self.program.saturating_add(self.missed));
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
        assert_eq!(new.by_program(150), 40);
        assert_eq!(new.by_kernel(149), 0); // behind by one: nothing is taken back
        assert_eq!(new.by_kernel(400), 250); // detached meanwhile
        assert_eq!(new.by_program(150), 0); // attached again
        assert_eq!(new.by_program(160), 10);
    }

    #[test]
    fn a_count_of_the_program_that_comes_late_is_not_added_to_the_kernels() {
        let mut new = PageFaults::of_a_new_cgroup();
        assert_eq!(new.by_program(100), 100);
        assert_eq!(new.by_kernel(1000), 900); // the program has counted them too, and was not read yet
        assert_eq!(new.by_program(1000), 0);
        assert_eq!(new.by_program(1100), 100);
    }

    #[test]
    fn what_was_before_the_observer_is_not_counted() {
        let mut seeded = PageFaults::default();
        assert_eq!(seeded.by_program(5), 5);
        assert_eq!(seeded.by_kernel(1_000_005), 0);
        assert_eq!(seeded.by_kernel(1_000_010), 5);
    }
}
