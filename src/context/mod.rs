//! The context: the tenant (and user) that a session acts for now.
//!
//! A statement can only *claim* a context, through two settings ([`settings`]). Whether the claim holds depends on who logged
//! in ([`session`]), on what the session has proved ([`identity`](crate::identity)) and on amp's tables ([`catalog`]), and is decided at use ([`resolve`]): the first use in a transaction
//! pins the tenant, and every later one must agree. The answer is kept until something it rests on changes: a setting, the
//! end of the transaction, a row behind it (relcache invalidation), a role (syscache invalidation).
//!
//! The hooks around it: before a query runs ([`executor`]) the session hears what others changed and its tenant is pinned; when a
//! table under policies is planned ([`planner`]), they come before the statement's own conditions. A plan that was
//! made without policies, for a role that bypasses row security, ends with that role's attribute ([`stale_plan`]).
//!
//! Who may change what: any session its own settings; the extension's functions the tables; nobody the answer.

pub(crate) mod catalog;
pub(crate) mod executor;
mod functions;
mod parallel;
mod planner;
pub(crate) mod private_setting;
pub(crate) mod resolve;
pub(crate) mod session;
pub(crate) mod settings;
mod stale_plan;
pub(crate) mod transaction;

pub(crate) fn init() {
    settings::init();
    parallel::init();
    transaction::init();
    session::init();
    resolve::init();
    executor::init();
    planner::init();
    stale_plan::init();
}
