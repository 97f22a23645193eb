//! What earlier looks at the owner of pods said, and which of its pods were seen.

const LOST: usize = 8;

/// What an agent remembers of an owner it looked up before.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OwnerLookups {
    /// The look before the last that found something else.
    pub before: Option<Look>,
    /// Revision hashes of its pods, the newest last.
    pub hashes: Vec<String>,
    /// Names of pods that were lost on this node, why, and when.
    pub lost: Vec<(String, String, f64)>,
    /// Highest ordinal seen.
    pub highest_ordinal: Option<u32>,
    /// Names of pods seen before.
    pub names: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Look {
    /// Unix seconds.
    pub looked: f64,
    pub desired: Option<u64>,
    pub revision: Option<u64>,
    pub generation: i64,
}

/// Another pod of the same owner. Unix seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sibling {
    /// On the API server's clock.
    pub created: f64,
    /// When this node received it, on this node's clock.
    pub reported: f64,
}

/// Reason of a lost pod when the API gives no other reason.
pub const DELETED: &str = "deleted";

impl OwnerLookups {
    pub fn lose(&mut self, pod: &str, reason: String, now: f64) {
        if !self.lost.iter().any(|(name, ..)| name == pod) {
            keep(&mut self.lost, (pod.to_owned(), reason, now), LOST);
        }
    }
}

/// Appends what is not there yet; the oldest goes when there are too many.
pub fn remember(list: &mut Vec<String>, value: Option<String>, most: usize) {
    if let Some(value) = value
        && !list.contains(&value)
    {
        keep(list, value, most);
    }
}

pub fn keep<T>(list: &mut Vec<T>, value: T, most: usize) {
    if list.len() == most {
        list.remove(0);
    }
    list.push(value);
}
