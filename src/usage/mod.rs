//! Usage: what tenants did, counted where it happens.

mod meter;

pub(crate) fn init() {
    meter::init();
}
