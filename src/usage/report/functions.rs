//! The functions behind `amp.usage_review()` and `amp.usage_report()`, declared in sql/usage/.

use crate::context::catalog::{self, TENANTS};
use crate::error::{Code, Error, guarded};
use crate::function::{raw_function, return_text, text};
use pgrx::pg_sys::{Datum, FunctionCallInfo};
use pgrx::{FromDatum, IntoDatum};

raw_function! {
    /// `amp.still_in_account(tenants text[], account text) → text[]`: those that are in it now. Read anew, whatever the isolation level.
    amp_still_in_account, pg_finfo_amp_still_in_account, |fcinfo| {
        // SAFETY: this frame owns nothing; the function is STRICT with a text[] and a text argument.
        unsafe {
            let arguments = (*fcinfo).args.as_slice(2);
            let (tenants, account) = (arguments[0], arguments[1]);
            guarded(|| {
                let tenants = <Vec<String>>::from_datum(tenants.value, tenants.isnull).unwrap_or_default();
                let account = Some(text(account));
                catalog::at_one_moment(|moment| {
                    let mut present = Vec::with_capacity(tenants.len());
                    for tenant in tenants {
                        if moment.row(&TENANTS, &[&tenant], |row| row.get::<String>(7))?.flatten() == account {
                            present.push(tenant);
                        }
                    }
                    Ok(present.into_datum().unwrap_or(Datum::null()))
                })
            })
        }
    }
}

raw_function! {
    /// `amp.usage_page(report bytea) → text`: the page of a report, which is JSON in UTF-8.
    amp_usage_page, pg_finfo_amp_usage_page, |fcinfo| {
        // SAFETY: this frame owns nothing; the function is STRICT with one bytea argument, which its caller, an SQL function of amp's,
        // has bounded: it is for nobody else.
        unsafe {
            let report = (*fcinfo).args.as_slice(1)[0];
            return_text(fcinfo, || {
                let report = <&[u8]>::from_datum(report.value, report.isnull).unwrap_or_default();
                // In a database that says nothing of its encoding a name may be any bytes.
                super::page(&String::from_utf8_lossy(report))
                    .map(Some)
                    .map_err(|error| Error::new(Code::InvalidDocument, "the report is not as expected").detail(error.to_string()))
            })
        }
    }
}
