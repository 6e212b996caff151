//! `update`: changes limits of a container. What is not given stays as it is; after a refusal nothing is changed.

use std::ffi::OsString;
use std::io::Read;
use std::process::ExitCode;

use anyhow::{Context, bail, ensure};
use brood_launcher::amount::bytes;
use brood_launcher::config::{check_resources, parse_value};
use brood_launcher::resctrl::{Group, Resctrl};
use brood_launcher::state::{ContainerState, Manager, Status};
use clap::Args;
use serde_json::{Map, Value, json};

use crate::lifecycle::own_cgroups;
use crate::runtime::Runtime;

/// An empty value is none, as with runc.
#[derive(Args)]
pub struct UpdateArgs {
    /// Container ID
    #[arg(value_name = "CONTAINER-ID")]
    id: String,
    /// File with the `linux.resources` to change, `-` for standard input; the options below are ignored then
    #[arg(short, long, value_name = "FILE")]
    resources: Option<OsString>,
    /// Share of block devices, 10 to 1000
    #[arg(long, value_name = "WEIGHT", allow_hyphen_values = true)]
    blkio_weight: Option<String>,
    /// Length of the period that the quota is for (microseconds)
    #[arg(long, value_name = "US", allow_hyphen_values = true)]
    cpu_period: Option<String>,
    /// Processor time in each period (microseconds); -1 for no limit
    #[arg(long, value_name = "US", allow_hyphen_values = true)]
    cpu_quota: Option<String>,
    /// Unused quota that may be used in addition (microseconds)
    #[arg(long, value_name = "US", allow_hyphen_values = true)]
    cpu_burst: Option<String>,
    /// Share of the processors, 2 to 262144
    #[arg(long, value_name = "SHARES", allow_hyphen_values = true)]
    cpu_share: Option<String>,
    /// Length of the period that the realtime runtime is for (microseconds)
    #[arg(long, value_name = "US", allow_hyphen_values = true)]
    cpu_rt_period: Option<String>,
    /// Realtime in each period (microseconds)
    #[arg(long, value_name = "US", allow_hyphen_values = true)]
    cpu_rt_runtime: Option<String>,
    /// Processors that may be used (0-2,7)
    #[arg(long, value_name = "LIST", allow_hyphen_values = true)]
    cpuset_cpus: Option<String>,
    /// Memory nodes that may be used
    #[arg(long, value_name = "LIST", allow_hyphen_values = true)]
    cpuset_mems: Option<String>,
    /// 1: only while nobody else wants a processor; 0: as usual
    #[arg(long, value_name = "0|1", allow_hyphen_values = true)]
    cpu_idle: Option<String>,
    /// Ignored: the kernel has no such limit any more
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true, hide = true)]
    kernel_memory: Option<String>,
    /// Memory for TCP buffers; cgroup v1 only
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true, hide = true)]
    kernel_memory_tcp: Option<String>,
    /// Memory (bytes, or with k, m, g, t); -1 for no limit
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    memory: Option<String>,
    /// Memory that is left alone as long as possible
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    memory_reservation: Option<String>,
    /// Memory and swap together; -1 for no limit on swap
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    memory_swap: Option<String>,
    /// Processes and threads; -1 for no limit
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    pids_limit: Option<String>,
    /// Intel RDT: cache
    #[arg(long, value_name = "SCHEMA", allow_hyphen_values = true)]
    l3_cache_schema: Option<String>,
    /// Intel RDT: memory bandwidth
    #[arg(long, value_name = "SCHEMA", allow_hyphen_values = true)]
    mem_bw_schema: Option<String>,
}

pub fn update(runtime: &Runtime, args: &UpdateArgs) -> anyhow::Result<ExitCode> {
    let dir = runtime.find(&args.id)?;
    let shares = Shares::of(args)?;
    let (resources, name) = match args.resources.as_ref().filter(|file| !file.is_empty()) {
        Some(file) => from_file(file)?,
        None => (from_flags(args)?, "update".to_owned()),
    };
    if !resources["memory"]["kernel"].is_null() {
        runtime.messages.warning("--kernel-memory is ignored: the kernel has no such limit any more");
    }
    let resources = check_resources(resources, &name)?;
    ensure!(dir.status() != Status::Stopped, "container not running");
    let mut state = dir.read_state()?;
    let mut cgroups = own_cgroups(&dir, &args.id, "limit it")?;
    let shared = shares.change(&state)?;
    let changed = cgroups.change(&resources);
    if let (Err(_), Some((group, former))) = (&changed, shared) {
        group.restore(&former)?;
    }
    if changed? {
        state.cgroups = cgroups;
        let daemons = state.manager == Manager::Daemon && runtime.root.has_daemon();
        dir.write_state(&state)?;
        if daemons {
            runtime
                .messages
                .warning("the container has got new cgroups, of which its daemon learns when it starts again");
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Schemata of resctrl.
struct Shares<'a> {
    l3: Option<&'a str>,
    bandwidth: Option<&'a str>,
}

impl Shares<'_> {
    /// Refuses what the machine does not share out.
    fn of(args: &UpdateArgs) -> anyhow::Result<Shares<'_>> {
        let resctrl = Resctrl::find();
        let has = |resource| resctrl.as_ref().is_some_and(|resctrl| resctrl.has(resource));
        let l3 = args.l3_cache_schema.as_deref().filter(|text| !text.is_empty());
        let bandwidth = args.mem_bw_schema.as_deref().filter(|text| !text.is_empty());
        ensure!(
            l3.is_none() || has("L3") || has("L3CODE"),
            "--l3-cache-schema: Intel RDT/CAT: l3 cache schema is not enabled"
        );
        ensure!(
            bandwidth.is_none() || has("MB"),
            "--mem-bw-schema: Intel RDT/MBA: memory bandwidth schema is not enabled"
        );
        Ok(Shares { l3, bandwidth })
    }

    /// Changes them, and tells what was in force before.
    fn change<'a>(&self, state: &'a ContainerState) -> anyhow::Result<Option<(&'a Group, String)>> {
        if self.l3.or(self.bandwidth).is_none() {
            return Ok(None);
        }
        let group = state.resctrl.as_ref();
        let group = group.context("updating a non-existent Intel RDT configuration is not supported")?;
        Ok(Some((group, group.change(self.l3, self.bandwidth)?)))
    }
}

fn from_file(file: &OsString) -> anyhow::Result<(Value, String)> {
    let (name, mut text) = (file.to_string_lossy().into_owned(), Vec::new());
    match name.as_str() {
        "-" => std::io::stdin().read_to_end(&mut text).map(drop),
        _ => std::fs::read(file).map(|read| text = read),
    }
    .with_context(|| format!("--resources {name}"))?;
    let mut resources = parse_value(&text, &name)?;
    let Value::Object(fields) = &mut resources else { bail!("--resources {name}: not a JSON object") };
    // As with runc: rules are not changed here.
    fields.remove("devices");
    Ok((resources, name))
}

/// What the flags say, in the words of config.json.
fn from_flags(args: &UpdateArgs) -> anyhow::Result<Value> {
    let (mut cpu, mut memory, mut all) = (Map::new(), Map::new(), Map::new());
    let given = |value: &Option<String>| value.clone().filter(|value| !value.is_empty());
    for (flag, field, value) in [
        ("--cpu-period", "period", &args.cpu_period),
        ("--cpu-burst", "burst", &args.cpu_burst),
        ("--cpu-share", "shares", &args.cpu_share),
        ("--cpu-rt-period", "realtimePeriod", &args.cpu_rt_period),
    ] {
        if let Some(value) = given(value) {
            cpu.insert(field.to_owned(), value.parse::<u64>().map(Value::from).map_err(|_| invalid(flag, &value))?);
        }
    }
    for (flag, field, value) in [
        ("--cpu-quota", "quota", &args.cpu_quota),
        ("--cpu-rt-runtime", "realtimeRuntime", &args.cpu_rt_runtime),
        ("--cpu-idle", "idle", &args.cpu_idle),
    ] {
        if let Some(value) = given(value) {
            cpu.insert(field.to_owned(), integer(flag, &value)?.into());
        }
    }
    for (field, value) in [("cpus", &args.cpuset_cpus), ("mems", &args.cpuset_mems)] {
        if let Some(value) = given(value) {
            cpu.insert(field.to_owned(), value.into());
        }
    }
    for (flag, field, value) in [
        ("--memory", "limit", &args.memory),
        ("--memory-swap", "swap", &args.memory_swap),
        ("--memory-reservation", "reservation", &args.memory_reservation),
        ("--kernel-memory", "kernel", &args.kernel_memory),
        ("--kernel-memory-tcp", "kernelTCP", &args.kernel_memory_tcp),
    ] {
        if let Some(value) = given(value) {
            memory.insert(field.to_owned(), bytes(&value).ok_or_else(|| invalid(flag, &value))?.into());
        }
    }
    if let Some(value) = given(&args.blkio_weight) {
        let weight = value.parse::<u16>().map_err(|_| invalid("--blkio-weight", &value))?;
        all.insert("blockIO".to_owned(), json!({ "weight": weight }));
    }
    if let Some(value) = given(&args.pids_limit) {
        all.insert("pids".to_owned(), json!({ "limit": integer("--pids-limit", &value)? }));
    }
    all.insert("cpu".to_owned(), cpu.into());
    all.insert("memory".to_owned(), memory.into());
    Ok(all.into())
}

fn invalid(flag: &str, value: &str) -> anyhow::Error {
    anyhow::anyhow!("invalid value for {}: {value:?}", flag.trim_start_matches('-'))
}

fn integer(flag: &str, value: &str) -> anyhow::Result<i64> {
    value.parse().map_err(|_| invalid(flag, value))
}
