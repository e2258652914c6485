//! Every limit of quinn, set. Its defaults are generous to strangers.

use std::sync::Arc;
use std::time::Duration;

use quinn::{IdleTimeout, TransportConfig, VarInt};

/// Who sends the keep-alives that hold a NAT mapping and detect silence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeepAlive {
    /// This side, at this interval.
    Every(Duration),
    /// The other side.
    Never,
}

/// Transport limits of a control session or a link: one bidirectional stream of frames, small datagrams.
///
/// - One stream: nothing in either protocol opens a second.
/// - Receive windows of 4 MiB: four of the largest frames.
/// - Datagram buffers of 64 KiB: probes are 17 bytes, older ones may be dropped.
/// - An MTU of 1200 to begin with (RFC 9000 section 14), searched up to 1452.
pub fn transport(idle: Duration, keep_alive: KeepAlive) -> Arc<TransportConfig> {
    let mut config = TransportConfig::default();
    config
        .max_concurrent_bidi_streams(VarInt::from_u32(1))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(VarInt::from_u32(4 << 20))
        .receive_window(VarInt::from_u32(4 << 20))
        .send_window(4 << 20)
        .datagram_receive_buffer_size(Some(64 << 10))
        .datagram_send_buffer_size(64 << 10)
        .max_idle_timeout(Some(idle_timeout(idle)))
        .keep_alive_interval(match keep_alive {
            KeepAlive::Every(interval) => Some(interval),
            KeepAlive::Never => None,
        });
    Arc::new(config)
}

/// Bounds what strangers can make a listener hold: 1,024 handshakes under way and 8 MiB of early data for all.
pub fn listener(config: &mut quinn::ServerConfig) {
    config
        .max_incoming(1024)
        .incoming_buffer_size(64 << 10)
        .incoming_buffer_size_total(8 << 20)
        .migration(true);
}

fn idle_timeout(idle: Duration) -> IdleTimeout {
    let millis = u32::try_from(idle.as_millis()).unwrap_or(u32::MAX);
    VarInt::from_u32(millis).into()
}
