//! Which of several replicas works: a Lease, by the rule every controller has (kubernetes: client-go leaderelection).
//!
//! No clock of another machine is believed. A lease is taken for expired once this process has seen it unchanged for as
//! long as it lasts; the times in it are for people.

use std::time::Duration;

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
    jiff::Timestamp,
};
use kube::{Api, Client, api::PostParams};
use tokio::time::{Instant, sleep, timeout};

/// client-go's three: a holder that is not seen to renew for this long is gone, it gives up itself before that, and
/// both try this often.
const LASTS: Duration = Duration::from_secs(15);
const DEADLINE: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_secs(2);

pub struct Holding {
    api: Api<Lease>,
    name: &'static str,
    identity: String,
    seen: Seen,
}

/// The record as this process saw it last, and since when it is so.
#[derive(Default)]
struct Seen {
    record: Option<(LeaseSpec, Instant)>,
}

impl Seen {
    /// Whether this one may write itself in.
    fn is_free(&mut self, record: &LeaseSpec, identity: &str, now: Instant) -> bool {
        let holder = record.holder_identity.as_deref().unwrap_or_default();
        if holder.is_empty() || holder == identity {
            return true;
        }
        let since = match &self.record {
            Some((before, since)) if before == record => *since,
            _ => now,
        };
        self.record = Some((record.clone(), since));
        let lasts = record.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
        now - since >= lasts.map_or(LASTS, Duration::from_secs)
    }
}

impl Holding {
    pub fn new(client: Client, namespace: &str, name: &'static str, identity: &str) -> Self {
        let api = Api::<Lease>::namespaced(client, namespace);
        Self { api, name, identity: identity.to_owned(), seen: Seen::default() }
    }

    /// Waits until this replica holds the lease.
    pub async fn acquire(&mut self) {
        while !self.try_hold().await {
            sleep(RETRY).await;
        }
    }

    /// Renews it; returns when it is lost, or may be by the time another looks.
    pub async fn keep(&mut self) {
        let mut renewed = Instant::now();
        while renewed.elapsed() < DEADLINE {
            sleep(RETRY).await;
            let began = Instant::now();
            if timeout(DEADLINE.saturating_sub(renewed.elapsed()), self.try_hold()).await == Ok(true) {
                renewed = began;
            }
        }
    }

    /// Gives it back, so that the next need not wait for it to expire. One that is not ours stays as it is.
    pub async fn release(&self) {
        let given_back = async {
            let Some(mut lease) = self.api.get_opt(self.name).await? else { return Ok(()) };
            let Some(spec) = lease.spec.as_mut() else { return Ok(()) };
            if spec.holder_identity.as_deref() == Some(&self.identity) {
                spec.holder_identity = Some(String::new());
                spec.renew_time = Some(MicroTime(Timestamp::now()));
                self.api.replace(self.name, &PostParams::default(), &lease).await?;
            }
            Ok::<_, kube::Error>(())
        };
        match timeout(RETRY, given_back).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!("cannot release the lease: {error}; the next replica waits until it expires")
            }
            Err(_) => {
                tracing::warn!("the lease was not released in time; the next replica waits until it expires")
            }
        }
    }

    /// `false`: another holds it, or the API does not answer.
    async fn try_hold(&mut self) -> bool {
        let current = match timeout(DEADLINE, self.api.get_opt(self.name)).await {
            Ok(Ok(current)) => current,
            Ok(Err(error)) => {
                tracing::debug!(%error, "the lease cannot be read");
                return false;
            }
            Err(_) => return false,
        };
        let record = current.as_ref().and_then(|lease| lease.spec.clone()).unwrap_or_default();
        if !self.seen.is_free(&record, &self.identity, Instant::now()) {
            return false;
        }
        let mut lease = current.clone().unwrap_or_default();
        lease.metadata.name = Some(self.name.into());
        lease.spec = Some(self.renewed(record));
        // With the version it was read at: of two that write, one is refused.
        let params = PostParams::default();
        let written = async {
            match current {
                Some(_) => self.api.replace(self.name, &params, &lease).await,
                None => self.api.create(&params, &lease).await,
            }
        };
        matches!(timeout(DEADLINE, written).await, Ok(Ok(_)))
    }

    fn renewed(&self, record: LeaseSpec) -> LeaseSpec {
        let now = MicroTime(Timestamp::now());
        let ours = record.holder_identity.as_deref() == Some(&self.identity);
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: Some(LASTS.as_secs() as i32),
            acquire_time: if ours { record.acquire_time } else { Some(now.clone()) },
            renew_time: Some(now),
            lease_transitions: Some(record.lease_transitions.unwrap_or(0) + i32::from(!ours)),
            ..LeaseSpec::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held_by(holder: &str, renewed: i64) -> LeaseSpec {
        LeaseSpec {
            holder_identity: Some(holder.into()),
            lease_duration_seconds: Some(15),
            renew_time: Timestamp::from_second(renewed).ok().map(MicroTime),
            ..LeaseSpec::default()
        }
    }

    #[test]
    fn a_lease_is_expired_once_it_was_seen_unchanged_for_as_long_as_it_lasts() {
        let began = Instant::now();
        let at = |seconds| began + Duration::from_secs(seconds);
        // Of the year 1970, or of one to come: the holder's clock says nothing here.
        for skewed in [0, 100_000_000_000] {
            let mut seen = Seen::default();
            for (second, renewed, free) in
                [(0, 0, false), (14, 0, false), (14, 1, false), (28, 1, false), (29, 1, true)]
            {
                assert_eq!(
                    seen.is_free(&held_by("other", skewed + renewed), "me", at(second)),
                    free,
                    "after {second} s"
                );
            }
        }
    }

    #[test]
    fn what_is_mine_or_given_back_is_free_at_once() {
        let mut seen = Seen::default();
        let now = Instant::now();
        assert!(!seen.is_free(&held_by("other", 1), "me", now));
        assert!(seen.is_free(&held_by("", 1), "me", now));
        assert!(seen.is_free(&held_by("me", 1), "me", now));
        assert!(seen.is_free(&LeaseSpec::default(), "me", now), "it was never held");
    }
}
