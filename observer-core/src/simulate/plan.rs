//! The largest change that does not run a node short.

use super::{Change, Kind, Node, Outcome, Requests, simulate};

/// The most that is tried: more pods than any cluster starts at once.
const MOST: u64 = 10_000;

/// Most pods of this kind that may start at once; 0: not even one.
pub fn largest_step(kinds: &[Kind], nodes: &[Node], kind: usize, most: u64) -> u64 {
    largest(most, |pods| simulate(kinds, nodes, Change::Add { kind, pods }, Requests::AsSet))
}

/// Highest surge of a rollout.
pub fn largest_surge(kinds: &[Kind], nodes: &[Node], kind: usize, most: u64) -> u64 {
    largest(most, |surge| {
        simulate(kinds, nodes, Change::Rollout { kind, surge, unavailable: 0 }, Requests::AsSet)
    })
}

/// More never fits where less does not.
fn largest(most: u64, outcome: impl Fn(u64) -> Option<Outcome>) -> u64 {
    let fits = |pods: u64| outcome(pods).is_some_and(|outcome| outcome.fits());
    let (mut fit, mut too_much) = (0, most.min(MOST) + 1);
    while too_much - fit > 1 {
        let middle = fit + (too_much - fit) / 2;
        match fits(middle) {
            true => fit = middle,
            false => too_much = middle,
        }
    }
    fit
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_last_that_fits() {
        let kind = Kind {
            name: "web".into(),
            request: 64,
            start_need: 170,
            limit: None,
            span: 1.0,
            curve: vec![100, 160, 60],
            steady: 60,
        };
        let node =
            |pods: u64| Node { name: "n".into(), allocatable: 1024, taken: (0, 0), pods: vec![(0, pods)] };
        let kinds = [kind];
        assert_eq!(largest_step(&kinds, &[node(0)], 0, 100), 6);
        assert_eq!(largest_step(&kinds, &[node(4)], 0, 100), 4);
        assert_eq!(largest_step(&kinds, &[node(0), node(0)], 0, 3), 3, "no more than is asked for");
        assert_eq!(largest_surge(&kinds, &[node(6)], 0, 6), 4);
        assert_eq!(largest_step(&kinds, &[], 0, 100), 0);
    }
}
