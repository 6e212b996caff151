//! Limits and figures, between the schema's types and ours.

use brood_launcher::cgroup::Stats;
use brood_launcher::cgroup::stats::{
    BlockIoEntry, Counter, CpuStats, MemoryStats, Pressure, PressureStats, Stall, Throttling,
};
use brood_launcher::state::now_ns;
use brood_schema::brood_capnp as schema;
use serde_json::{Map, Value, json};

use super::brood::invalid;
use crate::limits::INLINE_CONFIG_BYTES_MAX;
use crate::registry::Failure;

/// The OCI `linux.resources` of an update. The outer error is a malformed message, the inner one a wrong request.
pub(super) fn limits_from(request: schema::update_request::Reader<'_>) -> capnp::Result<Result<Value, Failure>> {
    let text = request.get_resources_json()?;
    if text.len() > INLINE_CONFIG_BYTES_MAX {
        return Ok(Err(invalid(format!("resourcesJson: longer than {INLINE_CONFIG_BYTES_MAX} bytes"))));
    }
    let given: Result<Value, _> = if text.is_empty() { Ok(json!({})) } else { serde_json::from_slice(text) };
    let mut limits = match given {
        Ok(Value::Object(limits)) => limits,
        Ok(_) => return Ok(Err(invalid("resourcesJson: not a JSON object"))),
        Err(error) => return Ok(Err(invalid(format!("resourcesJson: {error}")))),
    };
    if limits.contains_key("devices") {
        return Ok(Err(invalid("resourcesJson.devices: rules cannot be changed")));
    }
    put_limits(&mut limits, request.get_resources()?)?;
    Ok(Ok(limits.into()))
}

fn put_limits(limits: &mut Map<String, Value>, from: schema::resources::Reader<'_>) -> capnp::Result<()> {
    use schema::resources::{cpu_quota, memory_limit, memory_reservation, memory_swap, pids_limit};
    let mut put = |section: &str, field: &str, value: Value| {
        let section = limits.entry(section).or_insert_with(|| json!({}));
        if section.is_null() {
            *section = json!({});
        }
        // What is no object is refused by its name later.
        if let Some(section) = section.as_object_mut() {
            section.insert(field.to_owned(), value);
        }
    };
    if let memory_limit::Value(value) = from.get_memory_limit().which()? {
        put("memory", "limit", value.into());
    }
    if let memory_swap::Value(value) = from.get_memory_swap().which()? {
        put("memory", "swap", value.into());
    }
    if let memory_reservation::Value(value) = from.get_memory_reservation().which()? {
        put("memory", "reservation", value.into());
    }
    if let cpu_quota::Value(value) = from.get_cpu_quota().which()? {
        put("cpu", "quota", value.into());
    }
    if let pids_limit::Value(value) = from.get_pids_limit().which()? {
        put("pids", "limit", value.into());
    }
    for (field, value) in [("period", from.get_cpu_period()), ("shares", from.get_cpu_shares())] {
        if value != 0 {
            put("cpu", field, value.into());
        }
    }
    for (field, value) in [("cpus", from.get_cpuset_cpus()?), ("mems", from.get_cpuset_mems()?)] {
        if !value.is_empty() {
            put("cpu", field, value.to_str()?.into());
        }
    }
    if from.get_blkio_weight() != 0 {
        put("blockIO", "weight", from.get_blkio_weight().into());
    }
    Ok(())
}

pub(super) fn put_stats(mut to: schema::stats::Builder<'_>, from: &Stats) {
    to.set_time(now_ns());
    if let Some(cpu) = &from.cpu {
        put_cpu(to.reborrow().init_cpu(), cpu);
    }
    if let Some(throttling) = &from.throttling {
        put_throttling(to.reborrow().init_throttling(), throttling);
    }
    if let Some(memory) = &from.memory {
        put_memory(to.reborrow().init_memory(), memory);
    }
    if let Some(pids) = &from.pids {
        let mut to = to.reborrow().init_pids();
        to.set_current(pids.current);
        to.set_limit(pids.limit.unwrap_or(0));
    }
    put_io(to.reborrow(), from);
    let mut pages = to.reborrow().init_huge_pages(from.huge_pages.len() as u32);
    for (index, (size, from)) in (0..).zip(&from.huge_pages) {
        let mut to = pages.reborrow().get(index);
        to.set_page_size(size);
        to.set_usage(from.usage);
        to.set_peak(from.peak.unwrap_or(0));
        to.set_failures(from.failures.unwrap_or(0));
    }
    let mut devices = to.reborrow().init_rdma(from.rdma.len() as u32);
    for (index, (device, from)) in (0..).zip(&from.rdma) {
        let mut to = devices.reborrow().get(index);
        to.set_device(device);
        to.set_handles(from.current.handles);
        to.set_objects(from.current.objects);
        to.set_handles_limit(from.limit.handles);
        to.set_objects_limit(from.limit.objects);
    }
    put_pressure_stats(to.init_pressure(), &from.pressure);
}

fn put_cpu(mut to: schema::cpu_stats::Builder<'_>, from: &CpuStats) {
    to.set_total(from.total_ns);
    to.set_user(from.user_ns);
    to.set_kernel(from.kernel_ns);
    let mut list = to.init_per_cpu(from.per_cpu.total_ns.len() as u32);
    for (index, ns) in (0..).zip(&from.per_cpu.total_ns) {
        list.set(index, *ns);
    }
}

fn put_throttling(mut to: schema::throttling::Builder<'_>, from: &Throttling) {
    to.set_periods(from.periods);
    to.set_throttled_periods(from.throttled_periods);
    to.set_throttled(from.throttled_ns);
    to.set_burst_periods(from.burst_periods.unwrap_or(0));
    to.set_burst(from.burst_ns.unwrap_or(0));
}

fn put_memory(mut to: schema::memory_stats::Builder<'_>, from: &MemoryStats) {
    put_counter(to.reborrow().init_usage(), &from.usage);
    if let Some(counter) = &from.with_swap {
        put_counter(to.reborrow().init_with_swap(), counter);
    }
    if let Some(counter) = &from.swap {
        put_counter(to.reborrow().init_swap(), counter);
    }
    if let Some(counter) = &from.kernel {
        put_counter(to.reborrow().init_kernel(), counter);
    }
    if let Some(counter) = &from.kernel_tcp {
        put_counter(to.reborrow().init_kernel_tcp(), counter);
    }
    to.set_cache(from.cache().unwrap_or(0));
    to.set_oom(from.oom.unwrap_or(0));
    to.set_oom_kills(from.oom_kills.unwrap_or(0));
    to.set_under_oom(from.under_oom.unwrap_or(false));
    let mut list = to.init_stat(from.stat.iter().count() as u32);
    for (index, (name, value)) in (0..).zip(from.stat.iter()) {
        let mut to = list.reborrow().get(index);
        to.set_name(name);
        to.set_value(value);
    }
}

fn put_counter(mut to: schema::memory_counter::Builder<'_>, from: &Counter) {
    to.set_usage(from.usage);
    to.set_limit(from.bound().unwrap_or(0));
    to.set_peak(from.peak.unwrap_or(0));
    to.set_failures(from.failures.unwrap_or(0));
}

fn put_io(to: schema::stats::Builder<'_>, from: &Stats) {
    let io = &from.block_io;
    let lists: [(&str, &[BlockIoEntry]); 8] = [
        ("serviceBytes", &io.service_bytes),
        ("serviced", &io.serviced),
        ("queued", &io.queued),
        ("serviceTime", &io.service_time),
        ("waitTime", &io.wait_time),
        ("merged", &io.merged),
        ("time", &io.time),
        ("sectors", &io.sectors),
    ];
    let entries = lists.iter().flat_map(|(figure, list)| list.iter().map(move |entry| (*figure, entry)));
    let mut to = to.init_io(entries.clone().count() as u32);
    for (index, (figure, entry)) in (0..).zip(entries) {
        let mut to = to.reborrow().get(index);
        to.set_figure(figure);
        to.set_major(entry.major as u32);
        to.set_minor(entry.minor as u32);
        to.set_operation(&entry.operation);
        to.set_value(entry.value);
    }
}

fn put_pressure_stats(mut to: schema::pressure_stats::Builder<'_>, from: &PressureStats) {
    if let Some(pressure) = &from.cpu {
        put_pressure(to.reborrow().init_cpu(), pressure);
    }
    if let Some(pressure) = &from.memory {
        put_pressure(to.reborrow().init_memory(), pressure);
    }
    if let Some(pressure) = &from.io {
        put_pressure(to.init_io(), pressure);
    }
}

fn put_pressure(mut to: schema::pressure::Builder<'_>, from: &Pressure) {
    put_stall(to.reborrow().init_some(), &from.some);
    put_stall(to.init_full(), &from.full);
}

fn put_stall(mut to: schema::stall::Builder<'_>, from: &Stall) {
    to.set_avg10(from.avg10);
    to.set_avg60(from.avg60);
    to.set_avg300(from.avg300);
    to.set_total_us(from.total_us);
}
