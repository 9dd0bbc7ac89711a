//! The functions behind usage, declared in sql/usage/usage.sql.

use super::period::Day;
use super::rows::{COST, Series};
use super::slots::{CAPPED, Kind, Locks};
use super::{immediate, keys, limits, spending};
use crate::context::catalog::{self, METRICS};
use crate::context::resolve;
use crate::error::{Code, Error, guarded};
use crate::function::{raw_function, text};
use crate::id::Id;
use pgrx::FromDatum;
use pgrx::pg_sys::{self, Datum, FunctionCallInfo, NullableDatum};

/// The most that is added at once: with a bound, nobody fills up a counter for the others; a bigint holds nine million times as much.
const MAX_AMOUNT: i64 = 1_000_000_000_000;
/// The longest idempotency key, in characters.
const MAX_KEY: usize = 255;

raw_function! {
    /// `amp.record_usage(metric text, amount bigint, idempotency_key text, durability text) → boolean`
    amp_record_usage, pg_finfo_amp_record_usage, |fcinfo| {
        // SAFETY: this frame owns nothing; the function has these arguments.
        unsafe {
            guarded(|| {
                let arguments = (*fcinfo).args.as_slice(4);
                let tenant = resolve::tenant()?;
                let metric = metric(arguments[0])?;
                let amount = amount(arguments[1], "pass a whole number from 1 to 1000000000000; cost_cents is in cents")?;
                let key = key(arguments[2])?;
                let durability = if arguments[3].isnull { "NULL".to_owned() } else { text(arguments[3]) };
                let counted = match durability.as_str() {
                    "transaction" => record(&tenant, &metric, amount, key.as_deref(), c"amp.record_usage()")?,
                    "immediate" => immediate::record(&tenant, &metric, amount, key.as_deref())?,
                    other => {
                        let shown: String = other.chars().take(20).collect();
                        return Err(Error::new(Code::InvalidValue, format!("invalid durability \"{shown}\""))
                            .hint("Choose transaction (gone if it rolls back) or immediate (kept whatever becomes of it)."));
                    }
                };
                Ok(Datum::from(counted))
            })
        }
    }
}

raw_function! {
    /// `amp.charge(cents bigint, idempotency_key text) → boolean`
    amp_charge, pg_finfo_amp_charge, |fcinfo| {
        // SAFETY: this frame owns nothing; the function has these arguments.
        unsafe {
            guarded(|| {
                let arguments = (*fcinfo).args.as_slice(2);
                let tenant = resolve::tenant()?;
                let cents = amount(arguments[0], "pass a whole number of cents from 1 to 1000000000000")?;
                let key = key(arguments[1])?;
                Ok(Datum::from(record(&tenant, COST, cents, key.as_deref(), c"amp.charge()")?))
            })
        }
    }
}

raw_function! {
    /// `amp.add_usage(tenant text, metric text, amount bigint) → void`
    amp_add_usage, pg_finfo_amp_add_usage, |fcinfo| {
        // SAFETY: this frame owns nothing; the function is STRICT with these arguments.
        unsafe {
            guarded(|| {
                let arguments = (*fcinfo).args.as_slice(3);
                let tenant = tenant_argument(arguments[0])?;
                let metric = metric(arguments[1])?;
                let amount = i64::from_datum(arguments[2].value, false).unwrap_or_default();
                add(&tenant, &metric, amount)?;
                Ok(Datum::null())
            })
        }
    }
}

raw_function! {
    /// `amp.subtract_usage(tenant text, metric text, day date, amount bigint) → void`
    amp_subtract_usage, pg_finfo_amp_subtract_usage, |fcinfo| {
        // SAFETY: this frame owns nothing; the function is STRICT with these arguments; a date is stored as its day's number.
        unsafe {
            guarded(|| {
                let arguments = (*fcinfo).args.as_slice(4);
                let (tenant, metric) = (tenant_argument(arguments[0])?, metric(arguments[1])?);
                let day = Day(arguments[2].value.value() as i32);
                subtract(&tenant, &metric, day, i64::from_datum(arguments[3].value, false).unwrap_or_default())?;
                Ok(Datum::null())
            })
        }
    }
}

raw_function! {
    /// `amp.try_usage_slots(tenant text, slots integer[]) → boolean`
    amp_try_usage_slot, pg_finfo_amp_try_usage_slot, |fcinfo| {
        // SAFETY: this frame owns nothing; the function is STRICT with a text and an integer.
        unsafe {
            guarded(|| {
                let arguments = (*fcinfo).args.as_slice(2);
                let locks = Locks::of(&tenant_argument(arguments[0])?);
                let slot = u16::try_from(arguments[1].value.value() as i32).unwrap_or(0);
                let mut kinds = [Kind::Count, Kind::Day, Kind::Month].into_iter();
                Ok(Datum::from(slot < 4096 && kinds.all(|kind| locks.try_slot(kind, slot).is_some())))
            })
        }
    }
}

raw_function! {
    /// `amp.generation_allowed() → boolean`
    amp_generation_allowed, pg_finfo_amp_generation_allowed, |_fcinfo| {
        // SAFETY: this frame owns nothing.
        unsafe { guarded(|| Ok(Datum::from(spending::is_allowed(&resolve::tenant()?)?))) }
    }
}

raw_function! {
    /// `amp.require_spending() → boolean`: of a policy; asked once by each statement, however many rows it inserts.
    amp_require_spending, pg_finfo_amp_require_spending, |fcinfo| {
        // SAFETY: this frame owns nothing. fn_extra is ours alone, lives as long as one execution of the statement, and is never followed.
        unsafe {
            let extra = &raw mut (*(*fcinfo).flinfo).fn_extra;
            if (*extra).is_null() {
                guarded(|| spending::check_allowed(&resolve::tenant()?));
                *extra = extra.cast();
            }
            Datum::from(true)
        }
    }
}

/// Counts, once for a key. False if this key has counted before.
fn record(tenant: &Id, metric: &str, amount: i64, key: Option<&str>, command: &std::ffi::CStr) -> Result<bool, Error> {
    // SAFETY: NUL-terminated; these raise, or do nothing.
    unsafe {
        pg_sys::PreventCommandIfReadOnly(command.as_ptr());
        pg_sys::PreventCommandIfParallelMode(command.as_ptr());
    }
    if let Some(key) = key
        && !keys::note(tenant, key, metric, amount)?
    {
        return Ok(false);
    }
    add(tenant, metric, amount)?;
    Ok(true)
}

fn add(tenant: &Id, metric: &str, amount: i64) -> Result<(), Error> {
    if metric == COST {
        return spending::charge(tenant, amount);
    }
    count(tenant, metric, Day::of_transaction(), amount)
}

/// Adds to a counter of anything but spending.
pub(super) fn count(tenant: &Id, metric: &str, day: Day, amount: i64) -> Result<(), Error> {
    let slot = Locks::of(tenant).take_any(Kind::Count);
    for series in [Series::of_day(tenant, metric, day), Series::of_month(tenant, metric, day.month())] {
        series.add(&series.row(slot)?, amount)?;
    }
    Ok(())
}

/// Takes an amount out of a counter. Errors: 22023 it has not counted so much.
fn subtract(tenant: &Id, metric: &str, day: Day, amount: i64) -> Result<(), Error> {
    let locks = Locks::of(tenant);
    // One after the other: what two take out together is not more than there is either.
    locks.exclude(Kind::Correction, 0);
    let counter = Series::of_day(tenant, metric, day);
    let counted = counter.sum()?;
    if counted < amount {
        return Err(Error::new(
            Code::InvalidValue,
            format!("cannot take {amount} out of {metric}: {counted} were counted that day"),
        )
        .hint("Pass the day on which it was counted, and at most what was."));
    }
    let (by_day, by_month) = if metric == COST { (Kind::Day, Kind::Month) } else { (Kind::Count, Kind::Count) };
    for (series, kind) in [(counter, by_day), (Series::of_month(tenant, metric, day.month()), by_month)] {
        let free = (0..CAPPED).find(|slot| locks.try_slot(kind, *slot).is_some());
        let slot = free.unwrap_or_else(|| {
            locks.wait_for_slot(kind, 0);
            0
        });
        series.add(&series.row(slot)?, -amount)?;
    }
    Ok(())
}

/// # Safety
/// `argument` is a text that is not null.
unsafe fn tenant_argument(argument: NullableDatum) -> Result<Id, Error> {
    // SAFETY: by the contract above.
    let tenant = unsafe { text(argument) };
    Id::parse(tenant.as_bytes())
        .ok_or_else(|| Error::new(Code::InvalidValue, "invalid tenant id").hint("Pass the id of a tenant."))
}

/// # Safety
/// `argument` is a text.
unsafe fn metric(argument: NullableDatum) -> Result<String, Error> {
    // SAFETY: by the contract above.
    let metric = unsafe { text(argument) };
    if !is_metric(&metric) {
        let shown = if argument.isnull { "NULL".to_owned() } else { quoted(&metric, 50) };
        return Err(Error::new(Code::InvalidValue, format!("invalid metric {shown}"))
            .hint("Use 1 to 50 characters of a-z, 0-9 and _, such as api_calls or cost_cents."));
    }
    if !limits::metrics_are_open() && catalog::row(&METRICS, &[&metric], |_| ())?.is_none() {
        return Err(Error::new(Code::UndefinedObject, format!("metric \"{metric}\" is unknown"))
            .detail("amp.open_metrics is off: only metrics that an operator has registered are counted.")
            .hint("See amp.metrics, or have an operator call amp.register_metric()."));
    }
    Ok(metric)
}

fn is_metric(metric: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    metric.len() <= 50
        && metric.bytes().all(word)
        && metric.bytes().next().is_some_and(|first| first.is_ascii_lowercase())
}

/// # Safety
/// `argument` is a bigint.
unsafe fn amount(argument: NullableDatum, hint: &str) -> Result<i64, Error> {
    // SAFETY: by the contract above.
    let amount = unsafe { i64::from_datum(argument.value, argument.isnull) };
    amount.filter(|amount| (1..=MAX_AMOUNT).contains(amount)).ok_or_else(|| {
        let shown = amount.map_or("NULL".to_owned(), |amount| amount.to_string());
        let hint = format!("{}{}.", hint[..1].to_uppercase(), &hint[1..]);
        Error::new(Code::InvalidValue, format!("invalid amount {shown}")).hint(hint)
    })
}

/// # Safety
/// `argument` is a text.
unsafe fn key(argument: NullableDatum) -> Result<Option<String>, Error> {
    if argument.isnull {
        return Ok(None);
    }
    // SAFETY: by the contract above; as `text`, but exact: another key would be another event.
    let (bytes, key) = unsafe {
        let bytes = pg_sys::toast_raw_datum_size(argument.value) - pg_sys::VARHDRSZ;
        (bytes, if bytes <= 4 * MAX_KEY { String::from_datum(argument.value, false) } else { None })
    };
    match key {
        Some(key) if (1..=MAX_KEY).contains(&key.chars().count()) => Ok(Some(key)),
        key => {
            let given = key.map_or(format!("{bytes} bytes"), |key| format!("{} characters", key.chars().count()));
            Err(Error::new(Code::InvalidValue, "an idempotency key has 1 to 255 characters")
                .detail(format!("Given: {given}."))
                .hint("Pass the id of the request, or leave it out."))
        }
    }
}

/// The beginning of a text, as an SQL literal.
fn quoted(text: &str, most: usize) -> String {
    format!("'{}'", text.chars().take(most).collect::<String>().replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::is_metric;

    #[test]
    fn metrics_are_words() {
        for good in ["a", "api_calls", "llm2", &"x".repeat(50)] {
            assert!(is_metric(good), "{good}");
        }
        for bad in ["", "A", "2x", "_x", "a-b", "ä", "a b", "a\n", &"x".repeat(51)] {
            assert!(!is_metric(bad), "{bad}");
        }
    }
}
