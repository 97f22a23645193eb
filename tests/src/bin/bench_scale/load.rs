//! What happens beside the cgroups at rest.

use std::{
    process::Child,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::Result;
use observer_tests::group::{Group, Tree};

/// Cgroups at rest, each with a process that sleeps.
pub struct Crowd {
    groups: Vec<Group>,
    children: Vec<Child>,
}

impl Crowd {
    pub fn new(tree: &Tree, cgroups: usize) -> Result<Self> {
        let mut crowd = Self { groups: Vec::new(), children: Vec::new() };
        for n in 0..cgroups {
            let group = tree.group(&format!("{}/{}/{n}", parent(), word(n as u64 / 4)))?;
            let mut child = group.spawn("/bin/sleep".as_ref(), &["36000"])?;
            child.stdout = None; // a descriptor of each is too many
            crowd.children.push(child);
            crowd.groups.push(group);
        }
        Ok(crowd)
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill(); // ended already is what is wanted
            let _ = child.wait();
        }
        self.groups.clear();
    }
}

fn parent() -> String {
    format!("observer-scale-{}", std::process::id())
}

/// A name without digits, so that none is taken for another instance of the same workload.
fn word(mut n: u64) -> String {
    let mut word = String::from("work-");
    for _ in 0..4 {
        let consonants = b"bdfgklmnprstvz";
        let (consonant, vowel) = (n % 14, n / 14 % 5);
        word.push(char::from(consonants[consonant as usize]));
        word.push(char::from(b"aeiou"[vowel as usize]));
        n /= 70;
    }
    word
}

/// 100 starts a minute, each 0.5 s long.
pub fn starts(tree: &Tree, workload: &std::path::Path, span: Duration) -> Result<()> {
    let began = Instant::now();
    for n in 0.. {
        let due = Duration::from_millis(600) * n;
        if due >= span {
            break;
        }
        sleep(due.saturating_sub(began.elapsed()));
        let group = tree.group(&format!("{}/starting/{n}", parent()))?;
        let args = ["spike", "--peak", "32", "--steady", "16", "--ramp", "0.1", "--seconds", "0.4"];
        group.spawn(workload, &args)?.wait()?;
    }
    Ok(())
}

/// Each group has a process, and a name that no other has: build jobs.
pub fn churn(tree: &Tree, groups: u64, span: Duration, mut progress: impl FnMut(u64)) -> Result<()> {
    let began = Instant::now();
    for n in 0..groups {
        sleep((span * n as u32 / groups as u32).saturating_sub(began.elapsed()));
        let group = tree.group(&format!("{}/short/{}", parent(), word(n)))?;
        group.spawn("/bin/true".as_ref(), &[])?.wait()?;
        drop(group);
        if n % (groups / 10).max(1) == 0 {
            progress(n);
        }
    }
    sleep(span.saturating_sub(began.elapsed()));
    Ok(())
}
