//! tests
use anyhow::Result;
#[derive(clap::Args)]
pub struct Options {}
pub fn test(_: &Options) -> Result<()> { Ok(()) }
