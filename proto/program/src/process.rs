//! CPU time, memory, file descriptors and start of this process, in the names that every exporter uses.

use prometheus::core::Collector as _;
use prometheus::process_collector::ProcessCollector;
use prometheus::proto::MetricFamily;

/// What the page shows of the process now.
pub fn families() -> impl Iterator<Item = MetricFamily> {
    let families = ProcessCollector::for_self().collect().into_iter();
    families.filter(|family| SHOWN.contains(&family.name()))
}

/// The others cost series and tell nobody anything.
const SHOWN: [&str; 5] = [
    "process_cpu_seconds_total",
    "process_max_fds",
    "process_open_fds",
    "process_resident_memory_bytes",
    "process_start_time_seconds",
];
