//! benchmark
use anyhow::Result;
#[derive(clap::Args)]
pub struct Options {}
pub fn bench(_: &Options) -> Result<()> { Ok(()) }
