//! `process`: the program, who it is, and its limits.

use oci_spec::runtime::{Capabilities, LinuxCapabilities, PosixRlimit, Process, Spec, User};

use super::{absolute_path, attributes, c_string};
use crate::config::error::{ConfigError, quote};

/// The user that setresuid(2) and chown(2) take for "leave it as it is": a program meant for it would stay root.
const NO_ID: u32 = u32::MAX;

/// Most supplementary groups that the kernel takes (`NGROUPS_MAX`).
const MAX_GROUPS: usize = 65_536;

const MAX_UMASK: u32 = 0o777;

pub(super) fn check(spec: &Spec, notes: &mut Vec<String>) -> Result<(), ConfigError> {
    let process = spec.process().as_ref().ok_or_else(|| ConfigError::field("process", "missing"))?;
    args(process)?;
    env(process.env().as_deref().unwrap_or_default(), notes)?;
    absolute_path("process.cwd", process.cwd())?;
    user(process.user())?;
    rlimits(process.rlimits().as_deref().unwrap_or_default())?;
    attributes::check_process(process)?;
    labels(process)?;
    if let Some(sets) = process.capabilities() {
        notes.extend(not_ambient(sets));
    }
    match process.oom_score_adj() {
        Some(score) if !(-1000..=1000).contains(&score) => {
            Err(ConfigError::field("process.oomScoreAdj", format!("must be within -1000 and 1000, not {score}")))
        }
        _ => Ok(()),
    }
}

/// Those that the kernel would refuse, in runc's words: they are left out. In the order of their names. Where nothing at all is
/// inheritable nobody counts on them: the templates of engines are so.
fn not_ambient(sets: &LinuxCapabilities) -> Vec<String> {
    if sets.inheritable().as_ref().is_none_or(|set| set.is_empty()) {
        return Vec::new();
    }
    let lacks = |set: &Option<Capabilities>, one| !set.as_ref().is_some_and(|set| set.contains(one));
    let refused = sets.ambient().iter().flatten();
    let refused = refused.filter(|one| lacks(sets.permitted(), one) || lacks(sets.inheritable(), one));
    let mut names: Vec<String> = refused.map(|one| format!("CAP_{one}")).collect();
    names.sort_unstable();
    let note = |name| format!("can't raise ambient capability {name}: it is not both permitted and inheritable");
    names.into_iter().map(note).collect()
}

fn args(process: &Process) -> Result<(), ConfigError> {
    let args = process.args().as_deref().unwrap_or_default();
    let program = args.first().ok_or_else(|| ConfigError::field("process.args", "must not be empty"))?;
    if program.is_empty() {
        return Err(ConfigError::field("process.args[0]", "must not be empty"));
    }
    args.iter().enumerate().try_for_each(|(i, arg)| c_string(format_args!("process.args[{i}]"), arg))
}

fn env(env: &[String], notes: &mut Vec<String>) -> Result<(), ConfigError> {
    for (i, entry) in env.iter().enumerate() {
        c_string(format_args!("process.env[{i}]"), entry)?;
        match entry.find('=') {
            Some(0) => {
                return Err(ConfigError::field(
                    format_args!("process.env[{i}]"),
                    format!("no name before = in {}", quote(entry)),
                ));
            }
            Some(_) => {}
            None => notes.push(format!("process.env[{i}]: no = in {}, passed on as it is", quote(entry))),
        }
    }
    Ok(())
}

fn user(user: &User) -> Result<(), ConfigError> {
    let groups = user.additional_gids().as_deref().unwrap_or_default();
    if groups.len() > MAX_GROUPS {
        let reason = format!("{} groups, the kernel takes {MAX_GROUPS}", groups.len());
        return Err(ConfigError::field("process.user.additionalGids", reason));
    }
    let no_id = || format!("{NO_ID} stands for no id at all");
    for (field, id) in [("uid", user.uid()), ("gid", user.gid())] {
        if id == NO_ID {
            return Err(ConfigError::field(format_args!("process.user.{field}"), no_id()));
        }
    }
    if let Some(i) = groups.iter().position(|&id| id == NO_ID) {
        return Err(ConfigError::field(format_args!("process.user.additionalGids[{i}]"), no_id()));
    }
    match user.umask() {
        Some(umask) if umask > MAX_UMASK => Err(ConfigError::field(
            "process.user.umask",
            format!("must be at most 511 (0777), not {umask} (0{umask:o})"),
        )),
        _ => Ok(()),
    }
}

fn labels(process: &Process) -> Result<(), ConfigError> {
    let labels = [("apparmorProfile", process.apparmor_profile()), ("selinuxLabel", process.selinux_label())];
    labels
        .into_iter()
        .try_for_each(|(name, label)| c_string(format_args!("process.{name}"), label.as_deref().unwrap_or_default()))
}

fn rlimits(limits: &[PosixRlimit]) -> Result<(), ConfigError> {
    for (i, limit) in limits.iter().enumerate() {
        let kind = limit.typ();
        if limits[..i].iter().any(|earlier| earlier.typ() == kind) {
            return Err(ConfigError::field(
                format_args!("process.rlimits[{i}].type"),
                format!("{kind} is there twice"),
            ));
        }
        if limit.soft() > limit.hard() {
            let reason = format!("{} is above the hard limit of {kind}, {}", limit.soft(), limit.hard());
            return Err(ConfigError::field(format_args!("process.rlimits[{i}].soft"), reason));
        }
    }
    Ok(())
}
