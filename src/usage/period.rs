//! Days and months in UTC, as dates are stored: days since 2000-01-01.

use pgrx::pg_sys;

const MICROSECONDS: i64 = 86_400_000_000;

/// A calendar day in UTC.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Day(pub(super) i32);

/// A calendar month in UTC, by its first day.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Month(pub(super) i32);

/// What a limit is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Period {
    Day(Day),
    Month(Month),
}

impl Day {
    /// The day on which the running transaction began: all of it counts for one day.
    pub(super) fn of_transaction() -> Day {
        // SAFETY: reads the transaction's state.
        Day::of(unsafe { pg_sys::GetCurrentTransactionStartTimestamp() })
    }

    fn of(microseconds: i64) -> Day {
        Day(i32::try_from(microseconds.div_euclid(MICROSECONDS)).unwrap_or(i32::MAX))
    }

    pub(super) fn month(self) -> Month {
        let (_, _, day) = self.calendar();
        Month(self.0 - (day - 1))
    }

    /// Year, month, day.
    fn calendar(self) -> (i32, i32, i32) {
        let (mut year, mut month, mut day) = (0, 0, 0);
        // SAFETY: computes, and writes where it is told.
        unsafe { pg_sys::j2date(self.0 + pg_sys::POSTGRES_EPOCH_JDATE as i32, &mut year, &mut month, &mut day) };
        (year, month, day)
    }
}

impl Month {
    /// The first day of the next month.
    pub(super) fn next(self) -> Month {
        Day(self.0 + 31).month()
    }
}

impl Period {
    /// `2024-01` for a month, `2024-01-31` for a day.
    pub(super) fn name(self) -> String {
        match self {
            Period::Day(day) => date(day),
            Period::Month(month) => date(Day(month.0))[..7].to_owned(),
        }
    }

    /// When it ends, ISO 8601 in UTC.
    pub(super) fn end(self) -> String {
        let next = match self {
            Period::Day(day) => Day(day.0 + 1),
            Period::Month(month) => Day(month.next().0),
        };
        format!("{}T00:00:00Z", date(next))
    }
}

fn date(day: Day) -> String {
    let (year, month, day) = day.calendar();
    format!("{year:04}-{month:02}-{day:02}")
}

#[cfg(any(test, feature = "pg_test"))]
#[pgrx::pg_schema]
mod tests {
    use super::*;
    use pgrx::prelude::*;

    #[pg_test]
    fn months_have_their_days() {
        let day = |date: &str| {
            Day(Spi::get_one::<i32>(&format!("SELECT date '{date}' - date '2000-01-01'")).unwrap().unwrap())
        };
        for (one, month, next, end) in [
            ("2024-02-29", "2024-02", "2024-03-01", "2024-03-01T00:00:00Z"),
            ("2023-12-31", "2023-12", "2024-01-01", "2024-01-01T00:00:00Z"),
            ("1999-12-31", "1999-12", "2000-01-01", "2000-01-01T00:00:00Z"),
            ("2100-02-01", "2100-02", "2100-03-01", "2100-02-02T00:00:00Z"),
        ] {
            let of = day(one).month();
            assert_eq!(Period::Month(of).name(), month);
            assert_eq!(of.next(), Month(day(next).0));
            assert_eq!(Period::Day(day(one)).name(), one);
            assert_eq!(Period::Day(day(one)).end(), end);
        }
        // A moment before midnight is the day before, on both sides of the epoch.
        assert_eq!(
            (Day::of(-1), Day::of(0), Day::of(MICROSECONDS - 1), Day::of(MICROSECONDS)),
            (Day(-1), Day(0), Day(0), Day(1))
        );
    }
}
