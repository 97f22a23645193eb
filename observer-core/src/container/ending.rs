//! How a container ended: the end of its first process, the one with the exec that started the container. Pure.
//!
//! The last process to exit is a different one: when the first process of a pid namespace exits, the kernel kills all
//! others of it. And an OOM kill is the container's end only if the first process was the victim.

use std::{collections::VecDeque, time::Duration};

use crate::model::{container::ExitStatus, time::Time};

/// The last victims are kept while the first process of the container is not known; at most this many. One want of
/// memory may kill a whole group (memory.oom.group).
const VICTIMS: usize = 64;
/// A kill without a recorded victim is the reason of an end only within this time before it.
const SOON: Duration = Duration::from_secs(10);
const SIGKILL: u8 = 9;

#[derive(Debug, Default)]
pub struct Ending {
    first: Option<u32>,
    /// The first was not seen to start: it is the init that is this deep among pid namespaces, or presumed (the
    /// highest).
    init: Option<u32>,
    /// Of the first process.
    status: Option<ExitStatus>,
    /// The one that was moved into the empty group, until it exits without a start. What it begins executes before it
    /// may do so itself: if it ends in the group, it is the first process.
    moved: Option<u32>,
    moved_status: Option<ExitStatus>,
    last: Option<(u32, ExitStatus)>,
    victims: VecDeque<Victim>,
    /// A kill that was only counted, and whether it was by the container's own limit.
    unseen: Option<(Time, bool)>,
}

#[derive(Clone, Copy, Debug)]
struct Victim {
    pid: u32,
    by_own_limit: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct End {
    pub status: Option<ExitStatus>,
    pub oom_killed: bool,
    pub by_own_limit: bool,
}

impl Ending {
    /// Its first process is known.
    pub fn began(&mut self, pid: u32) {
        (self.first, self.init, self.status) = (Some(pid), None, None);
        self.moved = self.moved.filter(|moved| *moved != pid);
        self.victims.retain(|victim| victim.pid == pid || self.moved == Some(victim.pid));
    }

    /// A process was moved into the empty group. A runtime's is gone before the entry point is executed.
    pub fn moved(&mut self, pid: u32) {
        if self.first.is_none() && pid != 0 {
            self.moved.get_or_insert(pid);
        }
    }

    /// It is its first process, unless an init or an exec says otherwise.
    pub fn presumed(&mut self, pid: u32) {
        if self.first.is_none() {
            (self.first, self.init) = (Some(pid), Some(u32::MAX));
            self.moved = None; // the runtime, which may outlive what it began
        }
    }

    /// `init`: the first of a pid namespace, so deep. Where no start was seen, the one that is least deep is the first
    /// of the container: others are of sandboxes inside it.
    pub fn exited(&mut self, pid: u32, status: ExitStatus, init: Option<u32>) {
        if let Some(depth) = init
            && (self.first.is_none() || self.init.is_some_and(|known| depth < known))
        {
            (self.first, self.init) = (Some(pid), Some(depth));
        }
        if self.first == Some(pid) {
            self.status = Some(status);
        }
        if self.moved == Some(pid) {
            match self.first {
                Some(_) => self.moved_status = Some(status),
                None => self.moved = None,
            }
        }
        self.last = Some((pid, status));
    }

    /// `by_own_limit`: the container's own limit was exceeded, or the limit is not known.
    pub fn killed(&mut self, at: Time, pid: Option<u32>, by_own_limit: bool) {
        match pid {
            // Of others no more is asked.
            Some(pid)
                if self.init.is_none()
                    && self.moved != Some(pid)
                    && self.first.is_some_and(|first| first != pid) => {}
            Some(pid) => {
                if self.victims.len() == VICTIMS {
                    self.victims.pop_front();
                }
                self.victims.push_back(Victim { pid, by_own_limit });
            }
            None => self.unseen = Some((at, by_own_limit)),
        }
    }

    /// It is over.
    pub fn reported(&self, at: Time) -> End {
        let (pid, status) = match (self.first, self.last) {
            _ if self.moved_status.is_some() => (self.moved, self.moved_status),
            (Some(first), _) => (Some(first), self.status),
            (None, Some((pid, status))) => (Some(pid), Some(status)),
            (None, None) => (None, None),
        };
        let killed = status.is_none_or(|status| status == ExitStatus::Signal(SIGKILL));
        let seen = self.victims.iter().find(|victim| Some(victim.pid) == pid);
        let unseen = self.unseen.filter(|(counted, _)| at.since(*counted) < SOON);
        let by_own_limit = seen.map(|victim| victim.by_own_limit).or(unseen.map(|(_, own)| own));
        let victim = by_own_limit.filter(|_| killed);
        End { status, oom_killed: victim.is_some(), by_own_limit: victim == Some(true) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KILLED: ExitStatus = ExitStatus::Signal(9);

    fn at(seconds: u64) -> Time {
        Time::from_nanos(seconds * 1_000_000_000)
    }

    #[test]
    fn an_end_is_the_first_processes() {
        let mut ending = Ending::default();
        ending.began(1);
        ending.killed(at(1), Some(2), true);
        ending.exited(2, KILLED, None);
        ending.exited(1, ExitStatus::Code(3), Some(1));
        ending.exited(3, KILLED, None);
        let end = End { status: Some(ExitStatus::Code(3)), ..End::default() };
        assert_eq!(ending.reported(at(2)), end, "neither the worker's kill nor the last to exit");
    }

    #[test]
    fn what_was_moved_in_and_ends_there_is_the_first_process() {
        let killed = End { status: Some(KILLED), oom_killed: true, by_own_limit: true };
        let code = |code| End { status: Some(ExitStatus::Code(code)), ..End::default() };
        type Row = (&'static str, &'static [(u32, ExitStatus)], End);
        let table: [Row; 5] = [
            ("a shell, and its worker was killed", &[(2, KILLED), (1, ExitStatus::Code(0))], code(0)),
            (
                "a shell, and its first child left",
                &[(2, ExitStatus::Code(0)), (1, ExitStatus::Code(3))],
                code(3),
            ),
            ("a shell that was killed", &[(2, ExitStatus::Code(0)), (1, KILLED)], killed),
            ("a shell that moved on", &[(2, ExitStatus::Code(4))], code(4)),
            ("a shell that moved on, and its child was killed", &[(2, KILLED)], killed),
        ];
        for (name, exits, expected) in table {
            let mut ending = Ending::default();
            ending.moved(1);
            ending.began(2);
            for (pid, status) in exits {
                if *status == KILLED {
                    ending.killed(at(1), Some(*pid), true);
                }
                ending.exited(*pid, *status, None);
            }
            assert_eq!(ending.reported(at(1)), expected, "{name}");
        }
    }

    #[test]
    fn a_runtime_that_was_moved_in_is_gone_before_the_start() {
        let mut ending = Ending::default();
        ending.moved(1);
        ending.exited(1, ExitStatus::Code(0), None);
        ending.began(3);
        ending.exited(3, ExitStatus::Code(7), Some(1));
        assert_eq!(ending.reported(at(1)).status, Some(ExitStatus::Code(7)));
        let mut ending = Ending::default();
        ending.moved(1);
        ending.presumed(3); // killed before its exec, and the runtime fails by that
        ending.killed(at(1), Some(3), true);
        ending.exited(3, KILLED, Some(1));
        ending.exited(1, ExitStatus::Code(1), None);
        assert!(ending.reported(at(1)).oom_killed);
    }

    #[test]
    fn oom_killed_is_only_the_victim_itself() {
        let table = [
            ("the first process", Some(1), Some(1), KILLED, true),
            ("a worker, and later a kill by hand", Some(1), Some(2), KILLED, false),
            ("it handled the rest and left by itself", Some(1), Some(1), ExitStatus::Code(0), false),
            ("the victim was not seen", Some(1), None, KILLED, true),
            ("its start was not seen", None, Some(1), KILLED, true),
        ];
        for (name, first, victim, status, expected) in table {
            let mut ending = Ending::default();
            if let Some(first) = first {
                ending.began(first);
            }
            ending.killed(at(1), victim, true);
            ending.exited(1, status, Some(1));
            ending.exited(5, KILLED, None);
            assert_eq!(ending.reported(at(2)).oom_killed, expected, "{name}");
            assert_eq!(ending.reported(at(2)).status, Some(status), "{name}");
        }
    }

    #[test]
    fn the_first_process_is_a_victim_however_many_die_with_it() {
        // As memory.oom.group has it: the largest first, then each of the group.
        for known in [true, false] {
            let mut ending = Ending::default();
            if known {
                ending.began(1);
            }
            for pid in [9, 1].into_iter().chain(2..50) {
                ending.killed(at(1), Some(pid), true);
            }
            for pid in (1..50).rev() {
                ending.exited(pid, KILLED, (pid == 1).then_some(1));
            }
            let end = End { status: Some(KILLED), oom_killed: true, by_own_limit: true };
            assert_eq!(ending.reported(at(1)), end, "{known}");
        }
    }

    #[test]
    fn a_kill_hours_before_that_was_only_counted_is_not_the_end() {
        let mut ending = Ending::default();
        ending.began(1);
        ending.killed(at(1), None, true);
        ending.exited(1, KILLED, Some(1));
        assert!(!ending.reported(at(7200)).oom_killed);
    }

    #[test]
    fn a_sandbox_inside_a_container_that_was_there_before_is_not_its_first_process() {
        for order in [[(7, 2), (1, 1), (8, 3)], [(1, 1), (7, 2), (8, 3)], [(8, 3), (7, 2), (1, 1)]] {
            let mut ending = Ending::default();
            ending.killed(at(1), Some(7), true);
            for (pid, depth) in order {
                let status = if pid == 1 { ExitStatus::Code(0) } else { KILLED };
                ending.exited(pid, status, Some(depth));
            }
            let end = End { status: Some(ExitStatus::Code(0)), ..End::default() };
            assert_eq!(ending.reported(at(2)), end, "{order:?}");
        }
    }

    #[test]
    fn a_worker_killed_before_the_exec_of_its_init_is_not_the_end_of_it() {
        let mut ending = Ending::default();
        ending.presumed(7);
        ending.killed(at(1), Some(7), true);
        ending.exited(7, KILLED, None);
        assert!(ending.reported(at(1)).oom_killed, "as long as no other is known");
        ending.exited(1, ExitStatus::Code(0), Some(1));
        let end = End { status: Some(ExitStatus::Code(0)), ..End::default() };
        assert_eq!(ending.reported(at(2)), end);
    }

    #[test]
    fn a_first_process_whose_exit_was_lost_lends_no_status_from_others() {
        let mut ending = Ending::default();
        ending.began(1);
        ending.exited(2, KILLED, None);
        assert_eq!(ending.reported(at(1)), End::default());
    }
}
