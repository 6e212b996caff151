//! What the cloning process does for a child that waits: all that takes privileges which the child lost with its user
//! namespace, and what reaches into the host's network namespace.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::netlink::{Link, Netlink};
use crate::plan::{IdMaps, NetDevice, Plan};
use crate::spawn::{SpawnError, failed};
use crate::sys;

/// Longest map that is read back: 340 lines (`UID_GID_MAP_MAX_EXTENTS`) of three numbers.
const MAP_BYTES_MAX: usize = 340 * 33;

/// Does the parent's half of a plan for the child `pid`; `proc` is our own `/proc`.
pub(crate) fn half(proc: &OwnedFd, pid: i32, plan: &Plan) -> Result<(), SpawnError> {
    let child = Child { proc, pid };
    if let Some(maps) = &plan.id_maps {
        if plan.user_namespace.is_some() { child.compare(maps)? } else { child.map(maps)? }
    }
    if let Some(value) = plan.oom_score_adj {
        child.write("oom_score_adj", value.to_string().as_bytes(), "process.oomScoreAdj")?;
    }
    for limit in &plan.rlimits {
        sys::set_rlimit_of(pid, limit).map_err(failed("process.rlimits"))?;
    }
    if plan.net_devices.is_empty() { Ok(()) } else { child.move_devices(&plan.net_devices) }
}

struct Child<'a> {
    proc: &'a OwnedFd,
    pid: i32,
}

impl Child<'_> {
    fn map(&self, maps: &IdMaps) -> Result<(), SpawnError> {
        self.write("uid_map", &maps.uid_map, "linux.uidMappings: write uid_map")?;
        self.write("gid_map", &maps.gid_map, "linux.gidMappings: write gid_map")
    }

    /// As runc: containerd and CRI-O give the mappings of the namespace that they want joined, and others would be
    /// misunderstood.
    fn compare(&self, maps: &IdMaps) -> Result<(), SpawnError> {
        for (field, file, wanted) in
            [("linux.uidMappings", "uid_map", &maps.uid_map), ("linux.gidMappings", "gid_map", &maps.gid_map)]
        {
            let found = self.read(file).map_err(failed("read the identity maps of the user namespace"))?;
            if !wanted.is_empty() && lines(wanted) != lines(&found) {
                let what = format!("{field}: not those of the user namespace that linux.namespaces has joined");
                return Err(SpawnError::new(what, Errno::INVAL));
            }
        }
        Ok(())
    }

    /// Moves devices from our network namespace into the child's, as runc: under their new names, with their addresses, and
    /// up (runtime-spec, config-linux, "Network Devices").
    fn move_devices(&self, devices: &[NetDevice]) -> Result<(), SpawnError> {
        let prepare = || -> Result<_, Errno> {
            let theirs = self.open(&format!("{}/ns/net", self.pid))?;
            let (ours, here) = (self.open("self/ns/net")?, Netlink::open()?);
            // A socket belongs to the namespace in which it was opened.
            sys::setns(theirs.as_fd(), libc::CLONE_NEWNET)?;
            let there = Netlink::open();
            sys::setns(ours.as_fd(), libc::CLONE_NEWNET)?;
            Ok((theirs, here, there?))
        };
        let (theirs, here, there) = prepare().map_err(failed("linux.netDevices: the container's network namespace"))?;
        for NetDevice { name, new_name } in devices {
            let failed = |what: &'static str| {
                move |errno| SpawnError::new(format!("linux.netDevices.{}: {what}", name.to_string_lossy()), errno)
            };
            let Link { index, up } = here.find(name.to_bytes()).map_err(failed("find the device"))?;
            let addresses = here.addresses(index).map_err(failed("list its addresses"))?;
            // A device that is up cannot be renamed.
            here.set_up(index, false).map_err(failed("set it down"))?;
            let namespace = theirs.as_raw_fd() as u32;
            here.move_to(index, namespace, new_name.to_bytes()).map_err(|errno| {
                // It stays with us, as it was.
                let _ = if up { here.set_up(index, true) } else { Ok(()) };
                failed("move it")(errno)
            })?;
            let Link { index, .. } = there.find(new_name.to_bytes()).map_err(failed("find it in the container"))?;
            for address in &addresses {
                there.add_address(index, address).map_err(failed("give it its address again"))?;
            }
            there.set_up(index, true).map_err(failed("set it up"))?;
        }
        Ok(())
    }

    fn open(&self, path: &str) -> Result<OwnedFd, Errno> {
        rustix::fs::openat(self.proc, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
    }

    fn read(&self, file: &str) -> Result<Vec<u8>, Errno> {
        let file = self.open(&format!("{}/{file}", self.pid))?;
        let mut bytes = vec![0; MAP_BYTES_MAX];
        let length = rustix::io::read(&file, &mut bytes)?;
        bytes.truncate(length);
        Ok(bytes)
    }

    fn write(&self, file: &str, bytes: &[u8], what: &'static str) -> Result<(), SpawnError> {
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(self.proc, format!("{}/{file}", self.pid), flags, Mode::empty());
        rustix::io::write(&file.map_err(failed(what))?, bytes).map(drop).map_err(failed(what))
    }
}

/// The lines of a map in an order of their own, with their blanks evened out: the kernel aligns its columns.
fn lines(map: &[u8]) -> Vec<Vec<u32>> {
    let text = String::from_utf8_lossy(map);
    let numbers = |line: &str| line.split_ascii_whitespace().filter_map(|number| number.parse().ok()).collect();
    let mut lines: Vec<Vec<u32>> = text.lines().map(numbers).collect();
    lines.sort_unstable();
    lines
}

#[cfg(test)]
mod tests {
    use super::lines;

    #[test]
    fn maps_are_compared_by_their_numbers() {
        let kernels = b"         0     100000      65536\n     65536       1000          1\n";
        assert_eq!(lines(kernels), lines(b"65536 1000 1\n0 100000 65536\n"));
        assert_ne!(lines(kernels), lines(b"0 100000 65536\n"));
    }
}
