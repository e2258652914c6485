//! Sockets that the service manager opened for us (sd_listen_fds(3)): port 443 without a capability.

use std::net::UdpSocket;

use anyhow::{Context as _, bail};
use listenfd::ListenFd;

/// The UDP sockets that were passed; none if the program was started by hand.
pub fn sockets() -> anyhow::Result<Vec<UdpSocket>> {
    let mut passed = ListenFd::from_env();
    let mut sockets = Vec::new();
    for index in 0..passed.len() {
        let socket = passed.take_udp_socket(index).with_context(|| {
            format!("socket {index} from the service manager is no UDP socket: use ListenDatagram= in pnsbox-controller.socket")
        })?;
        match socket {
            Some(socket) => sockets.push(socket),
            None => bail!("socket {index} from the service manager was taken twice"),
        }
    }
    Ok(sockets)
}
