//! The nodes that can be looked at, one at a time: the next is asked beside the screen, which goes on meanwhile.

use std::{
    sync::mpsc::{Receiver, TryRecvError, channel},
    thread,
};

use super::feed::Feed;
use crate::commands::client::http::Http;

/// At least one.
pub struct Nodes {
    all: Vec<(String, Http)>,
    at: usize,
    /// Nodes of which nothing can be shown.
    away: usize,
    asked: Option<(usize, Receiver<Result<Feed, String>>)>,
    note: Option<String>,
    /// It did not answer: pressed again, the key goes on behind it.
    tried: Option<usize>,
}

/// Which one is shown, for the heading.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Shown {
    pub name: String,
    pub number: usize,
    pub of: usize,
    pub away: usize,
    /// What becomes of another that was asked for.
    pub note: Option<String>,
}

impl Nodes {
    /// `away`: others, of which nothing can be shown.
    pub fn new(all: Vec<(String, Http)>, first: &str, away: usize) -> Self {
        let at = all.iter().position(|(name, _)| name == first).unwrap_or(0);
        Self { all, at, away, asked: None, note: None, tried: None }
    }

    /// Of the one to begin with, waited for.
    pub fn first(&self) -> Result<Feed, String> {
        let (name, http) = self.all.get(self.at).ok_or("there is no node to show")?;
        Feed::observer(http.clone()).map_err(|error| format!("node {name}: {error}"))
    }

    pub fn shown(&self) -> Shown {
        Shown {
            name: self.all.get(self.at).map_or_else(String::new, |(name, _)| name.clone()),
            number: self.at + 1,
            of: self.all.len(),
            away: self.away,
            note: self.note.clone(),
        }
    }

    /// Asks for the next, or the one before: from the one asked for last, so that a key pressed twice goes two on.
    pub fn step(&mut self, back: bool) {
        let of = self.all.len();
        let from = self.asked.as_ref().map(|(at, _)| *at).or(self.tried.take()).unwrap_or(self.at);
        let to = (from + if back { of - 1 } else { 1 }) % of.max(1);
        let Some((name, http)) = self.all.get(to).cloned() else { return };
        if to == self.at {
            (self.asked, self.note) = (None, None);
            return;
        }
        let (answer, answered) = channel();
        self.note = Some(format!("asking node {name}..."));
        self.asked = Some((to, answered));
        thread::spawn(move || drop(answer.send(Feed::observer(http))));
    }

    /// The node that was asked for, once it has answered.
    pub fn arrived(&mut self) -> Option<Feed> {
        let (to, answered) = self.asked.as_ref()?;
        let to = *to;
        let answer = match answered.try_recv() {
            Err(TryRecvError::Empty) => return None,
            Err(TryRecvError::Disconnected) => Err("it was not asked".to_owned()),
            Ok(answer) => answer,
        };
        self.asked = None;
        match answer {
            Ok(feed) => {
                (self.at, self.note) = (to, None);
                Some(feed)
            }
            Err(error) => {
                let name = self.all.get(to).map_or("", |(name, _)| name.as_str());
                self.note = Some(format!("node {name}: {error}"));
                self.tried = Some(to);
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::TcpListener,
        time::{Duration, Instant},
    };

    use super::*;
    use crate::sinks::api_state::NodeState;

    /// Answers whatever is asked with the state of a node.
    fn serving() -> Http {
        let body = serde_json::to_string(&NodeState::of_recording("x".into()).view()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let _ = stream.read(&mut [0; 4096]);
                let head =
                    format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
                let _ = stream.write_all((head + &body).as_bytes());
            }
        });
        Http::new(&url, Duration::from_secs(5), None, None).unwrap()
    }

    /// What becomes of the node that was asked for.
    fn settled(nodes: &mut Nodes) -> Option<Feed> {
        let began = Instant::now();
        loop {
            let feed = nodes.arrived();
            if feed.is_some() || nodes.asked.is_none() {
                return feed;
            }
            assert!(began.elapsed() < Duration::from_secs(60), "{:?}", nodes.note);
            thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn the_next_node_is_shown_once_it_answers_and_one_that_does_not_is_passed() {
        let gone = Http::new("http://127.0.0.1:1", Duration::from_secs(5), None, None).unwrap();
        let all = vec![("a".to_owned(), serving()), ("b".to_owned(), gone), ("c".to_owned(), serving())];
        let mut nodes = Nodes::new(all, "a", 2);
        nodes.first().unwrap();
        assert_eq!((nodes.shown().number, nodes.shown().of, nodes.shown().away), (1, 3, 2));
        nodes.step(false);
        assert!(settled(&mut nodes).is_none(), "nothing answers there");
        let shown = nodes.shown();
        assert!(shown.name == "a" && shown.note.is_some_and(|note| note.starts_with("node b: ")));
        nodes.step(false);
        assert!(settled(&mut nodes).is_some());
        assert_eq!((nodes.shown().name.as_str(), nodes.shown().note), ("c", None));
        nodes.step(false);
        assert!(settled(&mut nodes).is_some() && nodes.shown().name == "a", "behind the last is the first");
        nodes.step(true);
        nodes.step(true);
        nodes.step(true);
        assert!(nodes.shown().note.is_none(), "three back of three is where it was");
    }
}
