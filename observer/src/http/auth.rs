//! Who may ask: bearer tokens, reviewed by the API server and remembered for a minute.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use k8s_openapi::api::{
    authentication::v1::{TokenReview, TokenReviewSpec, UserInfo},
    authorization::v1::{NonResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec},
};
use kube::{Api, Client, api::PostParams};
use tokio::{sync::Semaphore, time::Instant};

/// An answer is not asked for again for this long: a permission taken away holds on for a minute at the most, and one
/// just given is seen within ten seconds.
const GOOD: Duration = Duration::from_secs(60);
const BAD: Duration = Duration::from_secs(10);
/// Answers remembered; a cluster has one per agent.
const ANSWERS: usize = 10_000;
/// Reviews under way at once: whoever tries tokens does so at the pace of the API server, and costs it no more.
const AT_ONCE: usize = 4;

#[derive(Clone, Debug)]
pub enum Admits {
    /// These service accounts (`namespace:name`), with a token made for this audience.
    Accounts { audience: &'static str, allowed: Vec<String> },
    /// Whoever RBAC lets `get` this path (`nonResourceURLs`), as it is with the metrics of Kubernetes' own parts. One path
    /// stands for all that is served: `/api/*` of the cluster's own discovery is everybody's (ClusterRole
    /// system:discovery), so a path such as /api/state would be, too.
    WhoMayGet(&'static str),
}

/// Not let in: 401 nobody, 403 somebody who may not, 503 nobody can tell now.
#[derive(Clone, Debug, PartialEq)]
pub struct Refused {
    pub status: StatusCode,
    pub why: String,
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let mut response = (self.status, self.why + "\n").into_response();
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

type Answers = HashMap<u64, (Instant, Result<(), Refused>)>;

#[derive(Clone)]
pub struct Access {
    client: Client,
    admits: Arc<Admits>,
    /// Tokens are remembered by a hash nobody can foresee, not by themselves.
    hasher: RandomState,
    answers: Arc<Mutex<Answers>>,
    reviews: Arc<Semaphore>,
}

impl Access {
    pub fn new(client: Client, admits: Admits) -> Self {
        Self {
            client,
            admits: Arc::new(admits),
            hasher: RandomState::new(),
            answers: Arc::default(),
            reviews: Arc::new(Semaphore::new(AT_ONCE)),
        }
    }

    /// Whether these headers carry a token of somebody admitted.
    pub async fn check(&self, headers: &HeaderMap) -> Result<(), Refused> {
        let bearer = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let token = bearer.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
        if token.is_empty() {
            return Err(refused(StatusCode::UNAUTHORIZED, "a service-account token is needed as bearer"));
        }
        let key = self.hasher.hash_one(token);
        if let Some(answer) = self.remembered(key) {
            return answer;
        }
        // Closed by nobody.
        let _one_of_few = self.reviews.acquire().await;
        if let Some(answer) = self.remembered(key) {
            return answer; // the one before asked the same
        }
        let answer = self.review(token).await;
        let unknown = matches!(&answer, Err(refused) if refused.status == StatusCode::SERVICE_UNAVAILABLE);
        if !unknown {
            let mut answers = self.answers();
            if answers.len() >= ANSWERS {
                answers.clear();
            }
            answers.insert(key, (Instant::now(), answer.clone()));
        }
        answer
    }

    fn answers(&self) -> MutexGuard<'_, Answers> {
        // A panic while it is held leaves a cache that lacks an answer.
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remembered(&self, key: u64) -> Option<Result<(), Refused>> {
        let answers = self.answers();
        let (at, answer) = answers.get(&key)?;
        let kept = if answer.is_ok() { GOOD } else { BAD };
        (at.elapsed() < kept).then(|| answer.clone())
    }

    async fn review(&self, token: &str) -> Result<(), Refused> {
        let audience = match &*self.admits {
            Admits::Accounts { audience, .. } => Some(*audience),
            Admits::WhoMayGet(_) => None,
        };
        let review = TokenReview {
            spec: TokenReviewSpec {
                token: Some(token.to_owned()),
                audiences: audience.map(|audience| vec![audience.to_owned()]),
            },
            ..TokenReview::default()
        };
        let api = Api::<TokenReview>::all(self.client.clone());
        let reviewed = api.create(&PostParams::default(), &review).await;
        let status = reviewed.map_err(|error| cannot("tokenreviews", &error))?.status.unwrap_or_default();
        let user = status.user.unwrap_or_default();
        if status.authenticated != Some(true) {
            let meant = audience.map_or(String::new(), |audience| format!(" for the audience {audience}"));
            return Err(refused(StatusCode::UNAUTHORIZED, format!("the token is not valid{meant}")));
        }
        let name = user.username.clone().unwrap_or_default();
        let may = match &*self.admits {
            Admits::Accounts { allowed, .. } => name
                .strip_prefix("system:serviceaccount:")
                .is_some_and(|name| allowed.iter().any(|one| one == name)),
            Admits::WhoMayGet(path) => self.may_get(user, path).await?,
        };
        match may {
            true => Ok(()),
            false => Err(refused(StatusCode::FORBIDDEN, format!("{name} may not read this"))),
        }
    }

    async fn may_get(&self, user: UserInfo, path: &str) -> Result<bool, Refused> {
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: user.username,
                uid: user.uid,
                groups: user.groups,
                extra: user.extra,
                non_resource_attributes: Some(NonResourceAttributes {
                    path: Some(path.to_owned()),
                    verb: Some("get".into()),
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let api = Api::<SubjectAccessReview>::all(self.client.clone());
        let reviewed = api.create(&PostParams::default(), &review).await;
        let reviewed = reviewed.map_err(|error| cannot("subjectaccessreviews", &error))?;
        Ok(reviewed.status.is_some_and(|status| status.allowed && status.denied != Some(true)))
    }
}

fn refused(status: StatusCode, why: impl Into<String>) -> Refused {
    Refused { status, why: why.into() }
}

/// What went wrong is for the log: who asks is nobody known yet.
fn cannot(resource: &str, error: &kube::Error) -> Refused {
    tracing::warn!("cannot review a token: {error}; nobody new is let in; grant create on {resource}");
    refused(StatusCode::SERVICE_UNAVAILABLE, "the token cannot be reviewed now")
}

/// Middleware: lets through what [`Access::check`] lets through.
pub async fn guard(State(access): State<Access>, request: Request, next: Next) -> Response {
    match access.check(request.headers()).await {
        Ok(()) => next.run(request).await,
        Err(refused) => refused.into_response(),
    }
}
