//! Usage and spending: counters that are exact and that nobody waits for, and limits that nobody passes, not by one cent.
//!
//! A counter is the sum of its slots. A slot belongs to one transaction at a time ([`slots`]), so that sessions of one tenant never
//! write the same row and never wait for each other's open transactions; what a transaction counted is there if it commits and gone
//! if it does not, as its rows are. How a limit is kept by slots that know nothing of each other is said, and argued for, in
//! [`spending`]; how one alert is raised however many sessions cross a threshold together, in [`alerts`]. Usage that a rollback does not
//! take back waits in shared memory for a worker that writes it: [`immediate`]. What tenants' statements cost the server, which is nobody's
//! bill, is in [`statistics`].
//!
//! Rows are read by fresh snapshots and written past the executor, as PostgreSQL writes its catalogs: it takes the instructions of one
//! more UPDATE, not of ten, works the same under every isolation level, and needs nobody's privileges. The tenant is the verified one
//! of the context, never an argument of a client's.

mod alerts;
mod functions;
mod immediate;
mod keys;
mod limits;
mod meter;
mod period;
mod report;
mod rows;
mod slots;
mod spending;
pub(crate) mod statistics;

pub(crate) fn init() {
    alerts::init();
    immediate::init();
    limits::init();
    meter::init();
    statistics::init();
}
