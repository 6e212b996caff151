//! With real cgroups, in every hierarchy that the machine has.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::*;

const PATIENCE: Duration = Duration::from_secs(5);

/// Cgroups `brood-unit-NAME-PID/LEAF` in every hierarchy, or in those of cgroup v1 alone.
pub(super) fn planned(name: &str, leaf: &str, v1_only: bool) -> Cgroups {
    let host = Host::find();
    let place = |hierarchy: &Hierarchy| {
        hierarchy.place(
            Path::new("/"),
            "",
            Some(Path::new(&format!("brood-unit-{name}-{}/{leaf}", std::process::id()))),
        )
    };
    let mut cgroups = Cgroups::plan(host, &["freezer"], false, place);
    assert!(cgroups.unified().is_some(), "these tests need a writable cgroup v2 hierarchy");
    if v1_only {
        cgroups.directories.retain(|directory| directory.version == Version::V1);
    }
    cgroups
}

/// A process in there, which ends with its input.
pub(super) fn member(cgroups: &Cgroups) -> Child {
    let child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    for directory in cgroups.directories() {
        std::fs::write(directory.path.join("cgroup.procs"), child.id().to_string()).unwrap();
    }
    child
}

/// Both ways to freeze and kill, as far as the machine has them.
fn both_versions(name: &str, check: impl Fn(Cgroups)) {
    check(planned(name, "a", false));
    let v1 = planned(name, "b", true);
    if v1.with("freezer").is_some() {
        check(v1);
    }
}

#[test]
fn only_what_was_made_is_removed_and_nothing_in_use_is_taken() {
    let mut cgroups = planned("made", "a/b", false);
    cgroups.make().unwrap();
    let first = &cgroups.directories()[0];
    let base = first.path.ancestors().nth(2).unwrap().to_owned();
    assert_eq!(first.made.as_ref(), Some(&base.as_path().into()));
    // Empty, but not ours to share: a cgroup below it would be killed along.
    let mut above = planned("made", "", false);
    assert!(above.make().unwrap_err().to_string().contains("other cgroups live in it"));
    // An empty one that somebody else made may be used, and stays.
    let mut again = planned("made", "a/b", false);
    again.make().unwrap();
    assert!(again.directories().iter().all(|directory| directory.made.is_none()));
    again.kill_and_remove(PATIENCE).unwrap();
    assert!(first.path.is_dir());
    cgroups.kill_and_remove(PATIENCE).unwrap();
    assert!(!base.exists());
    cgroups.kill_and_remove(PATIENCE).unwrap();
}

#[test]
fn what_somebody_else_made_meanwhile_is_theirs() {
    let mut cgroups = planned("meanwhile", "a/b", false);
    let first = cgroups.directories()[0].path.clone();
    std::fs::create_dir(first.ancestors().nth(2).unwrap()).unwrap();
    cgroups.make().unwrap();
    assert_eq!(cgroups.directories()[0].made.as_deref(), first.parent());
    cgroups.kill_and_remove(PATIENCE).unwrap();
    std::fs::remove_dir(first.ancestors().nth(2).unwrap()).unwrap();
}

#[test]
fn what_is_frozen_stands_still_until_it_is_thawed() {
    both_versions("freeze", |mut cgroups| {
        cgroups.make().unwrap();
        let mut child = member(&cgroups);
        assert_eq!(cgroups.processes().unwrap(), [child.id() as i32]);
        assert!(cgroups.has_member(child.id() as i32));
        assert!(!cgroups.has_member(std::process::id() as i32));
        assert!(!cgroups.is_frozen());
        assert!(!cgroups.is_to_be_frozen());
        cgroups.freeze(PATIENCE).unwrap();
        assert!(cgroups.is_frozen() && cgroups.is_to_be_frozen());
        cgroups.thaw(PATIENCE).unwrap();
        assert!(!cgroups.is_frozen() && !cgroups.is_to_be_frozen());
        cgroups.freeze(PATIENCE).unwrap();
        cgroups.kill().unwrap();
        child.wait().unwrap();
        cgroups.kill_and_remove(PATIENCE).unwrap();
        cgroups.freeze(PATIENCE).unwrap_err();
    });
}

#[test]
fn what_lives_is_killed_before_the_removal() {
    both_versions("kill", |mut cgroups| {
        cgroups.make().unwrap();
        let mut child = member(&cgroups);
        std::thread::scope(|scope| {
            scope.spawn(|| child.wait().unwrap());
            cgroups.kill_and_remove(PATIENCE).unwrap();
        });
        assert!(cgroups.directories().iter().all(|directory| !directory.path.exists()));
    });
}

#[test]
fn an_exec_may_go_below_the_containers_own_and_nowhere_else() {
    let mut cgroups = planned("below", "a", false);
    cgroups.make().unwrap();
    let beside: Vec<PathBuf> =
        cgroups.directories().iter().map(|directory| directory.path.with_file_name("ab")).collect();
    beside.iter().for_each(|path| std::fs::create_dir(path).unwrap());
    let below = |text: &str| cgroups.below(&[text.to_owned()]);
    assert_eq!(below("/").unwrap(), cgroups);
    assert_eq!(below(".").unwrap(), cgroups);
    for (text, problem) in [
        ("../ab", "is not below the container's own"),
        ("/x/../../ab", "is not below the container's own"),
        ("b", "adding pid to "),
        ("nonesuch:/", "unknown controller \"nonesuch\""),
    ] {
        assert!(below(text).unwrap_err().contains(problem), "{text}");
    }
    let unified = cgroups.unified().unwrap().path.join("sub");
    std::fs::create_dir(&unified).unwrap();
    let directories = cgroups.directories().iter().filter(|directory| directory.version == Version::V1);
    directories.for_each(|directory| std::fs::create_dir(directory.path.join("sub")).unwrap());
    assert!(below("/sub").unwrap().directories().iter().all(|directory| directory.path.ends_with("a/sub")));
    cgroups.kill_and_remove(PATIENCE).unwrap();
    for path in beside {
        std::fs::remove_dir(&path).unwrap();
        let _ = std::fs::remove_dir(path.parent().unwrap());
    }
}

#[test]
fn membership_is_compared_by_whole_components() {
    let directory = |path: &str, version, controllers: &[&str]| Directory {
        path: Path::new(path).into(),
        version,
        mount_point: Path::new("/c").into(),
        controllers: controllers.iter().map(ToString::to_string).collect(),
        made: None,
        inode: None,
    };
    let unified = directory("/c/p/job", Version::V2, &[]);
    assert!(unified.is_named_in("0::/p/job\n"));
    assert!(unified.is_named_in("0::/p/job (deleted)\n"));
    for other in ["0::/p/job2\n", "0::/p/ob\n", "0::/\n", "3:memory:/p/job\n", ""] {
        assert!(!unified.is_named_in(other), "{other:?}");
    }
    let memory = directory("/c/p/job", Version::V1, &["memory"]);
    assert!(memory.is_named_in("4:cpu,memory:/p/job\n0::/\n"));
    assert!(!memory.is_named_in("4:cpu:/p/job\n0::/p/job\n"));
}
