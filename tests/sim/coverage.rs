//! Which counters a set of runs must have moved.

use hawser::stats::Counters;

/// Every counter counts, or stands in the list of those that cannot here.
pub fn check(counters: &Counters) {
    if std::env::var_os("HAWSER_SIM_COVERAGE").is_some() {
        for (row, count) in counters.rows() {
            if count == 0 {
                eprintln!("never: {} {:?}", row.name, row.labels);
            }
        }
    }
}
