//! An agent asking: which workloads' pods have just come -> what happened to them.

use std::{collections::BTreeMap, time::Duration};

use http::{Request, Uri};
use kube::Client;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};

use crate::{
    clock,
    config::LedgerAddress,
    failure::{connection_failed, one_line},
    http::tls,
    ledger::Shared,
    sources::kubernetes::pace::patient,
};
use observer_core::model::{
    event::{Event, EventKind},
    kubernetes::{ApiState, ChangeRecord, Uid},
};

/// Requests after a pod's creation: at once, and again later, because an autoscaler emits its event after its write.
const AGAIN: [Duration; 5] = [
    Duration::from_millis(200),
    Duration::from_millis(1200),
    Duration::from_secs(3),
    Duration::from_secs(6),
    Duration::from_secs(12),
];
/// While the ledger does not answer, the same is asked again at intervals that grow from the first to the second.
const UNANSWERED: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(30)];
/// Owners with an outstanding request; beyond that the one with the latest turn is dropped.
const MOST: usize = 512;
/// Pods that come together are asked about together.
const TOGETHER: Duration = Duration::from_millis(200);

/// Whom to ask.
pub enum Source {
    /// The ledger of the cluster. Its client is made when its certificate authority can be read.
    Remote { address: LedgerAddress, client: Option<Client> },
    /// The ledger in this very process.
    Embedded(Shared),
}

impl Source {
    pub fn remote(address: LedgerAddress) -> Self {
        Self::Remote { address, client: None }
    }

    async fn records(&mut self, uids: &[Uid]) -> Result<Vec<ChangeRecord>, String> {
        match self {
            Source::Embedded(shared) => {
                let book = shared.book();
                Ok(uids.iter().filter_map(|uid| book.record(uid)).collect())
            }
            Source::Remote { address, client } => {
                let client = match client {
                    Some(client) => client,
                    None => client.insert(connect(address)?),
                };
                request(client, uids).await
            }
        }
    }
}

/// A connection that fails before the answer is there (the ledger made room, a proxy let it idle) is tried once more,
/// at once. The ledger itself ends each connection with its answer, so none of its own is pooled.
async fn request(client: &Client, uids: &[Uid]) -> Result<Vec<ChangeRecord>, String> {
    let uri = format!("/v1/records?uids={}", uids.join(","));
    let ask = async || -> Result<Vec<ChangeRecord>, kube::Error> {
        client.request(Request::get(&uri).body(Vec::new()).map_err(kube::Error::HttpError)?).await
    };
    let answer = match ask().await {
        Err(error) if connection_failed(&error) => ask().await,
        answer => answer,
    };
    answer.map_err(|error| one_line(&error))
}

/// Token and authority are read again as the kubelet renews them.
fn connect(address: &LedgerAddress) -> Result<Client, String> {
    let bad = |what: &str, why: &dyn std::fmt::Display| format!("{what}: {why}");
    let uri: Uri = address.url.parse().map_err(|error| bad(&address.url, &error))?;
    let authority = address.ca.display().to_string();
    let pem = std::fs::read(&address.ca).map_err(|error| bad(&authority, &error))?;
    let mut config = settings(uri);
    config.root_cert = Some(tls::certificates(&pem).ok_or_else(|| bad(&authority, &"no PEM certificate"))?);
    config.root_cert_file = Some(address.ca.clone());
    config.auth_info.token_file = Some(address.token.display().to_string());
    Client::try_from(config).map(patient).map_err(|error| bad("client", &error))
}

fn settings(uri: Uri) -> kube::Config {
    let mut config = kube::Config::new(uri);
    config.connect_timeout = Some(Duration::from_secs(5));
    config.read_timeout = Some(Duration::from_secs(10));
    // A ledger that is not ready yet answers 503. `ask` repeats the question soon; the client's own retries are silent,
    // and a minute apart after a dozen.
    config.default_retry = false;
    config
}

/// Requests the records of the owners of new pods; ends when the sender of new pods is gone.
pub async fn ask(mut source: Source, mut came: mpsc::Receiver<Uid>, out: mpsc::Sender<Event>) {
    // When to ask next about whom, and how often it was asked.
    let mut due: BTreeMap<Uid, (Instant, usize)> = BTreeMap::new();
    let mut reported: BTreeMap<Uid, ChangeRecord> = BTreeMap::new();
    // How long to wait before the next try; zero while it answers.
    let mut pause = Duration::ZERO;
    loop {
        let next = due.values().map(|(at, _)| *at).min();
        let wait = async {
            match next {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            uid = came.recv() => match uid {
                Some(uid) => {
                    if due.len() >= MOST
                        && let Some(last) = due.iter().max_by_key(|(_, (at, _))| *at).map(|(uid, _)| uid.clone())
                    {
                        due.remove(&last);
                    }
                    due.insert(uid, (Instant::now() + AGAIN[0].max(pause), 0));
                    continue;
                }
                None => return,
            },
            () = wait => {}
        }
        let now = Instant::now() + TOGETHER;
        let due_now = |(_, (at, _)): &(&Uid, &(Instant, usize))| *at <= now;
        let first: Vec<Uid> =
            due.iter().filter(due_now).filter(|(_, due)| due.1 == 0).map(|(uid, _)| uid.clone()).collect();
        let asked: Vec<Uid> = due.iter().filter(due_now).map(|(uid, _)| uid.clone()).collect();
        let answer = source.records(&asked).await;
        if let Err(why) = &answer {
            let first_time = pause.is_zero();
            pause = (pause * 2).clamp(UNANSWERED[0], UNANSWERED[1]);
            let again = Instant::now() + pause;
            due.values_mut().for_each(|(at, _)| *at = again.max(*at));
            if first_time {
                let what = format!("the ledger is unavailable: {why}");
                let lost = "causes are inferred from metadata and less certain until it answers".to_owned();
                let state = EventKind::Api(ApiState::Forbidden { what, lost, blind: false });
                if out.send(Event { at: clock::now(), what: state }).await.is_err() {
                    return;
                }
            }
        }
        let Ok(records) = answer else { continue };
        pause = Duration::ZERO;
        for uid in &asked {
            let again = due.remove(uid).map_or(0, |(_, times)| times + 1);
            if let Some(after) = AGAIN.get(again) {
                due.insert(uid.clone(), (Instant::now() + *after - AGAIN[again - 1], again));
            }
        }
        // The first answer after a pod's creation is reported even if it is unchanged: it is about that pod.
        let about_new = |record: &ChangeRecord| {
            first.contains(&record.workload.uid) || record.sets.iter().any(|set| first.contains(set))
        };
        let new =
            |record: &ChangeRecord| reported.get(&record.workload.uid) != Some(record) || about_new(record);
        let events: Vec<ChangeRecord> = records.into_iter().filter(new).collect();
        if reported.len() > 1024 {
            reported.clear();
        }
        for record in events {
            reported.insert(record.workload.uid.clone(), record.clone());
            let event = Event { at: clock::now(), what: EventKind::Record(Box::new(record)) };
            if out.send(event).await.is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::VecDeque,
        io::{BufRead, BufReader, Write},
        net::TcpListener,
        sync::{Arc, Mutex},
        thread,
    };

    use super::*;

    /// What a server does with a request.
    #[derive(Clone, Copy, PartialEq, Debug)]
    enum Does {
        Answers,
        /// And would answer another by the same connection.
        AnswersAndStays,
        NotReady,
        Closes,
    }

    /// Does this with the requests as they come, whichever connection they come by; closes the rest. Returns how many
    /// came by each connection.
    fn server(script: &[Does]) -> (Client, Arc<Mutex<Vec<usize>>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (requests, mut script) = (Arc::new(Mutex::new(Vec::new())), VecDeque::from(script.to_vec()));
        let seen = requests.clone();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                seen.lock().unwrap().push(0);
                let mut reader = BufReader::new(&stream);
                while read_head(&mut reader) {
                    *seen.lock().unwrap().last_mut().unwrap() += 1;
                    let does = script.pop_front().unwrap_or(Does::Closes);
                    let (status, connection) = match does {
                        Does::Answers => ("200 OK", "close"),
                        Does::AnswersAndStays => ("200 OK", "keep-alive"),
                        Does::NotReady => ("503 Service Unavailable", "close"),
                        Does::Closes => break,
                    };
                    let head = format!("HTTP/1.1 {status}\r\nContent-Length: 2\r\nConnection: {connection}");
                    (&stream).write_all(format!("{head}\r\n\r\n[]").as_bytes()).unwrap();
                    if does != Does::AnswersAndStays {
                        break;
                    }
                }
            }
        });
        let uri = format!("http://{address}").parse().unwrap();
        (Client::try_from(settings(uri)).unwrap(), requests)
    }

    fn read_head(reader: &mut impl BufRead) -> bool {
        let lines = reader.lines().map_while(Result::ok).take_while(|line| !line.is_empty());
        lines.count() > 0
    }

    async fn after(script: &[Does], questions: usize) -> (Vec<Result<usize, String>>, Vec<usize>) {
        let (client, requests) = server(script);
        let mut answers = Vec::new();
        for _ in 0..questions {
            answers.push(request(&client, &["u1".into()]).await.map(|records| records.len()));
        }
        let requests = requests.lock().unwrap().clone();
        (answers, requests)
    }

    #[tokio::test]
    async fn a_connection_that_is_closed_instead_of_an_answer_costs_no_answer() {
        use Does::{Answers, AnswersAndStays, Closes};
        // One that was kept and died as it was used again, as behind a proxy with an idle timeout.
        let (answers, requests) = after(&[AnswersAndStays, Closes, Answers], 2).await;
        assert_eq!((answers, requests), (vec![Ok(0), Ok(0)], vec![2, 1]));
        // A new one.
        let (answers, requests) = after(&[Closes, Answers], 1).await;
        assert_eq!((answers, requests), (vec![Ok(0)], vec![1, 1]));
    }

    #[tokio::test]
    async fn it_is_tried_once_more_and_no_further_and_the_error_says_why() {
        let (answers, requests) = after(&[], 1).await;
        assert_eq!(requests, [1, 1]);
        let error = answers.into_iter().next().unwrap().unwrap_err();
        assert!(error.contains("connection closed before message completed"), "{error}");
    }

    #[tokio::test]
    async fn a_ledger_that_is_not_ready_is_reported_at_once() {
        use Does::{Answers, NotReady};
        let (answers, requests) = after(&[NotReady, Answers], 2).await;
        assert_eq!((answers[1].clone(), requests), (Ok(0), vec![1, 1]));
        assert!(answers[0].is_err(), "{answers:?}");
    }
}
