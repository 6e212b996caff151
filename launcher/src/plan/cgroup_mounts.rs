//! A mount of type `cgroup` or `cgroup2`: one line of config.json, one to twelve mounts, depending on the host.
//!
//! | host | container | becomes |
//! | --- | --- | --- |
//! | v2 only | any cgroup namespace | one cgroup2; with the host's namespace all of it, as with runc |
//! | v1 or hybrid | own cgroup namespace | tmpfs, and each hierarchy mounted anew below it |
//! | v1 or hybrid | the host's cgroup namespace | tmpfs, and the container's cgroup of each hierarchy bound below it |
//!
//! A hierarchy in which the container has no cgroup of its own shows ours, and is read-only whatever is asked for.

use std::ffi::CString;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Mount, Spec};

use super::bind::open_tree;
use super::build::{PlanError, c_string};
use super::mount_options::Options;
use super::mounts::{Entry, target, target_at};
use super::{FsParameter, Launch, MountAttrs, Step, TargetKind, TreeSource};
use crate::cgroup::Cgroups;

/// Whether a container gets to write to its cgroups, and so is to have its own in every hierarchy.
#[must_use]
pub(crate) fn writes_to_cgroups(spec: &Spec) -> bool {
    let writable = |mount: &Mount| {
        matches!(mount.typ().as_deref(), Some("cgroup" | "cgroup2"))
            && !mount.options().iter().flatten().any(|option| option == "ro")
    };
    spec.mounts().iter().flatten().any(writable)
}

/// The host's hierarchies.
#[derive(Debug, Default)]
pub(super) struct Layout {
    own_namespace: bool,
    /// The container's.
    cgroups: Cgroups,
    /// cgroup2 is mounted at /sys/fs/cgroup itself.
    v2_only: bool,
    hierarchies: Vec<Hierarchy>,
}

#[derive(Debug)]
struct Hierarchy {
    /// Directory name below /sys/fs/cgroup.
    name: String,
    /// Where the host has it.
    mount_point: PathBuf,
    fstype: &'static str,
    /// Our own cgroup in it.
    own: String,
    parameters: Vec<(String, Option<String>)>,
}

impl Layout {
    /// Reads the layout; one without any cgroup file system is fine until somebody asks for one.
    pub(super) fn read(own_namespace: bool, cgroups: &Cgroups) -> Layout {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        Layout { cgroups: cgroups.clone(), ..Layout::parse(&mounts, &own, own_namespace) }
    }

    fn parse(mounts: &str, own: &str, own_namespace: bool) -> Layout {
        let mut layout = Layout { own_namespace, ..Layout::default() };
        for line in mounts.lines() {
            let Some((before, after)) = line.split_once(" - ") else { continue };
            let Some(mount_point) = before.split(' ').nth(4) else { continue };
            let mut after = after.split(' ');
            let (fstype, super_options) = (after.next(), after.nth(1).unwrap_or_default());
            let name = mount_point.strip_prefix("/sys/fs/cgroup").map(|name| name.trim_start_matches('/'));
            match (fstype, name) {
                (Some("cgroup2"), Some("")) => layout.v2_only = true,
                (Some("cgroup2"), Some(name)) => {
                    layout.add(name, mount_point, "cgroup2", Vec::new(), own_path(own, ""))
                }
                (Some("cgroup"), Some(name)) if !name.is_empty() => {
                    let words = super_options
                        .split(',')
                        .filter(|word| !matches!(*word, "rw" | "ro" | "xattr" | "clone_children"));
                    let words: Vec<&str> = words.filter(|word| !word.starts_with("release_agent=")).collect();
                    let own = own_path(own, words.last().copied().unwrap_or_default());
                    let mut parameters = Vec::new();
                    if words.iter().any(|word| word.starts_with("name=")) {
                        parameters.push(("none".to_owned(), None));
                    }
                    parameters.extend(words.iter().map(|word| match word.split_once('=') {
                        Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
                        None => ((*word).to_owned(), None),
                    }));
                    layout.add(name, mount_point, "cgroup", parameters, own);
                }
                _ => {}
            }
        }
        layout
    }

    fn add(
        &mut self,
        name: &str,
        mount_point: &str,
        fstype: &'static str,
        parameters: Vec<(String, Option<String>)>,
        own: String,
    ) {
        let mount_point = PathBuf::from(mount_point);
        self.hierarchies.push(Hierarchy { name: name.to_owned(), mount_point, fstype, own, parameters });
    }

    /// Adds the steps for one mount of config.json.
    pub(super) fn mount(
        &self,
        entry: &Entry<'_>,
        options: &Options,
        launch: &mut Launch,
        steps: &mut Vec<Step>,
    ) -> Result<(), PlanError> {
        let Entry { field, index, destination, .. } = *entry;
        let readonly = options.attrs.set & libc::MOUNT_ATTR_RDONLY != 0;
        if self.v2_only {
            steps.push(filesystem(field, index, destination, "cgroup2", &[], options.attrs)?);
            return Ok(());
        }
        if self.hierarchies.is_empty() {
            return Err(PlanError::new(field, "the host has no cgroup file system below /sys/fs/cgroup"));
        }
        let writable = MountAttrs { set: options.attrs.set & !libc::MOUNT_ATTR_RDONLY, ..options.attrs };
        let mode = [("mode".to_owned(), Some("755".to_owned()))];
        steps.push(filesystem(field, index, destination, "tmpfs", &mode, writable)?);
        for hierarchy in &self.hierarchies {
            let place = destination.join(&hierarchy.name);
            let (mut source, mut attrs) = (hierarchy.ours(), options.attrs);
            match self.cgroups.directories().iter().find(|directory| *directory.mount_point == *hierarchy.mount_point) {
                Some(containers) => source = containers.path.to_path_buf(),
                // What it shows is not the container's to change.
                None => {
                    attrs.set |= libc::MOUNT_ATTR_RDONLY;
                    attrs.clear &= !libc::MOUNT_ATTR_RDONLY;
                }
            }
            steps.push(if self.own_namespace {
                filesystem(field, index, &place, hierarchy.fstype, &hierarchy.parameters, attrs)?
            } else {
                bind(field, index, &source, &place, attrs, launch)?
            });
        }
        if readonly {
            let target = target(entry, TargetKind::Directory, false)?;
            let attrs = MountAttrs { set: libc::MOUNT_ATTR_RDONLY, ..MountAttrs::default() };
            steps.push(Step::Remount { index, target, attrs });
        }
        Ok(())
    }
}

impl Hierarchy {
    /// Our own cgroup.
    fn ours(&self) -> PathBuf {
        self.mount_point.join(self.own.trim_start_matches('/'))
    }
}

fn bind(
    field: &str,
    index: u16,
    source: &Path,
    place: &Path,
    attrs: MountAttrs,
    launch: &mut Launch,
) -> Result<Step, PlanError> {
    let tree = open_tree(source, false, libc::MS_SLAVE).map_err(|errno| PlanError::path(field, source, errno))?;
    let target = target_at(field, place, TargetKind::Directory, false)?;
    Ok(Step::MountTree { index, target, source: TreeSource::Opened(launch.add_fd(tree)), attrs, slot: None })
}

/// Our own cgroup in the hierarchy that has this controller (or `name=`); `""` is cgroup v2.
fn own_path(own: &str, controller: &str) -> String {
    let path = own.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let controllers = fields.next()?;
        controllers.split(',').any(|name| name == controller).then(|| fields.next()).flatten()
    });
    path.unwrap_or("/").to_owned()
}

fn filesystem(
    field: &str,
    index: u16,
    destination: &Path,
    fstype: &str,
    parameters: &[(String, Option<String>)],
    attrs: MountAttrs,
) -> Result<Step, PlanError> {
    let parameter = |(key, value): &(String, Option<String>)| -> Result<FsParameter, PlanError> {
        let value = value.as_ref().map(|value| c_string(field, value.as_str())).transpose()?;
        Ok(FsParameter { key: c_string(field, key.as_str())?, value })
    };
    Ok(Step::MountFilesystem {
        index,
        target: target_at(field, destination, TargetKind::Directory, false)?,
        fstype: c_string(field, fstype)?,
        source: CString::from(c"cgroup"),
        parameters: parameters.iter().map(parameter).collect::<Result<_, _>>()?,
        attrs,
        copy_up: false,
        slot: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu,cpuacct
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";
    const OWN: &str = "9:name=systemd:/a\n1:cpu,cpuacct:/b\n0::/c\n";

    #[test]
    fn hybrid_hierarchies_keep_their_names_and_parameters() {
        let layout = Layout::parse(HYBRID, OWN, true);
        let seen: Vec<_> =
            layout.hierarchies.iter().map(|h| (h.name.as_str(), h.own.as_str(), h.parameters.len())).collect();
        assert_eq!(seen, [("cpu", "/b", 2), ("systemd", "/a", 2), ("unified", "/c", 0)]);
        assert!(!layout.v2_only);
    }

    /// The attributes of each hierarchy's mount, asked for with `rw`.
    fn mounted(cgroups: Cgroups) -> Vec<u64> {
        let layout = Layout { cgroups, ..Layout::parse(HYBRID, OWN, true) };
        let (mut launch, mut steps) = (Launch::default(), Vec::new());
        let options = Options::parse("o", &["rw".to_owned()]).unwrap();
        let mount = oci_spec::runtime::Mount::default();
        let entry = Entry { field: "mounts[6]", index: 6, destination: Path::new("/sys/fs/cgroup"), mount: &mount };
        layout.mount(&entry, &options, &mut launch, &mut steps).unwrap();
        let attrs = |step: &Step| match step {
            Step::MountFilesystem { attrs, .. } => attrs.set & libc::MOUNT_ATTR_RDONLY,
            step => panic!("{step:?}"),
        };
        steps.iter().skip(1).map(attrs).collect()
    }

    #[test]
    fn a_view_of_the_hosts_cgroups_is_read_only() {
        let readonly = libc::MOUNT_ATTR_RDONLY;
        assert_eq!(mounted(Cgroups::default()), [readonly; 3]);
        let own = r#"[{"path":"/sys/fs/cgroup/cpu/b/box","version":"v1","mount_point":"/sys/fs/cgroup/cpu","controllers":["cpu"]}]"#;
        assert_eq!(mounted(serde_json::from_str(own).unwrap()), [0, readonly, readonly]);
    }
}
