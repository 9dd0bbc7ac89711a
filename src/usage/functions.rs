//! The function behind `amp.usage_report()`, declared in sql/usage/report.sql.

use super::report;
use crate::error::{Code, Error};
use crate::function::{raw_function, return_text};
use pgrx::FromDatum;
use pgrx::pg_sys::{Datum, FunctionCallInfo};

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
                report::page(&String::from_utf8_lossy(report))
                    .map(Some)
                    .map_err(|error| Error::new(Code::InvalidDocument, "the report is not as expected").detail(error.to_string()))
            })
        }
    }
}
