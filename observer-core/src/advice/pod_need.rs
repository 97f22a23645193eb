//! What the containers of a pod need together, as Kubernetes counts it: main containers and sidecars run side by side;
//! an ordinary init container runs before the main ones, together with the sidecars started before it. Pure.

use crate::model::kubernetes::{Pod, PodContainer, Role};

/// Need of the containers that run together with the one of this name; `None` if the need of one is not known.
pub fn beside(pod: &Pod, name: &str, need: impl Fn(&PodContainer) -> Option<u64>) -> Option<u64> {
    let of = pod.containers.iter().position(|container| container.name == name)?;
    let is_beside = |(at, other): &(usize, &PodContainer)| match (pod.containers[of].role, other.role) {
        _ if *at == of => false,
        (Role::Init, role) => role == Role::Sidecar && *at < of,
        (_, role) => matches!(role, Role::Main | Role::Sidecar),
    };
    let others = pod.containers.iter().enumerate().filter(is_beside);
    others.map(|(_, other)| need(other)).try_fold(0_u64, |sum, need| Some(sum.saturating_add(need?)))
}

/// The most that is needed while init containers run, or `None` if that of one of them is not known. 0: there are none.
pub fn while_initializing(pod: &Pod, need: impl Fn(&PodContainer) -> Option<u64>) -> Option<u64> {
    let inits = pod.containers.iter().filter(|container| container.role == Role::Init);
    inits
        .map(|init| Some(need(init)?.saturating_add(beside(pod, &init.name, &need)?)))
        .try_fold(0, |most, one| Some(one?.max(most)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sidecars_run_beside_and_init_containers_one_after_another() {
        let of = |name: &str, role| PodContainer { name: name.into(), role, ..PodContainer::default() };
        // As the API lists them: init containers in the order in which they run.
        let containers = vec![
            of("app", Role::Main),
            of("log", Role::Main),
            of("migrate", Role::Init),
            of("proxy", Role::Sidecar),
            of("warm", Role::Init),
            of("debug", Role::Ephemeral),
        ];
        let pod = Pod { containers, ..Pod::default() };
        let need = |one: &PodContainer| match one.name.as_str() {
            "app" => Some(100),
            "log" => Some(10),
            "proxy" => Some(50),
            "migrate" => Some(300),
            "warm" => Some(200),
            _ => None,
        };
        for (name, expected) in
            [("app", 60), ("log", 150), ("proxy", 110), ("migrate", 0), ("warm", 50), ("debug", 160)]
        {
            assert_eq!(beside(&pod, name, need), Some(expected), "{name}");
        }
        assert_eq!(while_initializing(&pod, need), Some(300));
        let no_proxy = |one: &PodContainer| need(one).filter(|_| one.name != "proxy");
        assert_eq!((beside(&pod, "app", no_proxy), while_initializing(&pod, no_proxy)), (None, None));
        let plain = Pod { containers: vec![of("app", Role::Main)], ..Pod::default() };
        assert_eq!((beside(&plain, "app", need), while_initializing(&plain, need)), (Some(0), Some(0)));
    }
}
