//! Replay cases: a folder each, with recorded events and the findings they must lead to.
//!
//! `cases/<name>/events.jsonl` was recorded by `observer run --record` (a line in its `about.md` says where and how);
//! `story.snap` is what `observer replay --story` tells of it. A changed story is a changed product: accept it with
//! `INSTA_UPDATE=always` and say why in the commit.

use std::{fs::File, io::BufReader};

use observer::{journal, replay};

#[test]
fn every_recorded_case_tells_its_story() {
    insta::glob!("../cases", "*/events.jsonl", |events| {
        let mut began = None;
        let mut story = String::new();
        let replayed = replay::replay(BufReader::new(File::open(events).unwrap()), |finding| {
            let began = *began.get_or_insert(finding.at);
            if let Some(line) = journal::line(finding) {
                story.push_str(&format!("{:>9.3} s  {line}\n", finding.at.seconds_since(began)));
            }
        })
        .unwrap();
        assert!(!replayed.cut, "{}", events.display());
        let case = events.parent().unwrap();
        insta::with_settings!({ snapshot_path => case, prepend_module_to_snapshot => false, snapshot_suffix => "", omit_expression => true }, {
            insta::assert_snapshot!("story", story);
        });
    });
}
