//! From `/proc/PID/cgroup` to the memory limit of that cgroup and those above it, for both versions of cgroups.

use std::fs;
use std::path::{Path, PathBuf};

/// A hierarchy of cgroups that accounts for memory, where it is mounted here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mount {
    /// Whether it is a version 2 hierarchy.
    pub(super) unified: bool,
    /// The cgroup that the mount point shows.
    pub(super) root: String,
    /// The mount point.
    pub(super) point: PathBuf,
}

/// In version 1, "no limit" is the largest number of whole pages; every real machine has less than this.
const NO_LIMIT: u64 = 1 << 62;

/// Levels of cgroups that are walked upwards.
const MAX_LEVELS: usize = 64;

/// The cgroup that accounts for memory: of the version 1 memory controller where that is in use, else of version 2.
pub(super) fn path(cgroups: &str) -> Option<String> {
    memory_path(cgroups, false).or_else(|| memory_path(cgroups, true)).map(str::to_owned)
}

/// The smallest limit on the way from the process's cgroup to the root.
pub(super) fn memory_limit(cgroups: &str, mounts: &[Mount]) -> Option<u64> {
    mounts
        .iter()
        .filter_map(|mount| {
            let path = memory_path(cgroups, mount.unified)?;
            limit_below(mount, path)
        })
        .min()
}

/// The memory hierarchies that this process sees mounted.
pub(super) fn mounts() -> Vec<Mount> {
    parse_mounts(&fs::read_to_string("/proc/self/mountinfo").unwrap_or_default())
}

fn parse_mounts(mountinfo: &str) -> Vec<Mount> {
    mountinfo.lines().filter_map(parse_mount).collect()
}

/// A line is `id parent major:minor root point options [optional..] - type source super-options`.
fn parse_mount(line: &str) -> Option<Mount> {
    let (before, after) = line.split_once(" - ")?;
    let mut before = before.split(' ').skip(3);
    let (root, point) = (before.next()?.to_owned(), PathBuf::from(before.next()?));
    let mut after = after.split(' ');
    let unified = match after.next()? {
        "cgroup2" => true,
        "cgroup" if after.nth(1)?.split(',').any(|option| option == "memory") => false,
        _ => return None,
    };
    Some(Mount { unified, root, point })
}

/// A line is `hierarchy:controllers:path`; version 2 is hierarchy 0 without controllers.
fn memory_path(cgroups: &str, unified: bool) -> Option<&str> {
    cgroups.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (hierarchy, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let found = if unified {
            hierarchy == "0" && controllers.is_empty()
        } else {
            controllers.split(',').any(|controller| controller == "memory")
        };
        found.then_some(path)
    })
}

fn limit_below(mount: &Mount, path: &str) -> Option<u64> {
    let inside = path.strip_prefix(mount.root.trim_end_matches('/'))?;
    // A cgroup outside of the reader's cgroup namespace starts with `/..`: nothing here shows it.
    if !inside.is_empty() && !inside.starts_with('/') || inside.split('/').any(|part| part == "..")
    {
        return None;
    }
    let file = if mount.unified { "memory.max" } else { "memory.limit_in_bytes" };
    let lowest = mount.point.join(inside.trim_start_matches('/'));
    lowest
        .ancestors()
        .take_while(|directory| directory.starts_with(&mount.point))
        .take(MAX_LEVELS)
        .filter_map(|directory| read_limit(&directory.join(file)))
        .min()
}

/// The limit in a file: a number, or `max`.
fn read_limit(file: &Path) -> Option<u64> {
    let limit = fs::read_to_string(file).ok()?.trim().parse().ok()?;
    (limit < NO_LIMIT).then_some(limit)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{Mount, memory_limit, parse_mounts, path};

    #[test]
    fn the_memory_controller_of_version_1_goes_before_version_2() {
        assert_eq!(path("4:memory:/a/b\n0::/c").as_deref(), Some("/a/b"));
        assert_eq!(path("1:cpu,cpuacct:/a\n0::/c:d").as_deref(), Some("/c:d"));
        assert_eq!(path("1:cpu:/a"), None);
    }

    #[test]
    fn only_memory_hierarchies_are_mounts() {
        let text = "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
                    36 31 0:33 / /sys/fs/cgroup/devices rw shared:3 - cgroup cgroup rw,devices\n\
                    41 31 0:38 /box /sys/fs/cgroup rw - cgroup2 cgroup2 rw\nnonsense\n - \n";
        let expected = [
            Mount { unified: false, root: "/".into(), point: "/sys/fs/cgroup/memory".into() },
            Mount { unified: true, root: "/box".into(), point: "/sys/fs/cgroup".into() },
        ];
        assert_eq!(parse_mounts(text), expected);
    }

    #[test]
    fn the_smallest_limit_above_a_cgroup_counts() {
        let root = tempfile::tempdir().unwrap();
        let inner = root.path().join("service/worker");
        fs::create_dir_all(&inner).unwrap();
        fs::write(inner.join("memory.max"), "max\n").unwrap();
        fs::write(root.path().join("service/memory.max"), "1048576\n").unwrap();
        let mount = Mount { unified: true, root: "/box".into(), point: root.path().to_path_buf() };
        let mounts = [mount];
        assert_eq!(memory_limit("0::/box/service/worker", &mounts), Some(1_048_576));
        assert_eq!(memory_limit("0::/box", &mounts), None);
        assert_eq!(memory_limit("0::/boxed/service/worker", &mounts), None);
        assert_eq!(memory_limit("0::/box/../service", &mounts), None);
    }

    #[test]
    fn the_largest_number_of_version_1_is_no_limit() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("memory.limit_in_bytes"), "9223372036854771712").unwrap();
        let mount = Mount { unified: false, root: "/".into(), point: root.path().to_path_buf() };
        assert_eq!(memory_limit("4:memory:/", &[mount]), None);
    }
}
