//! Programs that `scripts/bench.sh` needs beside ours: a bare data plane as a hub, and a load of many peers on it.
//! They do as they are told, line by line; what is measured, and when, is decided in `scripts/bench/hub.py`.

mod commands;
mod handshake;
mod hub;
mod inner;
mod load;
mod member;

use std::net::SocketAddr;

use clap::Parser;

/// Each reads commands from standard input, one a line, and answers each with one line of JSON.
#[derive(Debug, Parser)]
#[command(name = "pnsbox-bench", version)]
enum Program {
    /// A data plane without an agent. Commands: `peers N`, `counters`
    Hub {
        /// The TUN interface to make
        interface: String,
        /// The UDP port to listen on
        port: u16,
        /// MTU of the interface, in bytes
        mtu: u16,
    },
    /// Many peers of a hub, in one thread. Commands: `handshake N`, `send N SECONDS`
    Load {
        /// Where the hub listens
        hub: SocketAddr,
        /// Bytes of an inner packet
        packet: u16,
    },
}

fn main() -> anyhow::Result<()> {
    match Program::parse() {
        Program::Hub {
            interface,
            port,
            mtu,
        } => commands::serve(&mut hub::Hub::start(&interface, port, mtu)?),
        Program::Load { hub, packet } => commands::serve(&mut load::Load::new(hub, packet)?),
    }
}
