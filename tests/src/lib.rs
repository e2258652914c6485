//! Worlds for tests: the [`lab`] of network namespaces, with the real binaries and real servers,
//! [`fuzz`], which throws bytes at what reads them, [`captured`], a controller in the wrong hands, and [`cuts`],
//! which cuts the power. Also what several tests read: the [`dashboards`].

pub mod captured;
pub mod cuts;
pub mod dashboards;
pub mod fuzz;
pub mod lab;
