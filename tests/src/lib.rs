//! Worlds for tests: the [`lab`] of network namespaces, with the real binaries and real servers,
//! and [`fuzz`], which throws bytes at what reads them. Also what several tests read: the [`dashboards`].

pub mod dashboards;
pub mod fuzz;
pub mod lab;
