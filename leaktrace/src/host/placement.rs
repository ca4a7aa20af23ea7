//! From the text of `/proc/PID/cgroup` to who runs a process: its systemd unit, its container, its Kubernetes pod.
//!
//! Goes by the names that systemd and container runtimes give to cgroups; no runtime is asked. What a name does not
//! say is not known.

/// Digits of a container's id, in every runtime that follows Docker.
const ID_DIGITS: usize = 64;

/// What systemd calls what it runs. (A slice only groups others.)
const UNITS: [&str; 2] = [".service", ".scope"];

/// How the cgroup of a container begins, by the runtime that made it; what follows is its id.
const RUNTIMES: [(&str, &str); 6] = [
    ("docker-", "docker"),
    ("cri-containerd-", "containerd"),
    ("nerdctl-", "containerd"),
    ("crio-", "cri-o"),
    ("libpod-", "podman"),
    ("buildkit-", "buildkit"),
];

/// Names of the cgroup above a container's own, by the runtime that uses it.
const PARENTS: [(&str, &str); 3] =
    [("docker", "docker"), ("default", "containerd"), ("k8s.io", "containerd")];

/// Who runs a process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    /// The innermost systemd unit that is no slice.
    pub unit: Option<String>,
    /// The innermost container.
    pub container: Option<Container>,
    /// The unique id of its Kubernetes pod.
    pub pod: Option<String>,
}

/// A container, as far as its cgroup names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// Its id: 64 hex digits.
    pub id: String,
    /// The runtime; `None` where its name does not say.
    pub runtime: Option<&'static str>,
}

impl Placement {
    /// Reads the lines of `/proc/PID/cgroup`, each `hierarchy:controllers:path`.
    #[must_use]
    pub fn parse(cgroups: &str) -> Self {
        let mut paths: Vec<(u8, &str)> = cgroups.lines().filter_map(ranked_path).collect();
        paths.sort_by_key(|&(rank, _)| rank);
        let first =
            |find: fn(&str) -> Option<String>| paths.iter().find_map(|(_, path)| find(path));
        Self {
            unit: first(unit),
            container: paths.iter().find_map(|(_, path)| container(path)),
            pod: first(pod),
        }
    }
}

/// A path with how much it is to be trusted: systemd's own hierarchy goes before version 2, and that before a
/// controller of version 1.
fn ranked_path(line: &str) -> Option<(u8, &str)> {
    let mut fields = line.splitn(3, ':');
    let (hierarchy, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
    let rank = match controllers {
        "name=systemd" => 0,
        "" if hierarchy == "0" => 1,
        _ => 2,
    };
    Some((rank, path))
}

fn unit(path: &str) -> Option<String> {
    let is_unit = |name: &&str| {
        UNITS.iter().any(|suffix| name.len() > suffix.len() && name.ends_with(suffix))
    };
    // systemd puts a `_` before a name that the kernel could take for a file of the cgroup.
    path.rsplit('/').find(is_unit).map(|name| name.strip_prefix('_').unwrap_or(name).to_owned())
}

fn container(path: &str) -> Option<Container> {
    let mut names = path.rsplit('/').peekable();
    while let Some(name) = names.next() {
        if let Some(found) = container_named(name, names.peek().copied().unwrap_or_default()) {
            return Some(found);
        }
    }
    None
}

/// `docker-<id>.scope`, or `<id>` below a cgroup that may name the runtime.
fn container_named(name: &str, parent: &str) -> Option<Container> {
    let name = name.strip_suffix(".scope").unwrap_or(name);
    // With systemd's driver and without its unit, as containerd writes it: `system.slice:docker:<id>`.
    let name = name.rsplit(':').next()?;
    if is_id(name) {
        let by_parent = PARENTS.iter().find(|(known, _)| *known == parent);
        return Some(Container {
            id: name.to_owned(),
            runtime: by_parent.map(|(_, runtime)| *runtime),
        });
    }
    let (prefix, id) = name.split_at_checked(name.len().checked_sub(ID_DIGITS)?)?;
    // `crio-conmon-<id>` and `libpod-conmon-<id>` hold the monitor, not the container.
    let runtime = RUNTIMES.iter().find(|(known, _)| *known == prefix);
    (is_id(id) && prefix.ends_with('-') && !prefix.ends_with("conmon-"))
        .then(|| Container { id: id.to_owned(), runtime: runtime.map(|(_, runtime)| *runtime) })
}

fn is_id(name: &str) -> bool {
    name.len() == ID_DIGITS && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// `pod<uid>` below `kubepods`, or `kubepods-burstable-pod<uid>.slice`, where `_` stands for `-`.
fn pod(path: &str) -> Option<String> {
    if !path.contains("kubepods") {
        return None;
    }
    path.rsplit('/').find_map(|name| {
        let name = name.strip_suffix(".slice").unwrap_or(name);
        let uid = match name.strip_prefix("pod") {
            Some(uid) => uid,
            None => name.strip_prefix("kubepods-")?.rsplit_once("pod")?.1,
        };
        let is_uid = !uid.is_empty()
            && uid.bytes().all(|byte| byte.is_ascii_hexdigit() || matches!(byte, b'-' | b'_'));
        is_uid.then(|| uid.replace('_', "-"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn placed(path: &str) -> Placement {
        Placement::parse(&format!("0::{}\n", path.replace("ID", ID)))
    }

    fn container(runtime: Option<&'static str>) -> Option<Container> {
        Some(Container { id: ID.to_owned(), runtime })
    }

    #[test]
    fn the_innermost_unit_counts_and_slices_are_none() {
        let unit = |path: &str| placed(path).unit;
        assert_eq!(unit("/system.slice/shop.service").as_deref(), Some("shop.service"));
        assert_eq!(unit("/system.slice/shop@2.service/workers").as_deref(), Some("shop@2.service"));
        let user = "/user.slice/user-1000.slice/user@1000.service/app.slice/notes.service";
        assert_eq!(unit(user).as_deref(), Some("notes.service"));
        assert_eq!(
            unit("/user.slice/user-0.slice/session-4.scope").as_deref(),
            Some("session-4.scope")
        );
        assert_eq!(unit("/system.slice/_cpu.service").as_deref(), Some("cpu.service"));
        for path in ["/", "/system.slice", "/..", "/../shop", "/.service"] {
            assert_eq!(placed(path), Placement::default(), "{path}");
        }
    }

    #[test]
    fn containers_are_told_by_the_names_that_their_runtimes_give() {
        for (path, runtime) in [
            ("/system.slice/docker-ID.scope", Some("docker")),
            ("/docker/ID", Some("docker")),
            ("/docker/ID/init.scope", Some("docker")),
            ("/machine.slice/libpod-ID.scope/container", Some("podman")),
            (
                "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-ID.scope",
                Some("podman"),
            ),
            ("/kubepods.slice/kubepods-pod12_ab.slice/cri-containerd-ID.scope", Some("containerd")),
            ("/kubepods.slice/kubepods-pod12_ab.slice/crio-ID.scope", Some("cri-o")),
            ("/system.slice/containerd.service/kubepods-pod12_ab.slice:cri-containerd:ID", None),
            ("/kubepods/burstable/pod12-ab/ID", None),
            ("/ecs/0af3/ID", None),
            ("/default/ID", Some("containerd")),
        ] {
            assert_eq!(placed(path).container, container(runtime), "{path}");
        }
        for path in [
            "/machine.slice/libpod-conmon-ID.scope",
            "/system.slice/crio-conmon-ID.scope",
            "/system.slice/docker.service",
            "/docker/IDa",
            "/docker/ABCDEF0123456789",
        ] {
            assert_eq!(placed(path).container, None, "{path}");
        }
    }

    #[test]
    fn the_pod_is_named_by_either_cgroup_driver() {
        let uid = Some("0f5e23a1-7d02-4d9c-9f0a-6b1f0c3d4e5f");
        let systemd = "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod0f5e23a1_7d02_4d9c_9f0a_\
                       6b1f0c3d4e5f.slice/cri-containerd-ID.scope";
        let cgroupfs = "/kubepods/besteffort/pod0f5e23a1-7d02-4d9c-9f0a-6b1f0c3d4e5f/ID";
        assert_eq!(placed(systemd).pod.as_deref(), uid);
        assert_eq!(placed(cgroupfs).pod.as_deref(), uid);
        assert_eq!(placed("/system.slice/podman.service").pod, None);
        assert_eq!(placed("/kubepods.slice/kubepods-burstable.slice").pod, None);
    }

    #[test]
    fn systemds_own_hierarchy_goes_first() {
        let text = "12:memory:/docker/x\n1:name=systemd:/system.slice/a.service\n0::/system.slice/b.service";
        assert_eq!(Placement::parse(text).unit.as_deref(), Some("a.service"));
        assert_eq!(Placement::parse("nonsense\n\n1:2\n"), Placement::default());
    }
}
