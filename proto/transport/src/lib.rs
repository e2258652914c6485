//! QUIC as both programs use it: raw public keys instead of certificates, every limit set, framed messages.
//!
//! It knows how to prove and demand a key, not which keys are good: the caller decides, again for every connection.
//! It is not a protocol: what is said, and in which order, stands in `pnsbox_proto::message`.

pub mod framed;
pub mod limits;
pub mod raw_key;
pub mod tls;

pub use framed::{FramedError, FramedReceiver, FramedSender};
pub use tls::{AnyKey, KeyPolicy, OnlyKey, TlsError, client_config, peer_key, server_config};
