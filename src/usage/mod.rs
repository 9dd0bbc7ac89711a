//! Usage: what tenants did, beside what SQL counts in sql/usage.

pub(crate) mod statistics;

pub(crate) fn init() {
    statistics::init();
}
