//! Usage that survives a rollback. TODO
use crate::error::{Code, Error};
use crate::id::Id;
pub(super) fn record(_t: &Id, _m: &str, _a: i64, _k: Option<&str>) -> Result<bool, Error> {
    Err(Error::new(Code::NotReady, "todo"))
}
