//! What happened in a whole recording, in words: one sentence, then the text of `observer why` for each workload that
//! was killed.

use std::collections::BTreeMap;

use observer_core::model::units::Seconds;
use serde::Serialize;

use super::{
    answer::{Answer, Subject, notes},
    story,
};
use crate::{
    commands::client::state::{Kill, State},
    sinks::api_state::NodeState,
};

/// Workloads told of: those that were killed, or, if none was, those with something wrong.
const KILLED: usize = 5;
const WRONG: usize = 3;

#[derive(Debug, Serialize)]
pub struct Incident {
    pub summary: String,
    pub stories: Vec<Story>,
    /// What could not be known.
    pub notes: Vec<String>,
}

#[derive(Debug, Serialize)]
pub struct Story {
    pub title: String,
    /// How it began and what to set.
    pub lead: String,
    /// All that `observer why` says.
    pub text: String,
    /// The key of its workload in /api/v1/workloads.
    pub workload: Option<String>,
}

/// `cut`: what is missing of the recording.
pub fn of(state: &NodeState, cut: Option<String>) -> Result<Incident, serde_json::Error> {
    let span = Seconds(state.span_seconds());
    let state: State = serde_json::from_value(serde_json::to_value(state.view())?)?;
    let mut incident = of_state(&state, span);
    incident.notes.extend(cut);
    Ok(incident)
}

fn of_state(state: &State, span: Seconds) -> Incident {
    let mut killed: BTreeMap<Subject, u64> = BTreeMap::new();
    let mut nowhere = 0_u64;
    for Kill { container, kills, .. } in &state.kills {
        match container {
            Some(names) => {
                let subject = Subject::workload(&names.namespace, &names.workload_type, &names.workload);
                let sum = killed.entry(subject).or_default();
                *sum = sum.saturating_add(*kills);
            }
            None => nowhere = nowhere.saturating_add(*kills),
        }
    }
    let mut killed: Vec<(Subject, u64)> = killed.into_iter().collect();
    killed.sort_by_key(|(_, kills)| std::cmp::Reverse(*kills));
    let sum = killed.iter().map(|(_, kills)| *kills).fold(nowhere, u64::saturating_add);
    if sum > 0 {
        let mut who: Vec<String> =
            killed.iter().take(KILLED).map(|(subject, kills)| format!("{kills} in {subject}")).collect();
        if nowhere > 0 {
            who.push(format!("{nowhere} in no container"));
        }
        if killed.len() > KILLED {
            who.push(format!("others in {} more workloads", killed.len() - KILLED));
        }
        let summary = format!("{} in {span}: {}", plural(sum, "OOM kill"), who.join(", "));
        let subjects = killed.into_iter().take(KILLED).map(|(subject, _)| subject);
        let mut stories: Vec<Story> =
            subjects.map(|subject| Story::of(&Answer::of(state, subject))).collect();
        stories.extend(Story::of_no_container(state));
        return Incident { summary: story::line(&summary), stories, notes: notes(state) };
    }
    let subjects: std::collections::BTreeSet<_> = state
        .workloads
        .iter()
        .map(|one| Subject::workload(&one.namespace, &one.workload_type, &one.workload))
        .collect();
    let wrong: Vec<Answer> = subjects
        .into_iter()
        .map(|subject| Answer::of(state, subject))
        .filter(|answer| !answer.wrong.is_empty())
        .collect();
    let starts = state.containers.iter().filter(|one| one.started.is_some()).count() as u64;
    let what = match wrong.len() as u64 {
        0 => "nothing is wrong".to_owned(),
        wrong => format!("something is wrong with {}", plural(wrong, "workload")),
    };
    Incident {
        summary: format!("No OOM kill in {span}, {} seen, {what}", plural(starts, "start-up")),
        stories: wrong.iter().take(WRONG).map(Story::of).collect(),
        notes: notes(state),
    }
}

fn plural(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

impl Story {
    fn of(answer: &Answer) -> Self {
        let text = story::text(answer);
        let (title, text) = text.split_once('\n').unwrap_or((&text, ""));
        Self {
            title: title.to_owned(),
            lead: story::lead(answer),
            text: text.to_owned(),
            workload: answer.workloads.first().map(|one| one.key.clone()),
        }
    }
}

impl Story {
    /// Kills of processes that belong to none.
    fn of_no_container(state: &State) -> Option<Self> {
        let kills: Vec<&Kill> = state.kills.iter().rev().filter(|kill| kill.container.is_none()).collect();
        let count = kills.iter().map(|kill| kill.kills).fold(0, u64::saturating_add);
        (count > 0).then(|| Self {
            title: format!("no container: {}", plural(count, "OOM kill")),
            lead: story::kills(&kills, state.status.now, state.status.live),
            text: String::new(),
            workload: None,
        })
    }
}

impl Incident {
    /// All of it as text.
    pub fn plain(&self) -> String {
        let mut text = format!("{}\n", self.summary);
        for story in &self.stories {
            text += &format!("\n{}\n{}\n{}", story.title, story.lead, story.text);
        }
        for note in &self.notes {
            text += &format!("\nNote: {note}\n");
        }
        text
    }
}
