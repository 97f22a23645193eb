//! What a container will still take, and which limit it will meet.

pub mod approach;
pub mod remaining;
pub mod trend;
pub mod watch;
