//! What a container will still take, and which limit it will meet.

pub mod remaining;
