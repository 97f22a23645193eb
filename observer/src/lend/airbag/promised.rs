//! What was raised may not be taken yet: for a while it is held against the room of its node.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;

const PROMISED: Duration = Duration::from_secs(60);

/// Raises that may not be taken yet, by node.
#[derive(Default)]
pub struct Promised(BTreeMap<String, Vec<(Instant, u64)>>);

impl Promised {
    pub fn to(&mut self, node: &str, now: Instant) -> u64 {
        self.0.retain(|_, promised| {
            promised.retain(|(at, _)| now - *at < PROMISED);
            !promised.is_empty()
        });
        self.0.get(node).into_iter().flatten().map(|(_, bytes)| bytes).sum()
    }

    pub fn add(&mut self, node: &str, now: Instant, bytes: u64) {
        self.0.entry(node.to_owned()).or_default().push((now, bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_promised_is_held_against_the_room_for_a_minute() {
        let mut promised = Promised::default();
        let now = Instant::now();
        promised.add("n1", now, 10);
        promised.add("n1", now + PROMISED / 2, 20);
        assert_eq!(promised.to("n1", now), 30);
        assert_eq!(promised.to("n2", now), 0);
        assert_eq!(promised.to("n1", now + PROMISED), 20);
        assert_eq!(promised.to("n1", now + 2 * PROMISED), 0);
    }
}
