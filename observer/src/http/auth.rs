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
use kube::{Api, Client, Resource, api::PostParams, core::ClusterResourceScope};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout},
};

use crate::failure::{connection_failed, one_line};

/// An answer is not asked for again for this long: a permission taken away holds on for a minute at the most, and one
/// just given is seen within ten seconds.
const GOOD: Duration = Duration::from_secs(60);
const BAD: Duration = Duration::from_secs(10);
/// Positive reviews kept; a cluster has one per agent. Negative reviews have a table of their own, which is emptied
/// when it is full, so that a client that tries tokens displaces no admitted client.
const GOOD_ANSWERS: usize = 10_000;
const BAD_ANSWERS: usize = 1_000;
/// Reviews of unknown tokens under way at once, and waiting: this bounds the load of a client that tries tokens on the
/// API server; beyond it the answer is 503, at once.
const AT_ONCE: usize = 4;
const WAITING: usize = 64;
/// A review gets no answer where the connection to the API server died silently. Less than a client waits: the ledger's
/// ten seconds, and Prometheus'.
const REVIEW: Duration = Duration::from_secs(5);
/// Further reviews at once for tokens that were valid before.
const RENEWALS: usize = 2;

#[derive(Clone, Debug)]
pub enum Admits {
    /// These service accounts (`namespace:name`), with a token made for this audience.
    Accounts { audience: &'static str, allowed: Vec<String> },
    /// Accounts that RBAC allows to `get` this path (`nonResourceURLs`), as for the metrics of Kubernetes' own
    /// components. One path covers all that is served: the ClusterRole system:discovery allows every account to get
    /// `/api/*`, so a path such as /api/v1/state would be readable for all.
    WhoMayGet(&'static str),
}

/// A rejected request: 401 no valid token, 403 the account has no right, 503 the review is not possible now.
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

#[derive(Default)]
struct Answers {
    /// When each was found good. Kept when it is to be asked for again: it was good before.
    good: HashMap<u64, Instant>,
    bad: HashMap<u64, (Instant, Refused)>,
}

impl Answers {
    fn remembered(&self, key: u64, now: Instant) -> Option<Result<(), Refused>> {
        if self.good.get(&key).is_some_and(|at| now - *at < GOOD) {
            return Some(Ok(()));
        }
        let (at, refused) = self.bad.get(&key)?;
        (now - *at < BAD).then(|| Err(refused.clone()))
    }

    fn remember(&mut self, key: u64, answer: &Result<(), Refused>, now: Instant) {
        match answer {
            Ok(()) => {
                make_room(&mut self.good, GOOD_ANSWERS);
                self.bad.remove(&key);
                self.good.insert(key, now);
            }
            // Not known now: reviewed again on the next request.
            Err(refused) if refused.status == StatusCode::SERVICE_UNAVAILABLE => {}
            Err(refused) => {
                make_room(&mut self.bad, BAD_ANSWERS);
                self.good.remove(&key);
                self.bad.insert(key, (now, refused.clone()));
            }
        }
    }
}

fn make_room<T>(answers: &mut HashMap<u64, T>, most: usize) {
    if answers.len() >= most {
        answers.clear();
    }
}

#[derive(Clone)]
pub struct Access {
    client: Client,
    admits: Arc<Admits>,
    /// Tokens are kept as hashes with a random key, never in clear text.
    hasher: RandomState,
    answers: Arc<Mutex<Answers>>,
    reviews: Arc<Semaphore>,
    renewals: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    within: Duration,
}

impl Access {
    pub fn new(client: Client, admits: Admits) -> Self {
        Self {
            client,
            admits: Arc::new(admits),
            hasher: RandomState::new(),
            answers: Arc::default(),
            reviews: Arc::new(Semaphore::new(AT_ONCE)),
            renewals: Arc::new(Semaphore::new(RENEWALS)),
            waiting: Arc::new(Semaphore::new(AT_ONCE + WAITING)),
            within: REVIEW,
        }
    }

    /// Whether these headers carry a token of an admitted account.
    pub async fn check(&self, headers: &HeaderMap) -> Result<(), Refused> {
        let Some(token) = bearer(headers) else {
            return Err(refused(StatusCode::UNAUTHORIZED, "a service-account token is needed as bearer"));
        };
        let key = self.hasher.hash_one(token);
        if let Some(answer) = self.answers().remembered(key, Instant::now()) {
            return answer;
        }
        let was_good = self.answers().good.contains_key(&key);
        let _in_the_queue = match was_good {
            true => None,
            false => Some(self.waiting.try_acquire().map_err(|_| {
                refused(StatusCode::SERVICE_UNAVAILABLE, "too many tokens are being reviewed; try again")
            })?),
        };
        // The semaphore is never closed.
        let _one_of_few = if was_good { &self.renewals } else { &self.reviews }.acquire().await;
        if let Some(answer) = self.answers().remembered(key, Instant::now()) {
            return answer; // the one before asked the same
        }
        let answer = timeout(self.within, self.review(token)).await.unwrap_or_else(|_| {
            Err(not_reviewed(&format!("the Kubernetes API does not answer within {:?}", self.within)))
        });
        self.answers().remember(key, &answer, Instant::now());
        answer
    }

    fn answers(&self) -> MutexGuard<'_, Answers> {
        // A panic while it is held leaves a cache that lacks an answer.
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
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
        let reviewed = self.create(&review).await;
        let status = reviewed.map_err(|error| cannot("tokenreviews", &error))?.status.unwrap_or_default();
        let user = status.user.unwrap_or_default();
        if status.authenticated != Some(true) {
            let meant = audience.map_or(String::new(), |audience| format!(" for the audience {audience}"));
            return Err(refused(StatusCode::UNAUTHORIZED, format!("the token is not valid{meant}")));
        }
        // An API server without audiences accepts a token that was issued for another service.
        let meant = status.audiences.unwrap_or_default();
        if audience.is_some_and(|audience| !meant.iter().any(|one| one == audience)) {
            return Err(refused(StatusCode::UNAUTHORIZED, "the token was made for another audience"));
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

    /// Nothing is stored by it, so a connection that failed is no reason not to send it once more.
    async fn create<K>(&self, review: &K) -> Result<K, kube::Error>
    where
        K: Resource<Scope = ClusterResourceScope> + Clone + std::fmt::Debug + DeserializeOwned + Serialize,
        K::DynamicType: Default,
    {
        let api = Api::<K>::all(self.client.clone());
        match api.create(&PostParams::default(), review).await {
            Err(error) if connection_failed(&error) => api.create(&PostParams::default(), review).await,
            reviewed => reviewed,
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
        let reviewed = self.create(&review).await;
        let reviewed = reviewed.map_err(|error| cannot("subjectaccessreviews", &error))?;
        Ok(reviewed.status.is_some_and(|status| status.allowed && status.denied != Some(true)))
    }
}

/// The token of `Authorization: Bearer TOKEN`. The scheme's case does not matter (RFC 9110, 11.1).
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

fn refused(status: StatusCode, why: impl Into<String>) -> Refused {
    Refused { status, why: why.into() }
}

/// The error goes to the log only: the client is not authenticated yet.
fn cannot(resource: &str, error: &kube::Error) -> Refused {
    not_reviewed(&format!("{}; grant create on {resource} if that is forbidden", one_line(error)))
}

fn not_reviewed(why: &str) -> Refused {
    tracing::warn!("cannot review a token: {why}; new clients are rejected until reviews succeed");
    refused(StatusCode::SERVICE_UNAVAILABLE, "the token cannot be reviewed now")
}

/// Middleware: lets through what [`Access::check`] lets through.
pub async fn guard(State(access): State<Access>, request: Request, next: Next) -> Response {
    match access.check(request.headers()).await {
        Ok(()) => next.run(request).await,
        Err(refused) => refused.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use http::{Request, Response};
    use kube::client::Body;
    use serde_json::{Value, json};
    use tower::service_fn;

    use super::*;

    fn with(authorization: &str) -> HeaderMap {
        HeaderMap::from_iter(HeaderValue::from_str(authorization).map(|value| (header::AUTHORIZATION, value)))
    }

    #[test]
    fn a_token_is_found_whatever_the_case_of_its_scheme() {
        for (header, token) in [
            ("Bearer a.b.c", Some("a.b.c")),
            ("bearer a.b.c", Some("a.b.c")),
            ("BEARER  a.b.c ", Some("a.b.c")),
            ("Bearer", None),
            ("Bearer ", None),
            ("Basic a.b.c", None),
            ("Bearera.b.c", None),
            ("", None),
        ] {
            assert_eq!(bearer(&with(header)), token, "{header:?}");
        }
    }

    /// An API server that answers with `status`, and never answers for the token "slow".
    fn server(status: fn(&str) -> Value) -> (Client, Arc<AtomicUsize>) {
        let asked = Arc::new(AtomicUsize::new(0));
        let count = asked.clone();
        let service = service_fn(move |request: Request<Body>| {
            count.fetch_add(1, Ordering::Relaxed);
            async move {
                let body = request.into_body().collect_bytes().await?;
                let review: Value = serde_json::from_slice(&body).unwrap();
                let token = review["spec"]["token"].as_str().unwrap().to_owned();
                if token.starts_with("slow") {
                    std::future::pending::<()>().await;
                }
                let mut answer = review;
                answer["status"] = status(&token);
                Ok::<_, kube::Error>(Response::new(Body::from(answer.to_string().into_bytes())))
            }
        });
        (Client::new(service, "default"), asked)
    }

    fn good(token: &str) -> Value {
        match token {
            "wrong" => json!({"authenticated": false}),
            "elsewhere" => {
                json!({"authenticated": true, "audiences": ["other"], "user": {"username": "system:serviceaccount:observer:observer"}})
            }
            "unaware" => {
                json!({"authenticated": true, "user": {"username": "system:serviceaccount:observer:observer"}})
            }
            "stranger" => {
                json!({"authenticated": true, "audiences": ["observer-ledger"], "user": {"username": "system:serviceaccount:other:observer"}})
            }
            _ => {
                json!({"authenticated": true, "audiences": ["observer-ledger"], "user": {"username": "system:serviceaccount:observer:observer"}})
            }
        }
    }

    fn access(client: Client) -> Access {
        let allowed = vec!["observer:observer".to_owned()];
        Access::new(client, Admits::Accounts { audience: "observer-ledger", allowed })
    }

    #[tokio::test]
    async fn an_api_that_does_not_answer_refuses_for_now_and_is_asked_again() {
        let status = |_: &str| json!({"authenticated": true, "audiences": ["me"], "user": {"username": "system:serviceaccount:a:b"}});
        let (client, asked) = server(status);
        let admits = Admits::Accounts { audience: "me", allowed: vec!["a:b".to_owned()] };
        let access = Access { within: Duration::from_millis(20), ..Access::new(client, admits) };
        for times in [1, 2] {
            let refused = access.check(&with("Bearer slow")).await.unwrap_err();
            assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
            assert_eq!(asked.load(Ordering::Relaxed), times);
        }
        access.check(&with("Bearer quick")).await.unwrap();
    }

    #[tokio::test]
    async fn who_is_let_in_is_the_reviews_word_of_account_and_audience() {
        let (client, asked) = server(good);
        let access = access(client);
        for (token, status) in
            [("wrong", 401), ("elsewhere", 401), ("unaware", 401), ("stranger", 403), ("right", 200)]
        {
            for _again in 0..2 {
                let answer = access.check(&with(&format!("Bearer {token}"))).await;
                assert_eq!(answer.err().map_or(200, |refused| refused.status.as_u16()), status, "{token}");
            }
        }
        assert_eq!(asked.load(Ordering::Relaxed), 5, "answers are remembered");
    }

    #[tokio::test]
    async fn tokens_that_are_tried_do_not_keep_out_one_that_was_good() {
        let (client, _) = server(good);
        let access = access(client);
        assert_eq!(access.check(&with("Bearer right")).await, Ok(()));
        let mut trying = Vec::new();
        for number in 0..400 {
            let (access, header) = (access.clone(), with(&format!("Bearer slow{number}")));
            trying.push(tokio::spawn(async move { access.check(&header).await }));
        }
        tokio::task::yield_now().await;
        let turned_away = async {
            let mut turned_away = 0;
            for task in &mut trying[AT_ONCE + WAITING..] {
                turned_away += usize::from(task.await.unwrap().is_err());
            }
            turned_away
        };
        assert_eq!(turned_away.await, 400 - AT_ONCE - WAITING, "the queue is bounded");
        // Its answer is a minute old: it has to be reviewed again, and is.
        let key = access.hasher.hash_one("right");
        access.answers().good.insert(key, Instant::now() - GOOD);
        assert_eq!(access.check(&with("Bearer right")).await, Ok(()));
        trying.iter().for_each(tokio::task::JoinHandle::abort);
    }

    #[test]
    fn wrong_tokens_push_out_no_good_answer() {
        let mut answers = Answers::default();
        let now = Instant::now();
        answers.remember(0, &Ok(()), now);
        for key in 1..20_000 {
            answers.remember(key, &Err(refused(StatusCode::UNAUTHORIZED, "no")), now);
        }
        assert_eq!(answers.remembered(0, now), Some(Ok(())));
        assert!(answers.bad.len() <= BAD_ANSWERS);
    }
}
