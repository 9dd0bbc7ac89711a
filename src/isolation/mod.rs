//! Guards around what row security does not reach: statements that tell of rows which they do not show, hold up other tenants, or
//! leave something behind in a pooled session.
//!
//! | module | guards |
//! |---|---|
//! | [`subject`] | who is guarded, and what |
//! | [`bypass`] | protected tables, against functions and views of roles that bypass row security, and in a restore |
//! | [`explain`] | what plans tell: EXPLAIN, debug_print_plan, auto_explain |
//! | [`statements`] | LOCK TABLE, WITH HOLD, PREPARE, PREPARE TRANSACTION, LISTEN, ALTER ROLE, DROP OWNED |
//! | [`objects`] | triggers and foreign keys on protected tables, temporary objects, functions that act on the session |
//! | [`leftovers`] | settings, prepared statements and currval() end with the transaction, in transaction scope |
//! | [`held_cursors`] | rows of a WITH HOLD cursor are the context's that fetched them |
//! | [`ddl_guard`] | what `sql/isolation/ddl_guard.sql` needs: the catalogs before a statement, the override, and REASSIGN OWNED |
//! | [`foreign_key_check`] | foreign keys on protected tables can be added by their owner |
//! | [`hardening`] | whether `amp.harden()` was called in this database |
//! | [`advisory_locks`] | nothing: locks of a tenant's own, for who is refused PostgreSQL's |
//!
//! The hooks are PostgreSQL's choke points and not its grammar: every EXPLAIN starts an executor, every new object is announced, every
//! function is announced before it is first called. So a statement inside of a function, a DO block, a prepared statement or a rule
//! is met as the client's own.

mod advisory_locks;
mod bypass;
pub(crate) mod ddl_guard;
mod explain;
pub(crate) mod foreign_key_check;
mod hardening;
mod held_cursors;
mod leftovers;
mod objects;
pub(crate) mod statements;
mod subject;

pub(crate) use explain::check_explained;
pub(crate) use held_cursors::close_strangers;

pub(crate) fn init() {
    bypass::init();
    ddl_guard::init();
    explain::init();
    objects::init();
    leftovers::init();
    held_cursors::init();
}
