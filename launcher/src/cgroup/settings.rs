//! What `linux.resources` means in files, on either version of cgroups. Nothing here touches the machine.
//!
//! Values for cgroup v1 are converted for v2 as runc and crun do; see [`weight_of_shares`], [`io_weight`] and [`v2_swap`].
//! Zero and `-1` mean what Go's runtimes mean by them: zero is "not set", except for `pids.limit` (one) and `memory.swappiness`,
//! and `-1` is "no limit".

use std::fmt::Display;

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxNetwork, LinuxResources, LinuxThrottleDevice};

use super::{LimitError, Version};

/// One value for one file of a controller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The field of config.json, without `linux.resources.`.
    pub field: String,
    /// The controller whose directory has the file; `cgroup` for the files that every v2 directory has.
    pub controller: String,
    /// The file's name.
    pub file: String,
    /// What is written.
    pub value: String,
    /// Another file and its value, for when the kernel is without the first.
    pub instead: Option<(String, String)>,
    /// The kernel may be without this file; then nothing is written.
    pub optional: bool,
}

impl Setting {
    /// Zero, `-1` and `max` are what cgroups begin with and what Go writes for "not set".
    pub(super) fn asks_for_nothing(&self) -> bool {
        match self.file.as_str() {
            "cpu.shares" => self.value == "1024",
            "cpu.weight" => self.value == "100",
            "cpu.idle" | "memory.oom_control" => self.value == "0",
            _ => matches!(self.value.as_str(), "max" | "-1"),
        }
    }
}

fn wrong<T>(field: &str, problem: impl Display) -> Result<T, LimitError> {
    Err(LimitError::new(field, problem))
}

/// Collects settings, in the order in which they are to be written.
struct Settings<'a> {
    /// The version of the hierarchy that has a controller.
    version: &'a dyn Fn(&str) -> Version,
    list: Vec<Setting>,
}

/// All settings of a configuration but its device rules. `version` tells which kind of hierarchy has a controller.
///
/// # Errors
/// A value that makes no sense, or none on this version of cgroups.
pub fn settings(resources: &LinuxResources, version: &dyn Fn(&str) -> Version) -> Result<Vec<Setting>, LimitError> {
    let mut all = Settings { version, list: Vec::new() };
    if let Some(cpu) = resources.cpu() {
        all.cpu(cpu)?;
        all.cpuset(cpu);
    }
    if let Some(memory) = resources.memory() {
        all.memory(memory)?;
    }
    if let Some(pids) = resources.pids() {
        // A limit of none at all is one: the container's own process is there already (runc 1.4).
        let processes = if pids.limit() == 0 { 1 } else { pids.limit() };
        all.add("pids.limit", "pids", "pids.max", limit(processes, "max"));
    }
    if let Some(block_io) = resources.block_io() {
        all.block_io(block_io)?;
    }
    for (i, huge) in resources.hugepage_limits().iter().flatten().enumerate() {
        all.hugepages(&format!("hugepageLimits[{i}]"), huge.page_size(), huge.limit())?;
    }
    if let Some(network) = resources.network() {
        all.network(network)?;
    }
    let mut devices: Vec<_> = resources.rdma().iter().flatten().collect();
    devices.sort_by_key(|(name, _)| *name);
    for (name, rdma) in devices {
        let count = |count: Option<u32>| count.map_or_else(|| "max".to_owned(), |count| count.to_string());
        let (handles, objects) = (count(rdma.hca_handles()), count(rdma.hca_objects()));
        all.add(
            &format!("rdma.{name}"),
            "rdma",
            "rdma.max",
            format!("{name} hca_handle={handles} hca_object={objects}"),
        );
    }
    // Last: what is said in cgroup v2's own words goes before what was converted.
    let mut unified: Vec<_> = resources.unified().iter().flatten().collect();
    unified.sort();
    for (file, value) in unified {
        all.unified(file, value)?;
    }
    Ok(all.list)
}

impl Settings<'_> {
    fn is_v2(&self, controller: &str) -> bool {
        (self.version)(controller) == Version::V2
    }

    fn add(&mut self, field: &str, controller: &str, file: impl Into<String>, value: impl ToString) {
        let (field, controller, file) = (field.to_owned(), controller.to_owned(), file.into());
        self.list.push(Setting { field, controller, file, value: value.to_string(), instead: None, optional: false });
    }

    /// The setting that was added last.
    fn last(&mut self) -> &mut Setting {
        let last = self.list.len() - 1;
        &mut self.list[last]
    }

    fn v1_only(&self, field: &str, controller: &str) -> Result<(), LimitError> {
        if self.is_v2(controller) { wrong(field, "cgroup v2 has no such limit") } else { Ok(()) }
    }

    fn cpu(&mut self, cpu: &LinuxCpu) -> Result<(), LimitError> {
        let v2 = self.is_v2("cpu");
        if let Some(shares) = nonzero(cpu.shares()) {
            match v2 {
                true => self.add("cpu.shares", "cpu", "cpu.weight", weight_of_shares(shares)),
                false => self.add("cpu.shares", "cpu", "cpu.shares", shares),
            }
        }
        let (quota, period) = (nonzero(cpu.quota()), nonzero(cpu.period()));
        if v2 {
            if quota.is_some() || period.is_some() {
                let field = if quota.is_some() { "cpu.quota" } else { "cpu.period" };
                let period = period.map_or_else(String::new, |period| format!(" {period}"));
                self.add(field, "cpu", "cpu.max", limit(quota.unwrap_or(-1), "max") + &period);
            }
        } else {
            if let Some(period) = period {
                self.add("cpu.period", "cpu", "cpu.cfs_period_us", period);
            }
            if let Some(quota) = quota {
                self.add("cpu.quota", "cpu", "cpu.cfs_quota_us", quota.max(-1));
            }
        }
        if let Some(burst) = cpu.burst() {
            self.add("cpu.burst", "cpu", if v2 { "cpu.max.burst" } else { "cpu.cfs_burst_us" }, burst);
        }
        for (field, file, value) in [
            ("cpu.realtimePeriod", "cpu.rt_period_us", nonzero(cpu.realtime_period()).map(|n| n.to_string())),
            ("cpu.realtimeRuntime", "cpu.rt_runtime_us", nonzero(cpu.realtime_runtime()).map(|n| n.to_string())),
        ] {
            if let Some(value) = value {
                self.v1_only(field, "cpu")?;
                self.add(field, "cpu", file, value);
            }
        }
        if let Some(idle) = cpu.idle() {
            self.add("cpu.idle", "cpu", "cpu.idle", idle);
        }
        Ok(())
    }

    fn cpuset(&mut self, cpu: &LinuxCpu) {
        for (field, file, list) in [("cpu.cpus", "cpuset.cpus", cpu.cpus()), ("cpu.mems", "cpuset.mems", cpu.mems())] {
            if let Some(list) = list.as_ref().filter(|list| !list.is_empty()) {
                self.add(field, "cpuset", file, list);
            }
        }
    }

    fn memory(&mut self, memory: &LinuxMemory) -> Result<(), LimitError> {
        for (field, value) in [
            ("memory.limit", memory.limit()),
            ("memory.reservation", memory.reservation()),
            ("memory.swap", memory.swap()),
            ("memory.kernel", memory.kernel()),
            ("memory.kernelTCP", memory.kernel_tcp()),
        ] {
            if value.is_some_and(|value| value < -1) {
                return wrong(field, "must be -1 (no limit) or a number of bytes");
            }
        }
        if memory.swappiness().is_some_and(|swappiness| swappiness > 100) {
            return wrong("memory.swappiness", "must be from 0 to 100");
        }
        let (limit, swap) = (nonzero(memory.limit()), nonzero(memory.swap()));
        match self.is_v2("memory") {
            true => self.memory_v2(memory, limit, swap),
            false => {
                self.memory_v1(memory, limit, swap);
                Ok(())
            }
        }
    }

    fn memory_v2(&mut self, memory: &LinuxMemory, max: Option<i64>, swap: Option<i64>) -> Result<(), LimitError> {
        for (field, asked) in [
            ("memory.kernelTCP", nonzero(memory.kernel_tcp()).is_some()),
            ("memory.swappiness", memory.swappiness().is_some()),
            ("memory.disableOOMKiller", memory.disable_oom_killer() == Some(true)),
        ] {
            if asked {
                self.v1_only(field, "memory")?;
            }
        }
        if let Some(swap) = v2_swap(swap, max)? {
            self.add("memory.swap", "memory", "memory.swap.max", limit(swap, "max"));
            self.last().optional = swap < 0;
        }
        if let Some(max) = max {
            self.add("memory.limit", "memory", "memory.max", limit(max, "max"));
        }
        if let Some(low) = nonzero(memory.reservation()) {
            self.add("memory.reservation", "memory", "memory.low", limit(low, "max"));
        }
        Ok(())
    }

    fn memory_v1(&mut self, memory: &LinuxMemory, limit: Option<i64>, swap: Option<i64>) {
        if memory.use_hierarchy() == Some(true) {
            self.add("memory.useHierarchy", "memory", "memory.use_hierarchy", 1);
        }
        // Without a limit there is none for memory and swap together either (memory.rst, 2.4).
        let swap = if limit == Some(-1) { swap.or(Some(-1)) } else { swap };
        for (field, file, value) in [
            ("memory.limit", "memory.limit_in_bytes", limit),
            ("memory.swap", "memory.memsw.limit_in_bytes", swap),
            ("memory.reservation", "memory.soft_limit_in_bytes", nonzero(memory.reservation())),
            ("memory.kernelTCP", "memory.kmem.tcp.limit_in_bytes", nonzero(memory.kernel_tcp())),
        ] {
            if let Some(value) = value {
                self.add(field, "memory", file, value);
                // Without swap accounting there is no such file, and nothing to lift.
                self.last().optional = file.contains("memsw") && value < 0;
            }
        }
        if let Some(swappiness) = memory.swappiness() {
            self.add("memory.swappiness", "memory", "memory.swappiness", swappiness);
        }
        if let Some(disable) = memory.disable_oom_killer() {
            self.add("memory.disableOOMKiller", "memory", "memory.oom_control", u8::from(disable));
        }
    }

    fn block_io(&mut self, block_io: &LinuxBlockIo) -> Result<(), LimitError> {
        let (v2, controller) = if self.is_v2("io") && !self.has_v1_blkio() { (true, "io") } else { (false, "blkio") };
        for (field, weight) in [("blockIO.weight", block_io.weight()), ("blockIO.leafWeight", block_io.leaf_weight())] {
            if nonzero(weight).is_some_and(|weight| !(10..=1000).contains(&weight)) {
                return wrong(field, "must be from 10 to 1000");
            }
        }
        if let Some(weight) = nonzero(block_io.weight()) {
            // The weights of the BFQ scheduler, where the kernel has no others.
            match v2 {
                true => self.add("blockIO.weight", controller, "io.weight", io_weight(weight)),
                false => self.add("blockIO.weight", controller, "blkio.weight", weight),
            }
            let bfq = if v2 { "io.bfq.weight" } else { "blkio.bfq.weight" };
            self.last().instead = Some((bfq.to_owned(), weight.to_string()));
        }
        if let Some(weight) = nonzero(block_io.leaf_weight()) {
            self.v1_only("blockIO.leafWeight", controller)?;
            self.add("blockIO.leafWeight", controller, "blkio.leaf_weight", weight);
        }
        for (i, device) in block_io.weight_device().iter().flatten().enumerate() {
            let (field, number) = (format!("blockIO.weightDevice[{i}]"), (device.major(), device.minor()));
            if let Some(weight) = nonzero(device.weight()) {
                let (file, value) = match v2 {
                    true => ("io.weight", io_weight(weight)),
                    false => ("blkio.weight_device", u64::from(weight)),
                };
                self.add(&field, controller, file, format!("{}:{} {value}", number.0, number.1));
                let bfq = if v2 { "io.bfq.weight" } else { "blkio.bfq.weight_device" };
                self.last().instead = Some((bfq.to_owned(), format!("{}:{} {weight}", number.0, number.1)));
            }
            if let Some(weight) = nonzero(device.leaf_weight()) {
                self.v1_only(&field, controller)?;
                self.add(&field, controller, "blkio.leaf_weight_device", format!("{}:{} {weight}", number.0, number.1));
            }
        }
        self.throttle("throttleReadBpsDevice", block_io.throttle_read_bps_device(), v2, "rbps", "read_bps_device");
        self.throttle("throttleWriteBpsDevice", block_io.throttle_write_bps_device(), v2, "wbps", "write_bps_device");
        self.throttle("throttleReadIOPSDevice", block_io.throttle_read_iops_device(), v2, "riops", "read_iops_device");
        self.throttle(
            "throttleWriteIOPSDevice",
            block_io.throttle_write_iops_device(),
            v2,
            "wiops",
            "write_iops_device",
        );
        Ok(())
    }

    fn has_v1_blkio(&self) -> bool {
        !self.is_v2("blkio")
    }

    fn throttle(&mut self, name: &str, devices: &Option<Vec<LinuxThrottleDevice>>, v2: bool, key: &str, file: &str) {
        for (i, device) in devices.iter().flatten().enumerate() {
            let (field, major, minor) = (format!("blockIO.{name}[{i}]"), device.major(), device.minor());
            match v2 {
                true => self.add(&field, "io", "io.max", format!("{major}:{minor} {key}={}", limit_u64(device.rate()))),
                false => {
                    let file = format!("blkio.throttle.{file}");
                    self.add(&field, "blkio", file, format!("{major}:{minor} {}", device.rate()));
                }
            }
        }
    }

    fn hugepages(&mut self, field: &str, size: &str, bytes: i64) -> Result<(), LimitError> {
        let unit = size.trim_start_matches(|c: char| c.is_ascii_digit());
        if unit.len() == size.len() || !matches!(unit, "KB" | "MB" | "GB") {
            return wrong(&format!("{field}.pageSize"), format!("{size:?} is no page size such as 2MB"));
        }
        let (suffix, no_limit) = if self.is_v2("hugetlb") { ("max", "max") } else { ("limit_in_bytes", "-1") };
        let value = limit(bytes, no_limit);
        self.add(field, "hugetlb", format!("hugetlb.{size}.{suffix}"), &value);
        // Limits reservations too, where the kernel can (Linux 5.7), as runc does.
        self.add(field, "hugetlb", format!("hugetlb.{size}.rsvd.{suffix}"), value);
        self.last().optional = true;
        Ok(())
    }

    fn network(&mut self, network: &LinuxNetwork) -> Result<(), LimitError> {
        if let Some(class) = nonzero(network.class_id()) {
            self.v1_only("network.classID", "net_cls")?;
            self.add("network.classID", "net_cls", "net_cls.classid", class);
        }
        for (i, priority) in network.priorities().iter().flatten().enumerate() {
            let field = format!("network.priorities[{i}]");
            self.v1_only(&field, "net_prio")?;
            self.add(&field, "net_prio", "net_prio.ifpriomap", format!("{} {}", priority.name(), priority.priority()));
        }
        Ok(())
    }

    fn unified(&mut self, file: &str, value: &str) -> Result<(), LimitError> {
        let field = format!("unified.{file}");
        let Some((controller, _)) = file.split_once('.').filter(|_| !file.contains('/')) else {
            return wrong(&field, "is no file of a cgroup, such as memory.high");
        };
        if controller != "cgroup" && !self.is_v2(controller) {
            return wrong(&field, "invalid configuration: the controller is not on cgroup v2");
        }
        self.add(&field, controller, file, value);
        Ok(())
    }
}

fn nonzero<T: Default + PartialEq>(value: Option<T>) -> Option<T> {
    value.filter(|value| *value != T::default())
}

/// A limit as the files have it.
fn limit(value: i64, none: &str) -> String {
    if value < 0 { none.to_owned() } else { value.to_string() }
}

fn limit_u64(value: u64) -> String {
    if value == 0 { "max".to_owned() } else { value.to_string() }
}

/// cgroup v1's `cpu.shares` (2 to 262,144, by default 1,024) as v2's `cpu.weight` (1 to 10,000, by default 100): 10 to the
/// power of (l² + 125 l) / 612 - 7 / 34, where l is the shares' binary logarithm. It maps least to least, default to default
/// and most to most (runc 1.3.2, crun 1.23).
#[must_use]
pub fn weight_of_shares(shares: u64) -> u64 {
    match shares {
        ..=2 => 1,
        262_144.. => 10_000,
        _ => {
            let l = (shares as f64).log2();
            10_f64.powf((l * l + 125.0 * l) / 612.0 - 7.0 / 34.0).ceil() as u64
        }
    }
}

/// cgroup v1's block weight (10 to 1,000) as v2's `io.weight` (1 to 10,000): 1 + (weight - 10) * 9999 / 990 (runc, crun).
#[must_use]
pub fn io_weight(weight: u16) -> u64 {
    1 + u64::from(weight.saturating_sub(10)) * 9999 / 990
}

/// cgroup v1 limits memory and swap together, v2 swap alone: the difference.
fn v2_swap(swap: Option<i64>, limit: Option<i64>) -> Result<Option<i64>, LimitError> {
    match (swap, limit) {
        // Without a limit on memory there is none on swap.
        (None, Some(-1)) | (Some(-1), _) => Ok(Some(-1)),
        (None, _) => Ok(None),
        (Some(_), None | Some(-1)) => wrong("memory.swap", "needs memory.limit"),
        (Some(swap), Some(limit)) if swap < limit => wrong("memory.swap", "must not be less than memory.limit"),
        (Some(swap), Some(limit)) => Ok(Some(swap - limit)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(json: &str, version: Version) -> Result<Vec<String>, String> {
        let resources: LinuxResources = serde_json::from_str(json).unwrap();
        let all = settings(&resources, &|_| version).map_err(|error| error.to_string())?;
        Ok(all
            .into_iter()
            .map(|setting| format!("{} {}={}", setting.controller, setting.file, setting.value))
            .collect())
    }

    #[test]
    fn every_resource_has_its_files_on_both_versions() {
        for (json, v1, v2) in [
            (r#"{"cpu":{"shares":1024}}"#, "cpu cpu.shares=1024", "cpu cpu.weight=100"),
            (r#"{"cpu":{"quota":5000}}"#, "cpu cpu.cfs_quota_us=5000", "cpu cpu.max=5000"),
            (
                r#"{"cpu":{"quota":-1,"period":7000}}"#,
                "cpu cpu.cfs_period_us=7000|cpu cpu.cfs_quota_us=-1",
                "cpu cpu.max=max 7000",
            ),
            (r#"{"cpu":{"burst":9}}"#, "cpu cpu.cfs_burst_us=9", "cpu cpu.max.burst=9"),
            (r#"{"cpu":{"idle":1}}"#, "cpu cpu.idle=1", "cpu cpu.idle=1"),
            (
                r#"{"cpu":{"cpus":"0-1","mems":"0"}}"#,
                "cpuset cpuset.cpus=0-1|cpuset cpuset.mems=0",
                "cpuset cpuset.cpus=0-1|cpuset cpuset.mems=0",
            ),
            (
                r#"{"memory":{"limit":100,"swap":150,"reservation":50}}"#,
                "memory memory.limit_in_bytes=100|memory memory.memsw.limit_in_bytes=150|memory memory.soft_limit_in_bytes=50",
                "memory memory.swap.max=50|memory memory.max=100|memory memory.low=50",
            ),
            (
                r#"{"memory":{"limit":-1}}"#,
                "memory memory.limit_in_bytes=-1|memory memory.memsw.limit_in_bytes=-1",
                "memory memory.swap.max=max|memory memory.max=max",
            ),
            (r#"{"pids":{"limit":0}}"#, "pids pids.max=1", "pids pids.max=1"),
            (r#"{"pids":{"limit":-1}}"#, "pids pids.max=max", "pids pids.max=max"),
            (r#"{"blockIO":{"weight":1000}}"#, "blkio blkio.weight=1000", "io io.weight=10000"),
            (
                r#"{"blockIO":{"throttleReadBpsDevice":[{"major":8,"minor":1,"rate":7}]}}"#,
                "blkio blkio.throttle.read_bps_device=8:1 7",
                "io io.max=8:1 rbps=7",
            ),
            (
                r#"{"hugepageLimits":[{"pageSize":"2MB","limit":9}]}"#,
                "hugetlb hugetlb.2MB.limit_in_bytes=9|hugetlb hugetlb.2MB.rsvd.limit_in_bytes=9",
                "hugetlb hugetlb.2MB.max=9|hugetlb hugetlb.2MB.rsvd.max=9",
            ),
            (
                r#"{"rdma":{"m":{"hcaHandles":2}}}"#,
                "rdma rdma.max=m hca_handle=2 hca_object=max",
                "rdma rdma.max=m hca_handle=2 hca_object=max",
            ),
            (r#"{"memory":{"limit":0,"swap":0},"cpu":{"quota":0}}"#, "", ""),
        ] {
            assert_eq!(list(json, Version::V1).unwrap().join("|"), v1, "{json} on v1");
            assert_eq!(list(json, Version::V2).unwrap().join("|"), v2, "{json} on v2");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_name() {
        for (json, version, message) in [
            (r#"{"memory":{"swap":9}}"#, Version::V2, "memory.swap: needs memory.limit"),
            (r#"{"memory":{"limit":9,"swap":8}}"#, Version::V2, "memory.swap: must not be less than memory.limit"),
            (r#"{"memory":{"limit":-2}}"#, Version::V1, "memory.limit: must be -1 (no limit) or a number of bytes"),
            (r#"{"memory":{"swappiness":101}}"#, Version::V1, "memory.swappiness: must be from 0 to 100"),
            (r#"{"memory":{"swappiness":1}}"#, Version::V2, "memory.swappiness: cgroup v2 has no such limit"),
            (r#"{"cpu":{"realtimeRuntime":1}}"#, Version::V2, "cpu.realtimeRuntime: cgroup v2 has no such limit"),
            (r#"{"blockIO":{"weight":5}}"#, Version::V1, "blockIO.weight: must be from 10 to 1000"),
            (r#"{"network":{"classID":5}}"#, Version::V2, "network.classID: cgroup v2 has no such limit"),
            (r#"{"unified":{"a/b.c":"1"}}"#, Version::V2, "unified.a/b.c: is no file of a cgroup, such as memory.high"),
            (
                r#"{"unified":{"memory.high":"1"}}"#,
                Version::V1,
                "unified.memory.high: invalid configuration: the controller is not on cgroup v2",
            ),
            (
                r#"{"hugepageLimits":[{"pageSize":"2 MB","limit":1}]}"#,
                Version::V2,
                r#"hugepageLimits[0].pageSize: "2 MB" is no page size such as 2MB"#,
            ),
        ] {
            assert_eq!(list(json, version).unwrap_err(), format!("linux.resources.{message}"), "{json}");
        }
    }

    #[test]
    fn conversions_keep_the_ends_and_the_default() {
        assert_eq!([1, 2, 1024, 262_144, u64::MAX].map(weight_of_shares), [1, 1, 100, 10_000, 10_000]);
        assert_eq!([10, 100, 1000].map(io_weight), [1, 910, 10_000]);
    }
}
