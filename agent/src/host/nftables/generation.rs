//! The number of the kernel's ruleset, which every change of any table moves:
//! a cheap question, so that nobody need list tables to learn that nothing has changed.

use std::io;

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};

/// The number now, in the network namespace of the calling thread.
pub(super) fn read() -> io::Result<u32> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let protocol = SockProtocol::NetlinkNetFilter;
    let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)?;
    let kernel = NetlinkAddr::new(0, 0);
    let fd = std::os::fd::AsRawFd::as_raw_fd(&socket);
    sendto(fd, &request(), &kernel, MsgFlags::empty())?;
    let mut answer = [0; ANSWER_BYTES];
    // The kernel has answered before sendto returns.
    let length = recv(fd, &mut answer, MsgFlags::MSG_DONTWAIT)?;
    parse(&answer[..length]).ok_or_else(|| {
        io::Error::other("the kernel's answer to NFT_MSG_GETGEN holds no generation")
    })
}

/// `struct nlmsghdr` and `struct nfgenmsg` (linux/netlink.h, linux/netfilter/nfnetlink.h).
fn request() -> [u8; HEADER_BYTES] {
    let mut message = [0; HEADER_BYTES];
    message[0..4].copy_from_slice(&(HEADER_BYTES as u32).to_ne_bytes());
    message[4..6].copy_from_slice(&message_type(NFT_MSG_GETGEN).to_ne_bytes());
    message[6..8].copy_from_slice(&NLM_F_REQUEST.to_ne_bytes());
    message
}

/// The attribute `NFTA_GEN_ID` of an `NFT_MSG_NEWGEN`.
fn parse(answer: &[u8]) -> Option<u32> {
    let kind = u16::from_ne_bytes(answer.get(4..6)?.try_into().ok()?);
    if kind != message_type(NFT_MSG_NEWGEN) {
        return None;
    }
    let mut attributes = answer.get(HEADER_BYTES..)?;
    loop {
        let length = usize::from(u16::from_ne_bytes(attributes.get(0..2)?.try_into().ok()?));
        let name = u16::from_ne_bytes(attributes.get(2..4)?.try_into().ok()?);
        let value = attributes.get(4..length)?;
        if name == NFTA_GEN_ID {
            return Some(u32::from_be_bytes(value.try_into().ok()?));
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
}

fn message_type(message: u16) -> u16 {
    (NFNL_SUBSYS_NFTABLES << 8) | message
}

const HEADER_BYTES: usize = 20;
/// The answer has three small attributes.
const ANSWER_BYTES: usize = 256;
/// linux/netlink.h
const NLM_F_REQUEST: u16 = 1;
/// linux/netfilter/nfnetlink.h
const NFNL_SUBSYS_NFTABLES: u16 = 10;
/// linux/netfilter/nf_tables.h, `enum nf_tables_msg_types`.
const NFT_MSG_NEWGEN: u16 = 15;
const NFT_MSG_GETGEN: u16 = 16;
/// linux/netfilter/nf_tables.h, `enum nft_gen_attributes`.
const NFTA_GEN_ID: u16 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_is_cut_or_of_another_kind_is_no_generation() {
        let mut answer = request().to_vec();
        answer[4..6].copy_from_slice(&message_type(NFT_MSG_NEWGEN).to_ne_bytes());
        answer.extend_from_slice(&[8, 0, 2, 0, 9, 9, 9, 9]);
        answer.extend_from_slice(&[8, 0, 1, 0, 0, 0, 1, 2]);
        assert_eq!(parse(&answer), Some(258));
        for length in 0..answer.len() {
            assert_eq!(parse(&answer[..length]), None, "{length}");
        }
        assert_eq!(parse(&request()), None);
        let endless = [&answer[..HEADER_BYTES], &[0, 0, 2, 0, 0, 0, 0, 0]].concat();
        assert_eq!(parse(&endless), None);
    }
}
