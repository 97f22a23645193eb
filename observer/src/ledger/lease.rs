//! Which of several ledgers watches: a Lease, as every controller has one (kubernetes: client-go leaderelection).

use std::time::Duration;

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
    jiff::Timestamp,
};
use kube::{Api, Client, api::PostParams};
use tokio::time::sleep;

pub const NAME: &str = "observer-ledger";
/// A holder that has not renewed for this long is taken for gone.
const HELD: Duration = Duration::from_secs(15);
const RENEW: Duration = Duration::from_secs(5);

/// Waits until this replica holds the lease.
pub async fn acquire(client: &Client, namespace: &str, identity: &str) {
    let api = Api::<Lease>::namespaced(client.clone(), namespace);
    while !try_hold(&api, identity).await {
        sleep(RENEW).await;
    }
}

/// Renews it; returns when it is lost.
pub async fn keep(client: &Client, namespace: &str, identity: &str) {
    let api = Api::<Lease>::namespaced(client.clone(), namespace);
    let mut renewed = tokio::time::Instant::now();
    loop {
        sleep(RENEW).await;
        if try_hold(&api, identity).await {
            renewed = tokio::time::Instant::now();
        } else if renewed.elapsed() > HELD {
            return;
        }
    }
}

/// `false`: another holds it, or the API does not answer.
async fn try_hold(api: &Api<Lease>, identity: &str) -> bool {
    let now = Timestamp::now();
    let current = match api.get_opt(NAME).await {
        Ok(current) => current,
        Err(error) => {
            tracing::debug!(%error, "the lease cannot be read");
            return false;
        }
    };
    let spec = current.as_ref().and_then(|lease| lease.spec.clone()).unwrap_or_default();
    let holder = spec.holder_identity.as_deref().unwrap_or_default();
    let expired = spec
        .renew_time
        .as_ref()
        .is_none_or(|renewed| now.duration_since(renewed.0).as_secs() > HELD.as_secs() as i64);
    if holder != identity && !holder.is_empty() && !expired {
        return false;
    }
    let mut lease = current.clone().unwrap_or_default();
    lease.metadata.name = Some(NAME.into());
    let acquired = if holder == identity { spec.acquire_time } else { Some(MicroTime(now)) };
    lease.spec = Some(LeaseSpec {
        holder_identity: Some(identity.to_owned()),
        lease_duration_seconds: Some(HELD.as_secs() as i32),
        acquire_time: acquired,
        renew_time: Some(MicroTime(now)),
        ..LeaseSpec::default()
    });
    // With the version it was read at: of two that write, one is refused.
    let written = match current {
        Some(_) => api.replace(NAME, &PostParams::default(), &lease).await,
        None => api.create(&PostParams::default(), &lease).await,
    };
    written.is_ok()
}
