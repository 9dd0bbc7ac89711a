//! Advisory locks of one tenant: `amp.advisory_xact_lock()`, where a hardened database has taken PostgreSQL's own from its clients. The
//! same key of two tenants is two locks. They are of a kind that SQL cannot take otherwise (LOCKTAG_USERLOCK), end with the transaction,
//! and are known to the deadlock detector. Tenant and key become 79 bits of a cryptographic hash: nobody finds a key of his that makes
//! another tenant wait.

use crate::context::resolve;
use crate::error::{Error, guarded};
use crate::function::raw_function;
use crate::id::Id;
use pgrx::FromDatum;
use pgrx::pg_sys::{self, Datum, FunctionCallInfo, LOCKTAG};
use sha2::{Digest, Sha256};

/// Tells these locks from those of usage's slots, whose fourth field is smaller.
const ADVISORY: u16 = 0x8000;

raw_function! {
    /// `amp.advisory_xact_lock(key bigint) → void`
    amp_advisory_xact_lock, pg_finfo_amp_advisory_xact_lock, |fcinfo| {
        // SAFETY: this frame owns nothing; the function is STRICT with this argument.
        unsafe {
            guarded(|| {
                acquire(fcinfo, false)?;
                Ok(Datum::null())
            })
        }
    }
}

raw_function! {
    /// `amp.try_advisory_xact_lock(key bigint) → boolean`
    amp_try_advisory_xact_lock, pg_finfo_amp_try_advisory_xact_lock, |fcinfo| {
        // SAFETY: as above.
        unsafe { guarded(|| Ok(Datum::from(acquire(fcinfo, true)?))) }
    }
}

/// Takes the lock of the session's tenant that goes by the function's argument, if nobody has it or may be waited for. Errors: those of
/// the context, and of waiting.
///
/// # Safety
/// Inside of [`guarded`]; the function is STRICT with one argument, of type bigint.
unsafe fn acquire(fcinfo: FunctionCallInfo, dont_wait: bool) -> Result<bool, Error> {
    // SAFETY: by the contract above; reads a variable of the backend. The tag is complete; the lock belongs to the (sub)transaction.
    unsafe {
        let key = i64::from_datum((*fcinfo).args.as_slice(1)[0].value, false).unwrap_or_default();
        let tag = tag(pg_sys::MyDatabaseId.to_u32(), &resolve::tenant()?, key);
        let taken = pg_sys::LockAcquire(&tag, pg_sys::ExclusiveLock as _, false, dont_wait);
        Ok(taken != pg_sys::LockAcquireResult::LOCKACQUIRE_NOT_AVAIL)
    }
}

fn tag(database: u32, tenant: &Id, key: i64) -> LOCKTAG {
    // An id holds no zero byte.
    let hash = Sha256::new().chain_update(tenant.as_str()).chain_update([0]).chain_update(key.to_be_bytes()).finalize();
    LOCKTAG {
        locktag_field1: database,
        locktag_field2: u32::from_be_bytes([hash[0], hash[1], hash[2], hash[3]]),
        locktag_field3: u32::from_be_bytes([hash[4], hash[5], hash[6], hash[7]]),
        locktag_field4: ADVISORY | u16::from_be_bytes([hash[8], hash[9]]),
        locktag_type: pg_sys::LockTagType::LOCKTAG_USERLOCK as u8,
        locktag_lockmethodid: pg_sys::DEFAULT_LOCKMETHOD as u8,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(tenant: &str, key: i64) -> (u32, u32, u16) {
        let tag = tag(5, &Id::parse(tenant.as_bytes()).unwrap(), key);
        assert_eq!(tag.locktag_field1, 5);
        (tag.locktag_field2, tag.locktag_field3, tag.locktag_field4)
    }

    #[test]
    fn a_key_is_another_lock_for_another_tenant() {
        assert_eq!(fields("t1", 7), fields("t1", 7));
        assert_ne!(fields("t1", 7), fields("t2", 7));
        assert_ne!(fields("t1", 7), fields("t1", 8));
        assert_ne!(fields("t1", -1), fields("t1", i64::MAX));
    }

    #[test]
    fn no_slot_of_usage_is_such_a_lock() {
        for key in 0..1000 {
            assert!(fields("t1", key).2 >= 0x8000);
        }
    }
}
