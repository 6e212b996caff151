//! bpf(2), as far as device programs need it.
//!
//! Every call passes a larger block of zeroes than the kernel reads: Linux 6.17 to 7.1 write their answer to
//! `BPF_PROG_QUERY` at an offset that callers who pass a shorter one do not own.

#![expect(unsafe_code, reason = "bpf(2) has no safe wrapper in rustix or nix")]

use std::ffi::c_long;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::io::Errno;

use super::ebpf::Instruction;

/// The name under which the kernel lists our programs, and by which we know them again.
pub(super) const NAME: [u8; 16] = *b"brood_devices\0\0\0";

/// The most programs that the kernel lets a cgroup have (`BPF_CGROUP_MAX_PROGS`).
const MOST_ATTACHED: usize = 64;

const PROG_LOAD: c_long = 5;
const PROG_ATTACH: c_long = 8;
const PROG_DETACH: c_long = 9;
const PROG_GET_FD_BY_ID: c_long = 13;
const OBJ_GET_INFO_BY_FD: c_long = 15;
const PROG_QUERY: c_long = 16;

const CGROUP_DEVICE_PROGRAM: u32 = 15; // BPF_PROG_TYPE_CGROUP_DEVICE
const CGROUP_DEVICE: u32 = 6; // the attach type, BPF_CGROUP_DEVICE
const ALLOW_MULTI: u32 = 2;
const REPLACE: u32 = 4;

/// `union bpf_attr` with the fields of one command, no padding among them, and zeroes.
#[repr(C, align(8))]
struct Attributes<T> {
    fields: T,
    zeroes: [u32; 64],
}

/// One command.
///
/// # Safety
/// The pointers among the fields are valid for what the command does with them.
unsafe fn bpf<T>(command: c_long, fields: T) -> Result<(c_long, T), Errno> {
    let mut attributes = Attributes { fields, zeroes: [0; 64] };
    // SAFETY: the block is as long as it is said to be and outlives the call; the caller vouches for what it points to.
    let returned = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut attributes, size_of::<Attributes<T>>()) };
    if returned < 0 {
        return Err(Errno::from_raw_os_error(nix::errno::Errno::last_raw()));
    }
    Ok((returned, attributes.fields))
}

/// # Safety
/// As [`bpf`], and the command returns a new descriptor (which is close-on-exec, as all of bpf(2)'s).
unsafe fn bpf_descriptor<T>(command: c_long, fields: T) -> Result<OwnedFd, Errno> {
    // SAFETY: as the caller says.
    let (descriptor, _) = unsafe { bpf(command, fields) }?;
    // SAFETY: a new descriptor that nobody else knows of.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor as RawFd) })
}

#[derive(Clone, Copy)]
#[repr(C)]
struct Load {
    program_type: u32,
    count: u32,
    instructions: u64,
    licence: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
}

/// Gives a program to the kernel under a name. With room for a log, the verifier's reason is written there.
///
/// # Errors
/// EPERM without the caps; EINVAL, EACCES and others from the verifier.
pub(super) fn load(program: &[Instruction], name: [u8; 16], log: &mut [u8]) -> Result<OwnedFd, Errno> {
    /// The verifier gives up when a signal comes.
    const TRIES: usize = 30;
    let fields = Load {
        program_type: CGROUP_DEVICE_PROGRAM,
        count: program.len() as u32,
        instructions: program.as_ptr() as u64,
        licence: c"Apache".as_ptr() as u64,
        log_level: u32::from(!log.is_empty()),
        log_size: log.len() as u32,
        log: if log.is_empty() { 0 } else { log.as_mut_ptr() as u64 },
        kernel_version: 0,
        flags: 0,
        name,
    };
    let mut result = Err(Errno::AGAIN);
    for _ in 0..TRIES {
        // SAFETY: pointers and lengths describe `program` and `log`; the licence is NUL-terminated.
        result = unsafe { bpf_descriptor(PROG_LOAD, fields) };
        if result.as_ref().err() != Some(&Errno::AGAIN) {
            break;
        }
    }
    result
}

#[repr(C)]
struct Attach {
    cgroup: RawFd,
    program: RawFd,
    attach_type: u32,
    flags: u32,
    replaced: RawFd,
    padding: u32,
}

/// Attaches a program, beside all others or, in one step, in place of one of them.
///
/// # Errors
/// ENOENT if the other one is not attached (any more); EPERM without the caps, or if a cgroup above forbids it.
pub(super) fn attach(
    cgroup: BorrowedFd<'_>,
    program: BorrowedFd<'_>,
    replaced: Option<BorrowedFd<'_>>,
) -> Result<(), Errno> {
    let fields = Attach {
        cgroup: cgroup.as_raw_fd(),
        program: program.as_raw_fd(),
        attach_type: CGROUP_DEVICE,
        flags: ALLOW_MULTI | if replaced.is_some() { REPLACE } else { 0 },
        replaced: replaced.map_or(0, |replaced| replaced.as_raw_fd()),
        padding: 0,
    };
    // SAFETY: no pointers.
    unsafe { bpf(PROG_ATTACH, fields) }.map(drop)
}

/// Detaches a program.
///
/// # Errors
/// ENOENT if it is not attached.
pub(super) fn detach(cgroup: BorrowedFd<'_>, program: BorrowedFd<'_>) -> Result<(), Errno> {
    let fields = Attach {
        cgroup: cgroup.as_raw_fd(),
        program: program.as_raw_fd(),
        attach_type: CGROUP_DEVICE,
        flags: 0,
        replaced: 0,
        padding: 0,
    };
    // SAFETY: no pointers.
    unsafe { bpf(PROG_DETACH, fields) }.map(drop)
}

#[repr(C)]
struct Query {
    cgroup: RawFd,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    ids: u64,
    count: u32,
    padding: u32,
}

/// The ids of the device programs that are attached to this cgroup itself.
///
/// # Errors
/// EPERM without the caps; EBADF for what is no directory of cgroup v2.
pub(super) fn attached(cgroup: BorrowedFd<'_>) -> Result<Vec<u32>, Errno> {
    let mut ids = vec![0_u32; MOST_ATTACHED];
    let fields = Query {
        cgroup: cgroup.as_raw_fd(),
        attach_type: CGROUP_DEVICE,
        query_flags: 0,
        attach_flags: 0,
        ids: ids.as_mut_ptr() as u64,
        count: ids.len() as u32,
        padding: 0,
    };
    // SAFETY: pointer and count describe `ids`.
    let (_, fields) = unsafe { bpf(PROG_QUERY, fields) }?;
    ids.truncate(fields.count as usize);
    Ok(ids)
}

/// The program of an id.
///
/// # Errors
/// ENOENT if it is gone; EPERM or EACCES without the caps.
pub(super) fn by_id(id: u32) -> Result<OwnedFd, Errno> {
    // SAFETY: no pointers.
    unsafe { bpf_descriptor(PROG_GET_FD_BY_ID, [id, 0]) }
}

/// The beginning of `struct bpf_prog_info`.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub(super) struct Info {
    program_type: u32,
    pub id: u32,
    unused: [u64; 7],
    pub name: [u8; 16],
}

#[repr(C)]
struct InfoQuery {
    program: RawFd,
    length: u32,
    info: u64,
}

/// Id and name of a program.
///
/// # Errors
/// As bpf(2).
pub(super) fn info(program: BorrowedFd<'_>) -> Result<Info, Errno> {
    let mut info = Info::default();
    let length = size_of::<Info>() as u32;
    let fields = InfoQuery { program: program.as_raw_fd(), length, info: (&raw mut info) as u64 };
    // SAFETY: pointer and length describe `info`, whose zeroes ask for no lists.
    unsafe { bpf(OBJ_GET_INFO_BY_FD, fields) }?;
    Ok(info)
}
