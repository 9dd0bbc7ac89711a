//! Deleting from tables whose owners are strangers to the extension.
//!
//! A table's triggers and rules are its owner's code. The extension's owner is a superuser, so that code must not run with his rights, nor
//! with the operator's who called: it runs as the table's owner, the way PostgreSQL runs the actions of foreign keys
//! (ri_triggers.c), who also has row security not apply to the owner. A trigger of somebody else's than the owner's or a superuser's would run
//! with the owner's rights all the same, on the table or, after the statement, on one that a foreign key acts on: where there is one, nothing
//! is deleted (amp.refuse_strangers_triggers()). Unlike there the operation is a restricted one, as in VACUUM and REFRESH:
//! what is left for later (deferred triggers, temporary objects, held cursors) would run with the session's rights, and is refused.

use crate::error::guarded;
use crate::function::raw_function;
use crate::spi::{self, Outcome};
use pgrx::pg_sys::{self, Datum, FunctionCallInfo, Oid};
use pgrx::{FromDatum, IntoDatum};
use std::ffi::{c_char, c_int};

unsafe extern "C-unwind" {
    // Not through pgrx's guards: an error has to pass with every field it has.
    fn NewGUCNestLevel() -> c_int;
    fn AtEOXact_GUC(is_commit: bool, nest_level: c_int);
}

raw_function! {
    /// `amp.run_as_owner(relation oid, statement text, tenant text) → text`
    amp_run_as_owner, pg_finfo_amp_run_as_owner, |fcinfo| {
        // SAFETY: this frame owns nothing, so an error of the statement may jump over it; the function is STRICT with these arguments.
        unsafe {
            let arguments = (*fcinfo).args.as_slice(3);
            let (relation, statement, tenant) = (arguments[0].value, arguments[1].value, arguments[2].value);
            let (owner, statement) = guarded(|| {
                let relation = Oid::from_datum(relation, false).unwrap_or(pg_sys::InvalidOid);
                Ok((owner_of(relation), pg_sys::text_to_cstring(statement.cast_mut_ptr())))
            });
            if owner == pg_sys::InvalidOid {
                (*fcinfo).isnull = true; // dropped meanwhile
                return Datum::null();
            }
            match run(owner, statement, tenant) {
                Outcome::Selected(text) => {
                    (*fcinfo).isnull = text.is_none();
                    text.unwrap_or(Datum::null())
                }
                Outcome::Rows(rows) => guarded(|| Ok(rows.to_string().into_datum().unwrap_or(Datum::null()))),
            }
        }
    }
}

/// # Safety
/// In a transaction.
unsafe fn owner_of(relation: Oid) -> Oid {
    // SAFETY: a syscache look-up; the tuple of this cache is a row of pg_class.
    unsafe {
        let tuple = pg_sys::SearchSysCache1(pg_sys::SysCacheIdentifier::RELOID as _, relation.into());
        if tuple.is_null() {
            return pg_sys::InvalidOid;
        }
        let owner = (*pg_sys::heap_tuple_get_struct::<pg_sys::FormData_pg_class>(tuple)).relowner;
        pg_sys::ReleaseSysCache(tuple);
        owner
    }
}

/// Runs a statement with `tenant` as its parameter.
///
/// # Safety
/// In a transaction, from frames that own nothing: an error jumps over them, and the transaction's abort gives user and settings back.
unsafe fn run(owner: Oid, statement: *const c_char, tenant: Datum) -> Outcome {
    // SAFETY: the sequence of ri_triggers.c, and of VACUUM around the functions of an index.
    unsafe {
        let (mut user, mut context) = (pg_sys::InvalidOid, 0);
        pg_sys::GetUserIdAndSecContext(&mut user, &mut context);
        // What the owner's code sets is undone: a search_path of his must not be left behind in an operator's session.
        let settings = NewGUCNestLevel();
        let restrictions =
            pg_sys::SECURITY_LOCAL_USERID_CHANGE | pg_sys::SECURITY_RESTRICTED_OPERATION | pg_sys::SECURITY_NOFORCE_RLS;
        pg_sys::SetUserIdAndSecContext(owner, context | restrictions as c_int);
        guarded(|| {
            // Nor may a search_path of the operator's decide what the owner's code calls.
            pg_sys::set_config_option(
                c"search_path".as_ptr(),
                c"pg_catalog, pg_temp".as_ptr(),
                pg_sys::GucContext::PGC_USERSET,
                pg_sys::GucSource::PGC_S_SESSION,
                pg_sys::GucAction::GUC_ACTION_SAVE,
                true,
                0,
                false,
            );
            Ok(())
        });
        let outcome = spi::execute(statement, [pg_sys::TEXTOID], [tenant], false);
        AtEOXact_GUC(false, settings);
        pg_sys::SetUserIdAndSecContext(user, context);
        outcome
    }
}

raw_function! {
    /// `amp.is_own_change(xmin xid) → boolean`: whether the running transaction wrote this version of a row.
    amp_is_own_change, pg_finfo_amp_is_own_change, |fcinfo| {
        // SAFETY: this frame owns nothing; the function is STRICT with an xid, a 32-bit number.
        unsafe {
            let writer = (*fcinfo).args.as_slice(1)[0].value.value() as u32;
            guarded(|| Ok(Datum::from(pg_sys::TransactionIdIsCurrentTransactionId(writer.into()))))
        }
    }
}
