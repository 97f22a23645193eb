//! Why a container started. Pure: facts in, decision with evidence out.
//!
//! A restart is told by how the container before it ended. The first container of a pod started because the pod was
//! made, and why *that* happened the owner tells: the table in `decide`, first match wins. Without Kubernetes the node
//! knows only what ended before under the same name.
//!
//! Confidence is the share of such decisions that are right; 1 where the API says it outright. What an agent concludes
//! from one look at metadata stays below 0.9, because a second change may have covered the first.

pub mod decide;
pub mod open_starts;
pub mod previous_exit;
