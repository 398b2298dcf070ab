//! How many more threads the control groups of this process allow (cgroups(7)).

use std::fs;
use std::path::{Path, PathBuf};

/// How many that is; `None`: there is no limit, or none that can be read.
pub(super) fn left() -> Option<u64> {
    let read = |path: &Path| fs::read_to_string(path).ok();
    let groups = read(Path::new("/proc/self/cgroup"))?;
    let mounts = read(Path::new("/proc/self/mountinfo"))?;
    left_in(&groups, &mounts, read)
}

/// The same, from the contents of these two files, and of others.
fn left_in(groups: &str, mounts: &str, read: impl Fn(&Path) -> Option<String>) -> Option<u64> {
    let number = |path: PathBuf| read(&path)?.trim().parse::<u64>().ok();
    let left = |dir: PathBuf| {
        let max = number(dir.join("pids.max"))?;
        Some(max.saturating_sub(number(dir.join("pids.current")).unwrap_or(0)))
    };
    groups.lines().flat_map(|line| directories(line, mounts)).filter_map(left).min()
}

/// Where the files are of a group, a line of /proc/self/cgroup, and of those above it that are
/// visible. None, if it is not one that limits threads.
fn directories(group: &str, mounts: &str) -> Vec<PathBuf> {
    let mut fields = group.splitn(3, ':');
    let (Some(_), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next())
    else {
        return Vec::new();
    };
    let file_system = match controllers {
        "" => "cgroup2",
        _ if has_pids(controllers) => "cgroup",
        _ => return Vec::new(),
    };
    let mount = mounts.lines().find_map(|line| Mount::parse(line, file_system));
    mount.map_or_else(Vec::new, |mount| mount.directories(path))
}

fn has_pids(list: &str) -> bool {
    list.split(',').any(|controller| controller == "pids")
}

struct Mount<'a> {
    /// The part of the file system that is mounted.
    root: &'a Path,
    point: &'a Path,
}

impl<'a> Mount<'a> {
    /// A line of /proc/self/mountinfo (proc_pid_mountinfo(5)).
    fn parse(line: &'a str, file_system: &str) -> Option<Self> {
        let (mount, kind) = line.split_once(" - ")?;
        let mut kind = kind.split(' ');
        if kind.next()? != file_system || file_system == "cgroup" && !has_pids(kind.nth(1)?) {
            return None;
        }
        let mut mount = mount.split(' ').skip(3);
        Some(Self { root: Path::new(mount.next()?), point: Path::new(mount.next()?) })
    }

    fn directories(&self, path: &str) -> Vec<PathBuf> {
        // A container may see a path that is outside of what is mounted: it is in the mount's root.
        let below = Path::new(path).strip_prefix(self.root).unwrap_or(Path::new(""));
        below.ancestors().map(|below| self.point.join(below)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is left, if these files are there.
    fn left(groups: &str, mounts: &str, files: &[(&str, &str)]) -> Option<u64> {
        left_in(groups, mounts, |path| {
            let file = files.iter().find(|(name, _)| Path::new(name) == path);
            file.map(|(_, text)| format!("{text}\n"))
        })
    }

    const V1: &str = "25 22 0:21 / /sys/fs/cgroup ro - tmpfs tmpfs ro,mode=755\n\
                      31 25 0:26 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                      32 25 0:27 / /sys/fs/cgroup/pids rw,nosuid shared:9 - cgroup cgroup rw,pids\n";

    const V2: &str = "30 23 0:26 / /sys/fs/cgroup rw,relatime - cgroup2 cgroup rw\n";

    #[test]
    fn the_least_of_all_groups_above_counts() {
        let files = [
            ("/sys/fs/cgroup/system.slice/rdlm.service/pids.max", "max"),
            ("/sys/fs/cgroup/system.slice/rdlm.service/pids.current", "5"),
            ("/sys/fs/cgroup/system.slice/pids.max", "1000"),
            ("/sys/fs/cgroup/system.slice/pids.current", "300"),
        ];
        assert_eq!(left("0::/system.slice/rdlm.service\n", V2, &files), Some(700));
        assert_eq!(left("0::/user.slice\n", V2, &files), None);
    }

    #[test]
    fn a_container_sees_its_group_as_the_root() {
        let files = [
            ("/sys/fs/cgroup/pids.max", "2048"),
            ("/sys/fs/cgroup/pids.current", "2"),
            ("/sys/fs/cgroup/pids/pids.max", "100"),
        ];
        assert_eq!(left("0::/\n", V2, &files), Some(2046));
        assert_eq!(left("0::/../outside\n", V2, &files), Some(2046));
        let docker = V1.replace(" / /sys/fs/cgroup/pids", " /docker/ab /sys/fs/cgroup/pids");
        assert_eq!(left("8:pids:/docker/ab\n", &docker, &files), Some(100));
    }

    #[test]
    fn version_1_has_a_hierarchy_for_the_controller() {
        let groups = "9:cpu,cpuacct:/a\n8:pids:/a/b\n1:name=systemd:/c\n0::/\n";
        let files = [
            ("/sys/fs/cgroup/pids/a/b/pids.max", "50"),
            ("/sys/fs/cgroup/pids/a/b/pids.current", "60"),
            ("/sys/fs/cgroup/pids/a/pids.max", "70"),
        ];
        assert_eq!(left(groups, V1, &files), Some(0));
        assert_eq!(left(groups, V1, &files[2..]), Some(70));
        assert_eq!(left(groups, "", &files), None);
        assert_eq!(left("nonsense", "nonsense - cgroup", &files), None);
    }
}
