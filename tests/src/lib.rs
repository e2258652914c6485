//! Worlds for tests. So far one: the [`lab`] of network namespaces, with the real binaries and real servers.

pub mod lab;
