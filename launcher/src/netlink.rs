//! The few words of rtnetlink(7) that moving a network device takes, on a blocking socket.
//!
//! Numbers are in the machine's byte order; attributes begin at multiples of four bytes (netlink(7)).

use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

const HEADER_LEN: usize = 16;
/// `struct ifinfomsg`
const LINK_LEN: usize = 16;
/// `struct ifaddrmsg`
const ADDRESS_LEN: usize = 8;
/// More than the kernel sends at once (`NLMSG_GOODSIZE`, and 32 KiB for dumps).
const BUFFER_BYTES: usize = 64 * 1024;
/// The attributes of an address that are its own; the rest follow from them.
const KEPT_ATTRIBUTES: [u16; 3] = [libc::IFA_ADDRESS, libc::IFA_LOCAL, libc::IFA_BROADCAST];

/// A socket in the network namespace in which it was opened.
pub(crate) struct Netlink(OwnedFd);

/// A device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    /// In its network namespace.
    pub index: u32,
    /// Whether it is set up.
    pub up: bool,
}

/// An address of a device, as it is added again: `struct ifaddrmsg` and attributes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    family: u8,
    prefix_len: u8,
    attributes: Vec<(u16, Vec<u8>)>,
}

impl Netlink {
    pub(crate) fn open() -> Result<Netlink, Errno> {
        // No protocol is number 0, which is NETLINK_ROUTE.
        rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None).map(Netlink)
    }

    /// The device of this name.
    pub(crate) fn find(&self, name: &[u8]) -> Result<Link, Errno> {
        let mut body = link(0, 0, 0);
        push(&mut body, libc::IFLA_IFNAME, &[name, &[0]].concat());
        let replies = self.ask(libc::RTM_GETLINK, libc::NLM_F_ACK, &body)?;
        let reply = replies.iter().find(|(kind, _)| *kind == libc::RTM_NEWLINK).ok_or(Errno::NODEV)?;
        let (index, flags) = (u32_at(&reply.1, 4), u32_at(&reply.1, 8));
        let (index, flags) = index.zip(flags).ok_or(Errno::PROTO)?;
        Ok(Link { index, up: flags & libc::IFF_UP as u32 != 0 })
    }

    /// Sets the device up or down.
    pub(crate) fn set_up(&self, index: u32, up: bool) -> Result<(), Errno> {
        let flag = libc::IFF_UP as u32;
        self.ask(libc::RTM_NEWLINK, libc::NLM_F_ACK, &link(index, if up { flag } else { 0 }, flag)).map(drop)
    }

    /// Moves the device into a network namespace, where it gets this name.
    pub(crate) fn move_to(&self, index: u32, namespace: u32, new_name: &[u8]) -> Result<(), Errno> {
        let mut body = link(index, 0, 0);
        push(&mut body, libc::IFLA_NET_NS_FD, &namespace.to_ne_bytes());
        push(&mut body, libc::IFLA_IFNAME, &[new_name, &[0]].concat());
        self.ask(libc::RTM_NEWLINK, libc::NLM_F_ACK, &body).map(drop)
    }

    /// The addresses of the device that somebody gave it and that hold everywhere.
    pub(crate) fn addresses(&self, index: u32) -> Result<Vec<Address>, Errno> {
        let replies = self.ask(libc::RTM_GETADDR, libc::NLM_F_DUMP, &[0; ADDRESS_LEN])?;
        let bodies = replies.iter().filter(|(kind, _)| *kind == libc::RTM_NEWADDR);
        Ok(bodies.filter_map(|(_, body)| Address::parse(body, index)).collect())
    }

    /// Gives the device an address.
    pub(crate) fn add_address(&self, index: u32, address: &Address) -> Result<(), Errno> {
        let flags = libc::NLM_F_ACK | libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
        self.ask(libc::RTM_NEWADDR, flags, &address.encode(index)).map(drop)
    }

    /// Sends a request and returns the answers, up to the acknowledgement or the end of the dump.
    fn ask(&self, kind: u16, flags: i32, body: &[u8]) -> Result<Vec<(u16, Vec<u8>)>, Errno> {
        let mut message = ((HEADER_LEN + body.len()) as u32).to_ne_bytes().to_vec();
        message.extend(kind.to_ne_bytes());
        message.extend(((flags | libc::NLM_F_REQUEST) as u16).to_ne_bytes());
        message.extend([0; 8]);
        message.extend(body);
        rustix::net::sendto(&self.0, &message, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
        let (mut replies, mut buffer) = (Vec::new(), vec![0; BUFFER_BYTES]);
        loop {
            let (length, _) = rustix::net::recv(&self.0, &mut buffer[..], RecvFlags::empty())?;
            let mut rest = buffer.get(..length).ok_or(Errno::PROTO)?;
            while let Some((kind, body, after)) = take_message(rest) {
                match i32::from(kind) {
                    libc::NLMSG_DONE => return Ok(replies),
                    libc::NLMSG_ERROR => {
                        return match u32_at(body, 0).ok_or(Errno::PROTO)? as i32 {
                            0 => Ok(replies),
                            error => Err(Errno::from_raw_os_error(-error)),
                        };
                    }
                    _ => replies.push((kind, body.to_vec())),
                }
                rest = after;
            }
        }
    }
}

impl Address {
    fn parse(body: &[u8], index: u32) -> Option<Address> {
        let (&[family, prefix_len, flags, scope], rest) = body.split_first_chunk::<4>()?;
        let (found, mut rest) = rest.split_first_chunk::<4>()?;
        let permanent = u32::from(flags) & libc::IFA_F_PERMANENT != 0;
        if u32::from_ne_bytes(*found) != index || scope != libc::RT_SCOPE_UNIVERSE || !permanent {
            return None;
        }
        let mut attributes = Vec::new();
        while let Some((kind, value, after)) = take_attribute(rest) {
            if KEPT_ATTRIBUTES.contains(&kind) {
                attributes.push((kind, value.to_vec()));
            }
            rest = after;
        }
        Some(Address { family, prefix_len, attributes })
    }

    fn encode(&self, index: u32) -> Vec<u8> {
        let mut body = vec![self.family, self.prefix_len, 0, libc::RT_SCOPE_UNIVERSE];
        body.extend(index.to_ne_bytes());
        for (kind, value) in &self.attributes {
            push(&mut body, *kind, value);
        }
        body
    }
}

/// `struct ifinfomsg`
fn link(index: u32, flags: u32, change: u32) -> Vec<u8> {
    let mut body = vec![0; 4];
    body.extend([index, flags, change].iter().flat_map(|number| number.to_ne_bytes()));
    debug_assert_eq!(body.len(), LINK_LEN);
    body
}

fn push(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    body.extend(((4 + value.len()) as u16).to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
    body.resize(body.len().next_multiple_of(4), 0);
}

/// The first attribute: its kind, its value, and what follows.
fn take_attribute(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<2>()?;
    let (kind, _) = rest.split_first_chunk::<2>()?;
    let length = usize::from(u16::from_ne_bytes(*length));
    let value = bytes.get(4..length)?;
    let after = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    // The two highest bits are flags (NLA_TYPE_MASK).
    Some((u16::from_ne_bytes(*kind) & 0x3fff, value, after))
}

/// The first message: its kind, its body, and what follows.
fn take_message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let (kind, _) = bytes.get(4..)?.split_first_chunk::<2>()?;
    let length = u32_at(bytes, 0)? as usize;
    let body = bytes.get(HEADER_LEN..length)?;
    Some((u16::from_ne_bytes(*kind), body, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.split_first_chunk::<4>().map(|(number, _)| u32::from_ne_bytes(*number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_comes_back_as_it_was_sent() {
        let attributes = vec![(libc::IFA_LOCAL, vec![10, 0, 0, 1]), (libc::IFA_ADDRESS, vec![10, 0, 0, 1])];
        let address = Address { family: libc::AF_INET as u8, prefix_len: 24, attributes };
        let mut body = address.encode(7);
        assert_eq!(Address::parse(&body, 7), None, "not permanent");
        body[2] = libc::IFA_F_PERMANENT as u8;
        assert_eq!(Address::parse(&body, 7), Some(address));
        assert_eq!(Address::parse(&body, 8), None);
    }

    #[test]
    fn broken_messages_have_no_end_that_is_missed() {
        for length in 0..20 {
            assert!(take_attribute(&vec![0; length]).is_none());
            assert!(take_message(&vec![0; length]).is_none());
            assert!(take_message(&vec![0xff; length]).is_none());
        }
    }

    #[test]
    fn the_loopback_device_is_the_first() {
        let netlink = Netlink::open().unwrap();
        assert_eq!(netlink.find(b"lo").map(|link| link.index), Ok(1));
        assert_eq!(netlink.find(b"no-such-device"), Err(Errno::NODEV));
    }
}
