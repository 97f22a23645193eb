//! Why a container started. Pure: facts in, decision with evidence out.
//!
//! The cause of a restart is inferred from the end of the previous container. The first container of a pod started
//! because the pod was created, and the reason for that is inferred from the owner: the table in `decide`, first match
//! wins. Without Kubernetes only the previous end under the same name is known.
//!
//! Confidence is the share of such decisions that are right; 1 where the API states the cause. A conclusion from
//! one look-up of metadata stays below 0.9, because a second change may have hidden the first.

pub mod decide;
pub mod open_starts;
pub mod previous_exit;
