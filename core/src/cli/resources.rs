//! `pause`, `resume`, `update`, `stats`, and the limits that `run` takes.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::process::ExitCode;

use anyhow::{Context, bail, ensure};
use brood_launcher::amount;
use brood_schema::brood_capnp as schema;
use clap::Args;
use serde_json::{Map, Value, json};

use super::query::{Format, table};
use super::{Place, print};
use crate::client::{ClientError, Container};
use crate::rpc;

/// Microseconds; what a quota is measured by, as with docker.
const CPU_PERIOD_US: u64 = 100_000;

/// Limits of a container.
#[derive(Args, Default)]
#[command(next_help_heading = "Limits")]
pub(super) struct LimitArgs {
    /// Memory, as 512m or 1.5g; -1 for no limit
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    memory: Option<String>,
    /// Memory and swap together, -1 for no limit on swap
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    memory_swap: Option<String>,
    /// Memory that is left to it as long as possible
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    memory_reservation: Option<String>,
    /// Processors' worth of time, as 1.5
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    cpus: Option<String>,
    /// Weight against others for processors, 2 to 262144 [kernel's: 1024]
    #[arg(long, value_name = "WEIGHT", allow_hyphen_values = true)]
    cpu_shares: Option<String>,
    /// Processors that it may use, as 0-2,7
    #[arg(long, value_name = "LIST", allow_hyphen_values = true)]
    cpuset_cpus: Option<String>,
    /// Memory nodes that it may use
    #[arg(long, value_name = "LIST", allow_hyphen_values = true)]
    cpuset_mems: Option<String>,
    /// Processes and threads; -1 for no limit
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    pids_limit: Option<String>,
    /// Weight against others for block devices, 10 to 1000
    #[arg(long, value_name = "WEIGHT", allow_hyphen_values = true)]
    blkio_weight: Option<String>,
}

impl LimitArgs {
    /// As an OCI `linux.resources`; what is not given is not in there.
    pub(super) fn resources(&self) -> anyhow::Result<Map<String, Value>> {
        let mut resources = Map::new();
        let mut put = |section: &str, field: &str, value: Value| {
            resources.entry(section).or_insert_with(|| json!({}))[field] = value;
        };
        for (flag, field, value) in [
            ("--memory", "limit", &self.memory),
            ("--memory-swap", "swap", &self.memory_swap),
            ("--memory-reservation", "reservation", &self.memory_reservation),
        ] {
            if let Some(value) = value {
                let bytes = amount::bytes(value).filter(|bytes| *bytes != 0);
                let bytes =
                    bytes.with_context(|| format!("{flag} {value:?}: expected bytes, as 512m or 1.5g, or -1"))?;
                put("memory", field, bytes.into());
            }
        }
        if let Some(value) = &self.cpus {
            put("cpu", "quota", quota(value)?.into());
            put("cpu", "period", CPU_PERIOD_US.into());
        }
        if let Some(value) = &self.cpu_shares {
            put("cpu", "shares", number("--cpu-shares", value, 2..=262_144)?.into());
        }
        for (flag, field, value) in
            [("--cpuset-cpus", "cpus", &self.cpuset_cpus), ("--cpuset-mems", "mems", &self.cpuset_mems)]
        {
            if let Some(value) = value {
                let list = |c: char| c.is_ascii_digit() || matches!(c, ',' | '-');
                ensure!(
                    value.starts_with(|c: char| c.is_ascii_digit()) && value.chars().all(list),
                    "{flag} {value:?}: expected numbers and ranges, as 0-2,7"
                );
                put("cpu", field, value.as_str().into());
            }
        }
        if let Some(value) = &self.pids_limit {
            let limit = if value == "-1" { -1 } else { number("--pids-limit", value, 1..=i64::MAX)? };
            put("pids", "limit", limit.into());
        }
        if let Some(value) = &self.blkio_weight {
            put("blockIO", "weight", number("--blkio-weight", value, 10..=1000)?.into());
        }
        Ok(resources)
    }
}

fn number(flag: &str, text: &str, range: std::ops::RangeInclusive<i64>) -> anyhow::Result<i64> {
    let number = text.parse().ok().filter(|number| range.contains(number));
    let most = if *range.end() == i64::MAX { String::new() } else { format!(" to {}", range.end()) };
    number.with_context(|| format!("{flag} {text:?}: expected a number from {}{most}", range.start()))
}

/// `1.5` is 150,000 µs of every 100,000; the kernel takes no less than 1,000.
fn quota(text: &str) -> anyhow::Result<u64> {
    let plain = text.chars().all(|c| c.is_ascii_digit() || c == '.');
    let cpus: Option<f64> = text.parse().ok().filter(|cpus| plain && (0.01..=100_000.0).contains(cpus));
    let cpus = cpus.with_context(|| format!("--cpus {text:?}: expected a number from 0.01, as 1.5"))?;
    Ok((cpus * CPU_PERIOD_US as f64).round() as u64)
}

/// `HOST[:CONTAINER[:rwm]]`: the device for `linux.devices`, and the rule that lets it be used.
pub(super) fn device(text: &str) -> anyhow::Result<(Value, Value)> {
    let parts: Vec<&str> = text.split(':').collect();
    let (host, path, access) = match parts[..] {
        [host] => (host, host, "rwm"),
        [host, path] => (host, path, "rwm"),
        [host, path, access] => (host, path, access),
        _ => bail!("--device {text:?}: expected HOST[:CONTAINER[:rwm]]"),
    };
    ensure!(host.starts_with('/') && path.starts_with('/'), "--device {text:?}: both paths must be absolute");
    let once = |c: char| access.matches(c).count() == 1;
    ensure!(
        !access.is_empty() && access.chars().all(|c| "rwm".contains(c) && once(c)),
        "--device {text:?}: the access must be of r, w and m"
    );
    let metadata = std::fs::metadata(host).map_err(|error| anyhow::anyhow!("--device {text:?}: {host}: {error}"))?;
    let kind = match metadata.file_type() {
        kind if kind.is_char_device() => "c",
        kind if kind.is_block_device() => "b",
        _ => bail!("--device {text:?}: {host} is no device"),
    };
    let (major, minor) = (rustix::fs::major(metadata.rdev()), rustix::fs::minor(metadata.rdev()));
    let device = json!({
        "path": path, "type": kind, "major": major, "minor": minor,
        "fileMode": metadata.mode() & 0o777, "uid": metadata.uid(), "gid": metadata.gid(),
    });
    Ok((device, json!({"allow": true, "type": kind, "major": major, "minor": minor, "access": access})))
}

#[derive(Args)]
pub(super) struct UpdateArgs {
    /// Container ID
    #[arg(value_name = "ID")]
    id: String,
    /// File with an OCI linux.resources object, for what the options do not know; - is standard input
    #[arg(long, value_name = "FILE")]
    resources: Option<String>,
    #[command(flatten)]
    limits: LimitArgs,
}

#[derive(Args)]
pub(super) struct StatsArgs {
    /// Container IDs [default: all that have not stopped]
    #[arg(value_name = "ID")]
    ids: Vec<String>,
    /// The same as --format json
    #[arg(long)]
    json: bool,
    /// Form of the output; json is one object per line
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
}

pub(super) fn pause(place: &Place, id: &str) -> anyhow::Result<ExitCode> {
    place.with_client(async |client| {
        client.get(id).pause().await?;
        Ok(ExitCode::SUCCESS)
    })
}

pub(super) fn resume(place: &Place, id: &str) -> anyhow::Result<ExitCode> {
    place.with_client(async |client| {
        client.get(id).resume().await?;
        Ok(ExitCode::SUCCESS)
    })
}

pub(super) fn update(place: &Place, args: &UpdateArgs) -> anyhow::Result<ExitCode> {
    let mut resources = match args.resources.as_deref() {
        None => Map::new(),
        Some(name) => {
            let text = match name {
                "-" => std::io::read_to_string(std::io::stdin()),
                file => std::fs::read_to_string(file),
            };
            let text = text.with_context(|| format!("--resources {name}"))?;
            serde_json::from_str(&text).with_context(|| format!("--resources {name}"))?
        }
    };
    for (section, fields) in args.limits.resources()? {
        let known = resources.entry(section).or_insert_with(|| json!({}));
        if let (Some(known), Value::Object(fields)) = (known.as_object_mut(), fields) {
            known.extend(fields);
        }
    }
    ensure!(!resources.is_empty(), "update: no limit is given");
    let text = Value::from(resources).to_string();
    place.with_client(async |client| {
        client.get(&args.id).update(text.as_bytes()).await?;
        Ok(ExitCode::SUCCESS)
    })
}

pub(super) fn stats(place: &Place, args: &StatsArgs) -> anyhow::Result<ExitCode> {
    let stats = place.with_client(async |client| {
        let all = args.ids.is_empty();
        let ids = if all { client.ids().await? } else { args.ids.clone() };
        let mut stats = Vec::new();
        for id in ids {
            match stats_json(&client.get(&id), &id).await {
                Ok(figures) => stats.push(figures),
                // One that has stopped, or gone, is not among all.
                Err(ClientError::Refused(_)) if all => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(stats)
    })?;
    if args.json || args.format == Format::Json {
        return print(&stats.iter().map(|figures| format!("{figures}\n")).collect::<String>());
    }
    let mut rows = vec![["ID", "CPU", "MEMORY", "LIMIT", "PEAK", "PIDS", "READ", "WRITTEN"].map(str::to_owned)];
    rows.extend(stats.iter().map(row));
    print(&table(&rows))
}

fn row(figures: &Value) -> [String; 8] {
    let known = |value: &Value, text: fn(u64) -> String| {
        value.as_u64().filter(|value| *value != 0).map_or_else(|| "-".to_owned(), text)
    };
    let zero = |value: &Value, text: fn(u64) -> String| value.as_u64().map_or_else(|| "-".to_owned(), text);
    let io = |operation: &str| {
        let entries = figures["io"].as_array().into_iter().flatten();
        let bytes = entries.filter(|entry| entry["figure"] == "serviceBytes" && entry["operation"] == operation);
        bytes.filter_map(|entry| entry["value"].as_u64()).sum::<u64>()
    };
    let usage = &figures["memory"]["usage"];
    [
        figures["id"].as_str().unwrap_or_default().to_owned(),
        zero(&figures["cpu"]["totalNs"], |ns| format!("{:.3}s", ns as f64 / 1e9)),
        zero(&usage["usage"], bytes),
        known(&usage["limit"], bytes),
        known(&usage["peak"], bytes),
        zero(&figures["pids"]["current"], |count| count.to_string()),
        bytes(io("Read")),
        bytes(io("Write")),
    ]
}

/// In the largest unit of 1024 that leaves something before the point.
fn bytes(bytes: u64) -> String {
    let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    let unit = units.into_iter().find(|(shift, _)| bytes >> shift > 0);
    unit.map_or_else(
        || format!("{bytes}B"),
        |(shift, unit)| format!("{:.1}{unit}", bytes as f64 / f64::from(1 << shift)),
    )
}

async fn stats_json(container: &Container, id: &str) -> Result<Value, ClientError> {
    let response = container.0.stats_request().send().promise.await?;
    match response.get()?.get_outcome()?.which().map_err(capnp::Error::from)? {
        schema::stats_outcome::Stats(stats) => Ok(figures(id, stats?)?),
        schema::stats_outcome::Failure(failure) => Err(rpc::failure_from(failure?)?.into()),
    }
}

fn figures(id: &str, from: schema::stats::Reader<'_>) -> capnp::Result<Value> {
    let mut json = json!({"id": id, "timeNs": from.get_time()});
    if from.has_cpu() {
        let cpu = from.get_cpu()?;
        json["cpu"] = json!({"totalNs": cpu.get_total(), "userNs": cpu.get_user(), "kernelNs": cpu.get_kernel()});
        if !cpu.get_per_cpu()?.is_empty() {
            json["cpu"]["perCpuNs"] = cpu.get_per_cpu()?.iter().collect::<Vec<u64>>().into();
        }
    }
    if from.has_throttling() {
        let quota = from.get_throttling()?;
        json["throttling"] = json!({
            "periods": quota.get_periods(), "throttledPeriods": quota.get_throttled_periods(),
            "throttledNs": quota.get_throttled(), "burstPeriods": quota.get_burst_periods(), "burstNs": quota.get_burst(),
        });
    }
    if from.has_memory() {
        json["memory"] = memory(from.get_memory()?)?;
    }
    if from.has_pids() {
        let pids = from.get_pids()?;
        json["pids"] = json!({"current": pids.get_current(), "limit": pids.get_limit()});
    }
    let mut io = Vec::new();
    for entry in from.get_io()? {
        io.push(json!({
            "figure": entry.get_figure()?.to_str()?, "major": entry.get_major(), "minor": entry.get_minor(),
            "operation": entry.get_operation()?.to_str()?, "value": entry.get_value(),
        }));
    }
    json["io"] = io.into();
    let mut pages = Map::new();
    for size in from.get_huge_pages()? {
        let figures = json!({"usage": size.get_usage(), "peak": size.get_peak(), "failures": size.get_failures()});
        pages.insert(size.get_page_size()?.to_string()?, figures);
    }
    json["hugePages"] = pages.into();
    let mut devices = Map::new();
    for device in from.get_rdma()? {
        let figures = json!({
            "handles": device.get_handles(), "objects": device.get_objects(),
            "handlesLimit": device.get_handles_limit(), "objectsLimit": device.get_objects_limit(),
        });
        devices.insert(device.get_device()?.to_string()?, figures);
    }
    json["rdma"] = devices.into();
    json["pressure"] = pressure_stats(from.get_pressure()?)?;
    Ok(json)
}

fn memory(from: schema::memory_stats::Reader<'_>) -> capnp::Result<Value> {
    let mut stat = Map::new();
    for figure in from.get_stat()? {
        stat.insert(figure.get_name()?.to_string()?, figure.get_value().into());
    }
    let mut json = json!({
        "usage": counter(from.get_usage()?), "cache": from.get_cache(), "oom": from.get_oom(),
        "oomKills": from.get_oom_kills(), "underOom": from.get_under_oom(), "stat": stat,
    });
    for (name, there, from) in [
        ("withSwap", from.has_with_swap(), from.get_with_swap()?),
        ("swap", from.has_swap(), from.get_swap()?),
        ("kernel", from.has_kernel(), from.get_kernel()?),
        ("kernelTcp", from.has_kernel_tcp(), from.get_kernel_tcp()?),
    ] {
        if there {
            json[name] = counter(from);
        }
    }
    Ok(json)
}

fn counter(from: schema::memory_counter::Reader<'_>) -> Value {
    let (usage, limit) = (from.get_usage(), from.get_limit());
    json!({"usage": usage, "limit": limit, "peak": from.get_peak(), "failures": from.get_failures()})
}

fn pressure_stats(from: schema::pressure_stats::Reader<'_>) -> capnp::Result<Value> {
    let mut json = Map::new();
    for (name, there, from) in [
        ("cpu", from.has_cpu(), from.get_cpu()?),
        ("memory", from.has_memory(), from.get_memory()?),
        ("io", from.has_io(), from.get_io()?),
    ] {
        if there {
            json.insert(name.to_owned(), json!({"some": stall(from.get_some()?), "full": stall(from.get_full()?)}));
        }
    }
    Ok(json.into())
}

fn stall(from: schema::stall::Reader<'_>) -> Value {
    json!({
        "avg10": from.get_avg10(), "avg60": from.get_avg60(), "avg300": from.get_avg300(),
        "totalUs": from.get_total_us(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_become_a_quota() {
        for (text, expected) in [("1.5", 150_000), ("2", 200_000), ("0.01", 1_000), (".5", 50_000)] {
            assert_eq!(quota(text).unwrap(), expected, "{text}");
        }
        for text in ["0", "-1", "", "1e3", "inf", "nan", "0.001", "1,5"] {
            assert!(quota(text).unwrap_err().to_string().starts_with("--cpus"), "{text}");
        }
    }

    #[test]
    fn bytes_are_shown_in_powers_of_1024() {
        for (number, text) in
            [(0, "0B"), (1023, "1023B"), (1536, "1.5KiB"), (512 << 20, "512.0MiB"), (3 << 29, "1.5GiB")]
        {
            assert_eq!(bytes(number), text);
        }
    }
}
