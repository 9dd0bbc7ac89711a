//! Guards around what row security does not reach.

mod ddl_guard;
mod foreign_key_check;

pub(crate) fn init() {
    ddl_guard::init();
    foreign_key_check::init();
}
