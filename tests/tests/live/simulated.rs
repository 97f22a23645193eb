//! What `observer simulate` foretells, beside what the kernel then does.

use anyhow::{Result, ensure};
use observer_tests::staged;

use crate::{Case, Needs::Probes, Stage};

pub const CASES: &[Case] =
    &[Case { name: "scale_ups_go_as_observer_simulate_foretells", needs: Probes, run: scale_ups }];

/// `cargo xtask bench simulate` plays 200: of those, 98.5 % were right and 98 % within a tenth.
const SCENES: usize = 16;

fn scale_ups(stage: &Stage) -> Result<()> {
    let staged = staged::Stage {
        tree: stage.tree()?,
        observer: stage.observer.clone(),
        workload: stage.workload.clone(),
        directory: &stage.directory,
    };
    let tally = staged::scale_ups(&staged, SCENES, 1, |_| {})?;
    println!("{}", tally.text());
    // Where the room is within some per cent of what is used it goes either way: one of sixteen may.
    ensure!(tally.right() >= 0.9 && tally.within_a_tenth() >= 0.9, "{}", tally.text());
    Ok(())
}
